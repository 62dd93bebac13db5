"""The `instar` command.

`instar supervise` is the first process of a container. It has to start at once, so it does not import the command line.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the supervisor for `instar supervise`, and the command line for everything else."""
    if sys.argv[1:2] == ["supervise"]:
        from instar.border import ended
        from instar.pipelines.supervise import pid1

        raise SystemExit(ended(lambda: pid1.main(sys.argv[2:])))
    from instar.cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()
