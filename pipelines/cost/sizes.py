"""Predicts how large every artifact is, and which artifacts a node moves."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from instar import contract
from instar.components.dataset_prep.config import ArmConfig
from instar.components.dataset_prep.imported_config import ImportedArm
from instar.components.evaluate.config import AnswerConfig
from instar.contract import Stage
from instar.pipelines.cost.case import Case
from instar.pipelines.trace import Graph, Node


def read(node: Node, case: Case) -> list[tuple[str, float]]:
    """Return class and bytes of every artifact that a stage node fetches. The stage may read only some of them."""
    kinds = _classes(node.stage, "ins", getattr(node.config, "reads", ())) if node.stage else {}
    parts = {ref: name for name, ref in node.inputs.items()}  # the same artifact on two ports is fetched once
    ports = [contract.port_of(name) for name in parts.values()]
    shards = {"parts": case.recipe.rollout.shards}
    return [(kinds[port], _size(kinds[port], port, case, port == "reference") / shards.get(port, 1)) for port in ports]


def written(node: Node, case: Case) -> list[tuple[str, float]]:
    """Return class and bytes of every artifact that a stage node stores."""
    kinds = _classes(node.stage, "outs", getattr(node.config, "writes", ())) if node.stage else {}
    shards = node.shard.total if node.shard else 1
    return [(kind, _size(kind, port, case, node.kind == "dataset_prep") / shards) for port, kind in kinds.items()]


@cache
def _classes(stage: Stage[Any, Any, Any], side: Literal["ins", "outs"], asked: tuple[str, ...]) -> dict[str, str]:
    """Return the artifact classes of the ports by name, for a configuration that asks for `asked`."""
    return {port: kind.__name__ for port, (kind, _) in contract.requested(getattr(stage, side), asked).items()}


def _size(kind: str, port: str, case: Case, base: bool) -> float:
    """Return the bytes of an artifact of class `kind` on `port`. `base` says that a policy is the base model."""
    c, r, drawn = case.constants, case.text, case.recipe.curriculum
    if port == "data":  # logged trajectories; a recipe that samples text has none
        return c.empty_bytes
    rollouts, arms = drawn.slots * drawn.group_size, r.dataset_prep.pools.arms
    words = answers(r.evaluate, arms) * r.evaluate.max_new_tokens * c.length_share
    sizes = {
        "Policy": case.params * (c.base_bytes if base else policy_bytes(case)),
        "TrainerState": case.params * _state_bytes(case),
        "Rollouts": rollouts * r.rollout.max_new_tokens * c.length_share * c.rollout_bytes,
        "Scores": rollouts * c.score_bytes,
        "Batch": drawn.slots * c.slot_bytes,
        "Tasks": sum(sum(arm.sizes().values()) for arm in arms) * c.task_bytes,
        "Evaluation": words * c.answer_bytes,
    }
    return sizes.get(kind, c.small_bytes)


def policy_bytes(case: Case) -> float:
    """Return the bytes per parameter of a trained policy."""
    return case.constants.policy_bytes if case.text.update.dtype == "bfloat16" else case.constants.master_bytes


def _state_bytes(case: Case) -> float:
    c, update = case.constants, case.text.update
    if update.lora:
        return c.master_bytes  # the unmerged matrices; adapters are small
    return c.moment_bytes + (c.master_bytes if update.dtype == "bfloat16" else 0.0)


def answers(config: AnswerConfig, arms: Sequence[ArmConfig | ImportedArm]) -> int:
    """Return how many answers an evaluation samples."""
    sizes = [min(arm.sizes()[split], config.tasks_per_arm or sys.maxsize) for arm in arms for split in config.splits]
    judged = config.reflect.max_calls - 1 if config.reflect else int(config.judge is not None)
    return sum(sizes) * (config.samples + config.greedy + judged)


def traffic(graph: Graph, case: Case) -> tuple[dict[str, float], dict[str, float]]:
    """Return the bytes that an iteration stores and those that its pods read, by class."""
    c = case.constants
    stored: Counter[str] = Counter()
    pulled: Counter[str] = Counter()
    for node in graph.nodes:
        for kind, size in written(node, case):
            stored[kind] += round(size)
        for kind, size in read(node, case):
            pulled[kind] += round(size) * (case.gang(node) if kind == "Policy" else 1)
        stored["ledger"] += round(c.record_bytes)
        stored["pointers"] += round(c.pointer_bytes) * len(written(node, case))
        pulled["pointers"] += round(c.pointer_bytes) * len(node.inputs)
    return dict(stored), dict(pulled)
