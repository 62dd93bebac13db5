"""The `instar` command. `instar supervise` is the first process of a container: it starts before anything is imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or the supervisor without it."""
    if sys.argv[1:2] == ["supervise"]:
        from instar.components.control import pid1
        from instar.errors import InstarError

        try:
            raise SystemExit(pid1.main(sys.argv[2:]))
        except InstarError as error:
            sys.stderr.write(error.render() + "\n")
            raise SystemExit(error.exit_code) from error
    from instar.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
