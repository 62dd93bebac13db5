"""What both sides of `grpo_vs_trl` are measured with: whose turn it is, what a step cost, and what was learned.

Standard output carries one JSON line per step and one for the end; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import grpo_vs_trl_tasks as arithmetic

Record = dict[str, Any]


class Turns:
    """The parent's clock: `wait` blocks until it is this side's turn, `done` hands the record of the step over."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # from here on a stray print cannot be taken for a record
        self._began = (0.0, 0.0)
        self.parts: dict[str, float] = {}

    def wait(self) -> None:
        """Block until the parent says go, then start the clock of a step."""
        if not sys.stdin.readline():
            raise SystemExit(0)
        self.parts = {}
        self._began = (time.process_time(), time.perf_counter())

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its CPU seconds added to `part` of the step."""

        def measured(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return call(*args, **options)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + time.process_time() - began

        return measured

    def done(self, record: Record) -> None:
        """Send the record of the step: what `timed` has seen, the rest as `update`, and the whole."""
        cpu, wall = time.process_time() - self._began[0], time.perf_counter() - self._began[1]
        parts = {"rollout": 0.0, "reward": 0.0} | self.parts
        parts.setdefault("update", cpu - parts["rollout"] - parts["reward"])
        self.send({**record, "cpu_s": {**parts, "whole": cpu}, "wall_s": wall})

    def send(self, record: Record) -> None:
        """Write one line."""
        self._out.write(json.dumps(record) + "\n")
        self._out.flush()


def memory() -> dict[str, float]:
    """Return the resident set now and its highest value so far, in MiB, as the kernel counts them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("rss_mib", "VmRSS"), ("peak_rss_mib", "VmHWM"))}


def counts(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Record:
    """Return what was worked on: tokens by kind, and the distinct prompts in order, which both sides must agree on."""
    seen = list(dict.fromkeys(tuple(p) for p in prompts))
    return {
        "rollouts": len(answers),
        "completion_tokens": sum(map(len, answers)),
        "tokens": sum(map(len, prompts)) + sum(map(len, answers)),
        "prompts": [list(p) for p in seen],
    }


def examine(folder: Path, rows: Sequence[Any], settings: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Return the greedy accuracy of a policy folder on the examination, by level and over all items."""
    from instar.artifact import Policy
    from instar.components.reward.verifiers import Score, verify
    from instar.components.rollout.config import EngineConfig
    from instar.components.rollout.engine import Request
    from instar.components.rollout.engines import open_engine
    from instar.components.tokenizer import load_tokenizer
    from instar.contract import Context
    from instar.manifest import manifest_of

    policy = Policy(folder, manifest_of(folder, "Policy").digest)
    ctx = Context(evolution="examination", step=0, stage="evaluate", scratch=scratch)
    tokenizer, kept = load_tokenizer(policy), [row for row in rows if row.split == "ood"]
    requests = [Request(request_id=r.task_id, prompt_ids=tokenizer.encode(r.prompt), seeds=[0]) for r in kept]
    engine = open_engine(
        EngineConfig(dtype=settings.engine_dtype, device="cpu", max_rows=settings.max_rows), policy, ctx
    )
    replies = engine.sample(requests, max_new_tokens=settings.max_new_tokens, temperature=0.0, stop=(arithmetic.STOP,))
    right: dict[str, list[float]] = {}
    for row, (sample,) in zip(kept, replies, strict=True):
        verdict = verify(row, tokenizer.decode(sample.token_ids), "line")
        right.setdefault(row.arm, []).append(verdict.correct if isinstance(verdict, Score) else 0.0)
    found = {level: sum(values) / len(values) for level, values in right.items()}
    return found | {"all": sum(map(sum, right.values())) / sum(map(len, right.values()))}
