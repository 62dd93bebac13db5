"""Writes what an update gives: the next policy and its trainer state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instar.components import policy_io

if TYPE_CHECKING:
    from instar.artifact import Policy
    from instar.components.update.learner import Learner
    from instar.components.update.stage import Outs
    from instar.components.update.trace import Outcome
    from instar.contract import Context


def publish(learner: Learner, outcome: Outcome, source: Policy, outs: Outs, ctx: Context) -> None:
    """Write the next policy and its trainer state. Both stay in memory, so that the next stages need not read them.

    Without any optimiser step the policy is the `source`, and its files are used again.
    """
    trained = bool(outcome.trace.grad_norms)
    if trained or (source.path / policy_io.RESIDENT).is_file():
        learner.export_adapter(outs.policy)
    model = learner.save(outs.trainer, outcome.trace.normalisers, ctx)
    if learner.fingerprint == learner.source:
        # A rollout raises an error when a policy with another digest gives the same answers as before (its canary). These
        # weights did not change, but they may get another digest, so the next rollout must not compare.
        ctx.resident.drop_all(policy_io.CANARY)
    if not trained:
        policy_io.keep_policy(model, source, outs.policy, ctx)
        return
    policy_io.save_policy(model, source, outs.policy, ctx, learner.fingerprint)
