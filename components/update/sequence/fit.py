"""The supervised update, from labelled windows of logged trajectories to the next policy. It does the steps in order.

Windows are used in slot order, each once, `batch` at a time. The past policy, whose actions are mixed into the targets, is the
policy that the update starts from. So one update is one stage of Decision Mamba's self-evolution (sections 4 and 5). With
beta = 0 it is plain supervised learning of a continuous-control policy.

If a number is not finite, nothing is written, and the minibatch is saved in the scratch folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instar.components import policy_io
from instar.components.trajectories import open_trajectories
from instar.components.update.sequence import probe
from instar.components.update.sequence.batch import Labelled, join
from instar.components.update.sequence.learner import Learner, check_trainer
from instar.components.update.sequence.samples import Samples
from instar.components.update.sequence.stats import arm_stats
from instar.components.update.sequence.train import Trace, dumper, train
from instar.contract import PERF, Context, Metrics
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.update.sequence.config import SequenceConfig
    from instar.components.update.stage import Ins, Outs


def fit(ins: Ins, outs: Outs, config: SequenceConfig, ctx: Context) -> Metrics:
    """Train the policy on the windows of one batch. `batch.join` and `learner` refuse inputs that do not fit."""
    check_trainer(ins.policy, ins.trainer, ins.reference, ctx)
    data = open_trajectories(ins.data, ctx.resident, "update")
    learner = Learner(policy_io.take_model(ins.policy, ctx), config, ins.trainer)
    model = learner.model
    batch = join(ins.batch, ins.rollouts, ins.scores, ins.policy, data, model.arch.window, model.task.return_scale)
    samples = Samples(data, batch, model, learner.device)

    rows = probe.choose(batch.arm, len(batch.arms), config.probe)
    before = probe.losses(model, samples, rows, config.weights, ctx)
    dump = dumper(batch, ins.rollouts, ins.scores, ctx.scratch / "bad-batch")
    trace = train(learner, samples, batch.size, ctx, dump)
    after = probe.losses(model, samples, rows, config.weights, ctx)
    cosine = probe.gradient_cosine(model, samples, probe.spread(rows, config.batch)) if batch.beta.any() else 1.0

    stats = arm_stats(batch, rows, before, after)
    outs.stats.write(stats)
    weights = learner.save(outs.trainer)
    policy_io.save_policy(model, ins.policy, outs.policy, ctx, weights)
    return collect(batch, trace, stats, cosine)


def collect(batch: Labelled, trace: Trace, stats: list[ArmStatsRow], cosine: float | None) -> Metrics:
    """Return the metrics of an update.

    Means over optimiser steps: `loss` and its parts; `loss/logged`, the loss against the logged actions, which can be compared
    between stages; `target_shift`, the mean of |target - a| for actions in [-1, 1]; `grad_norm`; `lr`.
    `loss_before` and `loss_after` are of the probed windows. Each arm is weighted by its share of the batch.
    """
    arms = {row.arm: ((row.sum_loss or 0.0), (row.sum_loss_change or 0.0), row.num_rollouts) for row in stats}
    before = sum(loss for loss, _, _ in arms.values()) / batch.size
    change = sum(change for _, change, _ in arms.values()) / batch.size
    out: Metrics = {name: float(np.mean(values)) for name, values in trace.values.items()}
    out |= {
        "updates": float(len(trace.values["loss"])),
        "num_windows": float(batch.size),
        "num_steps": float(batch.windows.lengths.sum()),
        "beta": float(batch.beta.mean()),
        "loss_before": before,
        "loss_after": before - change,
        f"{PERF}windows_per_s": batch.size / trace.seconds,
    }
    for name, (loss, fall, size) in arms.items():
        out |= {f"arm/{name}/loss_before": loss / size, f"arm/{name}/loss_change": fall / size}
    return out | ({} if cosine is None else {"cosine_pser": cosine})
