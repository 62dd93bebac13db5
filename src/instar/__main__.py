"""The `instar` command. `instar supervise` is the first process of a container: it starts before anything is imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or the supervisor without it."""
    if sys.argv[1:2] == ["supervise"]:
        from instar.border import ended
        from instar.pipelines.supervise import pid1

        raise SystemExit(ended(lambda: pid1.main(sys.argv[2:])))
    from instar.cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()
