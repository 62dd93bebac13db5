"""Predicts how long the stages of a plan compute: from throughput for sampling, from arithmetic for updates."""

from __future__ import annotations

from instar.pipelines.cost.case import Case
from instar.pipelines.cost.sizes import answers
from instar.pipelines.trace import Node


def work_s(node: Node, case: Case) -> float:
    """Return the seconds of work of a stage, times `case.scale`. Curriculum, reward and gathering are taken as 0."""
    return case.scale * _predicted_s(node, case)


def _predicted_s(node: Node, case: Case) -> float:
    r = case.recipe
    if node.kind == "rollout":
        return _rollout_s(case)  # shards sample side by side
    if node.kind == "update":
        return _update_s(case)
    if node.kind == "fused":
        return r.inner_steps * (_rollout_s(case) + _update_s(case))
    if node.kind == "evaluate":
        gpus = min(case.gpus or 1, case.constants.gpus_per_node)
        num_answers = answers(node.config, case.text.dataset_prep.pools.arms)
        return _sampling_s(num_answers, node.config.max_new_tokens, gpus, case)
    return 0.0


def _rollout_s(case: Case) -> float:
    drawn = case.recipe.curriculum.slots * case.recipe.curriculum.group_size
    return _sampling_s(drawn, case.text.rollout.max_new_tokens, case.gpus or 1, case)


def _sampling_s(num_answers: int, max_tokens: int, gpus: int, case: Case) -> float:
    c, smaller = case.constants, 8e9 / case.params
    throughput = num_answers * max_tokens * c.length_share / (c.rollout_tokens_per_s * smaller * gpus)
    return max(throughput, max_tokens / (c.answer_tokens_per_s * smaller))


def _update_s(case: Case) -> float:
    """Return the seconds of an update. Forward and backward pass are 6 FLOP per parameter and token.

    Checkpointing adds another forward pass, and so does a reference.
    """
    c, r, curriculum = case.constants, case.text, case.recipe.curriculum
    drawn = curriculum.slots * curriculum.group_size
    tokens = drawn * r.rollout.max_new_tokens * c.length_share * r.update.epochs
    passes = 6 + 2 * (r.update.gradient_checkpointing == "on") + 2 * (r.update.kl.place != "none")
    return passes * case.params * tokens / (c.mfu * c.flops * max(case.gpus, 1))
