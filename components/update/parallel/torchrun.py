"""torchrun as a program that ends with the process that started it.

The first argument is the file for the exit codes of processes that failed. The others are those of torchrun.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from instar import lifeline


def main() -> int:
    """Run the processes. If one fails, write `{rank: exit code}` and return 1. The exit code after signal n is -n."""
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
