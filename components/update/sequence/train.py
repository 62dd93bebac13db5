"""Trains on the windows of a batch, in one pass: predict, compare with the targets, take a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from instar.artifact import Rollouts, Scores
from instar.components.update.sequence.batch import Labelled
from instar.components.update.sequence.learner import Learner
from instar.components.update.sequence.losses import action_loss, batch_losses
from instar.components.update.sequence.samples import Sample, Samples
from instar.contract import Context
from instar.errors import NumericsError

Dump = Callable[[int, int], Path]


@dataclass
class Trace:
    """What the optimiser steps measured: for each name one number a step. And the wall-clock seconds of all steps."""

    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, values: dict[str, float]) -> None:
        """Append what one step measured."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


def train(learner: Learner, samples: Samples, size: int, ctx: Context, dump: Dump) -> Trace:
    """Change `learner` by one pass over the windows 0 up to `size`, in order, and return what happened.

    If a number is not finite, raise `NumericsError` before the step that would use it. `dump` saves the windows it came from.
    """
    trace, begin = Trace(), time.perf_counter()
    for start in range(0, size, learner.config.batch):
        end = min(start + learner.config.batch, size)
        sample = samples.take(torch.arange(start, end, device=learner.device))
        try:
            trace.add(step(learner, sample, f"windows {start}..{end - 1}"))
        except NumericsError as error:
            raise NumericsError(
                expected=error.expected,
                found=error.found,
                where=error.where,
                action=f"{error.action}; saved in {dump(start, end)}",
            ) from error
        ctx.heartbeat(f"optimizer step {learner.optimizer.steps}", {})
    learner.updates += 1
    trace.seconds = time.perf_counter() - begin
    return trace


def step(learner: Learner, sample: Sample, name: str) -> dict[str, float]:
    """Take one optimiser step on a minibatch and return its losses, target shift, gradient norm and learning rate.

    `loss` cannot be compared between stages: the larger beta is, the easier the mixed target is to hit. `loss/logged` can. It is
    the action term against the logged actions.
    """
    out = learner.model(*sample.inputs())
    losses = batch_losses(out, sample, learner.config.weights)
    measured = {
        "loss/logged": action_loss(out, sample, sample.logged),
        "target_shift": (sample.target - sample.logged).abs().mean(-1)[sample.mask].mean(),
    }
    measured = {name: value.detach() for name, value in (losses | measured).items()}
    numbers = torch.stack(list(measured.values())).tolist()  # one wait for the device
    if not np.isfinite(numbers).all():
        raise NumericsError(
            expected="a finite loss",
            found=", ".join(f"{key} {value:g}" for key, value in zip(measured, numbers, strict=True)),
            where=f"update.loss of {name}",
            action="look at the saved windows",
        )
    learner.optimizer.zero_grad()
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    lr = learner.optimizer.lr()
    norm = learner.optimizer.step()
    return {**dict(zip(measured, numbers, strict=True)), "grad_norm": norm, "lr": lr}


def dumper(batch: Labelled, rollouts: Rollouts, scores: Scores, folder: Path) -> Dump:
    """Return a function that saves the rollouts and scores of windows `start` up to `end`, and returns the folder."""

    def dump(start: int, end: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("rollouts", rollouts.table()), ("scores", scores.table())):
            pq.write_table(table.take(batch.rows[start:end]), folder / f"{name}.parquet")
        return folder

    return dump
