"""One side of `grpo_vs_trl` in a process of its own: it takes a step for every line it reads and answers with its costs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import grpo_vs_trl_tasks as arithmetic
from grpo_vs_trl_turns import Turns


def main() -> int:
    """Run one side: `grpo_vs_trl_child.py SIDE SCRATCH SETTINGS`, the settings as JSON."""
    turns = Turns()
    import torch

    settings = argparse.Namespace(**json.loads(sys.argv[3]))
    torch.set_num_threads(settings.threads)
    rows, drawn = arithmetic.make(settings.seed, settings.iterations, settings.prompts)
    if sys.argv[1] == "instar":
        from grpo_vs_trl_instar import side
    else:
        from grpo_vs_trl_trl import side
    side(sys.argv[1], settings, rows, drawn, turns, Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
