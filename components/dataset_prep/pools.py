"""Makes the task pools of all arms. The result is deterministic, and no task is in two pools.

Test pools (`id`, `ood`) are filled first, then `val`, then `train`. So when a domain has too few tasks, it is training that
lacks them.

Two items are the same task when their keys are equal. That is stricter than equal text: `3+4` and `4+3` have the same key.
Operands, numbers, clues or examples in another order do not make a new task. Different tasks may have equal answers.

The solved items that a template shows are drawn before all pools. They are the same for every seed, and they are in no pool. Every
stored answer is checked with the verifier that will score it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from instar.components.dataset_prep.domains import DOMAINS, Domain, Item
from instar.components.dataset_prep.templates import FORM, SHOTS, TEMPLATES
from instar.components.generated.anchors import build as build_anchors
from instar.components.reward.verifiers import VERIFIERS, Score
from instar.errors import ContractError
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.components.dataset_prep.config import ArmConfig, PoolsConfig
    from instar.components.generated.anchors import AnchorConfig

TRIES_PER_ITEM, EXTRA_TRIES = 20, 200
SEED_RANGE = 1 << 62  # so that `seed + index` fits into a signed 64-bit column
SHOT_SEED = 0


def build_pools(config: PoolsConfig, seed_of: Callable[[str], int]) -> list[TaskRow]:
    """Return the tasks of all pools.

    `seed_of("<arm>/<split>")` gives the seed of a pool. With the seed in a row and index 0, the generator makes the same item
    again. Raises `ContractError` for an arm with too few different items, and for an item whose stored answer its verifier
    rejects.
    """
    seen: set[str] = set()
    rows: list[TaskRow] = []
    wanted = SHOTS.get(config.template, 0)
    shots = {arm.name: _shots(arm, wanted, seen) for arm in config.arms}
    for group in ("test", "val", "train"):
        for arm in config.arms:
            size = {"test": arm.test, "val": arm.val, "train": arm.train}[group]
            split = ("ood" if arm.ood else "id") if group == "test" else group
            pool = f"{arm.name}/{split}"
            seed = seed_of(pool) % SEED_RANGE
            items = _distinct(arm, pool, size, seed, seen)
            rows += [
                _row(arm, split, f"{pool}/{n:05d}", item, item_seed, config.template, shots[arm.name])
                for n, (item, item_seed) in enumerate(items)
            ]
    return rows


def _shots(arm: ArmConfig, count: int, seen: set[str]) -> list[Item]:
    """Return `count` items to show solved. Their keys are added to `seen`, so that they are in no pool."""
    return [item for item, _ in _distinct(arm, f"{arm.name}/shots", count, SHOT_SEED, seen)]


def build_tasks(pools: PoolsConfig, anchors: AnchorConfig | None, seed_of: Callable[[str], int]) -> list[TaskRow]:
    """Return all tasks: those of the pools, and the anchors if the configuration has any."""
    rows = build_pools(pools, seed_of)
    return rows + (build_anchors(rows, anchors, seed_of) if anchors is not None else [])


def _distinct(arm: ArmConfig, pool: str, size: int, seed: int, seen: set[str]) -> Iterator[tuple[Item, int]]:
    """Yield `size` items that are in no pool yet, with their seeds. Their keys are added to `seen`."""
    domain, limit = DOMAINS[arm.domain], TRIES_PER_ITEM * size + EXTRA_TRIES
    count = index = 0
    while count < size:
        if index == limit:
            raise ContractError(
                expected=f"{size} items of {pool} that no other pool holds",
                found=f"{count} after {limit} draws",
                where=f"dataset_prep.arms.{arm.name}",
                action="make the arm's pools smaller or its parameters wider",
            )
        item = domain.generate(arm.params, seed, index)
        index += 1
        key = f"{arm.domain}:{item.key}"
        if key not in seen:
            seen.add(key)
            count += 1
            yield item, seed + index - 1


def _row(
    arm: ArmConfig, split: str, task_id: str, item: Item, seed: int, template: str, shots: Sequence[Item]
) -> TaskRow:
    domain = DOMAINS[arm.domain]
    prompt = TEMPLATES[template](item, domain, shots)
    verdict = VERIFIERS[domain.verifier](str(item.reference["answer"]), item.reference)
    if not (isinstance(verdict, Score) and verdict.correct == 1.0):
        raise ContractError(
            expected=f"an answer that verifier '{domain.verifier}' accepts",
            found=f"{item.reference['answer']!r}: {verdict}",
            where=f"{task_id} (seed {seed})",
            action="correct the generator or the verifier of the domain",
        )
    reference = _json(item.reference)
    return TaskRow(
        task_id=task_id,
        arm=arm.name,
        domain=arm.domain,
        level=arm.level,
        split=split,
        prompt=prompt,
        verifier=domain.verifier,
        reference=reference,
        features=_json(item.features | question(item, domain, template)),
        content_hash=hashlib.sha256(f"{prompt}\x1f{reference}".encode()).hexdigest(),
        generator=domain.generator,
        seed=seed,
        form=FORM[template],
    )


def question(item: Item, domain: Domain, template: str) -> dict[str, str]:
    """Return the task without instructions as the feature `question`. Generated tasks ask about it.

    The templates `plain` and `terse` add no instructions, so their tasks have no such feature.
    """
    if template in ("plain", "terse"):
        return {}
    return {
        "question": item.terse
        if template == "few_shot"
        else f"{item.prompt_body}\n(The answer is {domain.answer_form}.)"
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
