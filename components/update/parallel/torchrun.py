"""torchrun with a lifeline, as a program: its arguments, after the file for the exit codes of processes that failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from instar import lifeline


def main() -> int:
    """Run the processes; write `{rank: exit code}` (-n after signal n) and return 1 when one fails."""
    lifeline.hold()
    from importlib import import_module

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    torchrun = import_module("torch.distributed.run")  # its functions have no types
    try:
        torchrun.run(torchrun.parse_args(sys.argv[2:]))
    except ChildFailedError as error:
        codes = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        Path(sys.argv[1]).write_text(json.dumps(codes))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
