"""Recycling: attempts of this step become tasks of later steps (SPARK section 2). The tasks wait in a first-in, first-out cache.

    new cache = old cache - tasks attempted in these rollouts - tasks that are too old + new tasks

Beyond `max_size` tasks, the oldest are dropped. Beside the rows lies `recycler.json`. It holds the version of the templates,
the keys of recent tasks with the step that made them, and how many tasks of each kind were made in all.

The result depends on the inputs, the configuration and the seed only. So a restarted step writes the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from instar.artifact import Tasks
from instar.components.generated import rule as rules
from instar.components.generated import templates
from instar.components.generated.groups import Group, collect
from instar.components.generated.item import LABELS, Origin, is_generated, make, origin, question_of
from instar.components.reward.recycle_config import RecycleConfig
from instar.contract import Context, Metrics
from instar.errors import LedgerError
from instar.rows import RolloutRow, ScoreRow, TaskRow

if TYPE_CHECKING:
    from instar.components.reward.config import VerifyConfig

MEMORY = "recycler.json"


@dataclass(kw_only=True)
class Cache:
    """The generated tasks that wait to be tried, oldest first, and what the recycler remembers."""

    rows: list[TaskRow] = field(default_factory=list)
    recent: dict[str, int] = field(default_factory=dict)
    """Key of a task -> inner step that made it."""
    totals: dict[str, int] = field(default_factory=dict)
    """Kind -> number of tasks made so far."""


def recycle(
    tasks: Mapping[str, TaskRow],
    rollouts: Sequence[RolloutRow],
    scores: Sequence[ScoreRow],
    text_of: Callable[[RolloutRow], str],
    cache: Cache,
    config: VerifyConfig,
    ctx: Context,
) -> tuple[Cache, Metrics]:
    """Return the cache after this step, and metrics of what was made and dropped. `text_of` decodes the last action of a
    rollout."""
    settings = config.recycle or RecycleConfig()
    attempted = {rollout.task_id for rollout in rollouts}
    groups, left_out = collect(tasks, rollouts, scores, text_of, config.style, keep_truncated=settings.keep_truncated)
    dropped: Counter[str] = Counter({f"attempt_{reason}": count for reason, count in left_out.items()})
    waiting = [row for row in cache.rows if row.task_id not in attempted]
    young = [row for row in waiting if settings.max_age == 0 or age(row, ctx.step) <= settings.max_age]
    dropped["too_old"] = len(waiting) - len(young)
    recent = {key: step for key, step in cache.recent.items() if ctx.step - step < settings.remember}
    recent |= {origin(row).key: origin(row).step for row in young} if settings.remember else {}
    new = worded(picked(groups, settings, recent, ctx), settings, ctx, dropped)
    rows = young + new
    surplus = max(0, len(rows) - settings.max_size) if settings.max_size else 0
    dropped["cache_full"] = surplus
    recent |= {origin(row).key: ctx.step for row in new} if settings.remember else {}
    totals = Counter(cache.totals) + Counter(row.arm for row in new)
    after = Cache(rows=rows[surplus:], recent=recent, totals={kind: totals[kind] for kind in templates.KINDS})
    return after, _metrics(groups, new, after, dropped, ctx.step)


def age(row: TaskRow, step: int) -> int:
    """Return the age of a task in updates, from the policy that wrote its attempts to the policy that can try it after `step`."""
    return step + 1 - origin(row).step


def picked(
    groups: Sequence[Group], settings: RecycleConfig, recent: Mapping[str, int], ctx: Context
) -> list[rules.Pick]:
    """Return the tasks that the rule picks from the groups. The order is random, so the first few already have all kinds."""
    rng = np.random.Generator(np.random.PCG64(ctx.seed("recycle")))
    families = templates.FAMILIES[settings.wording]
    points = [name for name in ("P1", "P2") if name in families]
    known_wrong = families["P6"].templates != families["P5"].templates

    def fresh(key: str) -> bool:
        return key not in recent

    once, traces = settings.remember > 0, settings.wording == "words"
    chosen = rules.judges(groups, settings.rule, points, fresh, rng, once=once)
    chosen += rules.reflections(groups, settings.rule, known_wrong, traces, fresh, rng, once=once)
    return [chosen[i] for i in rng.permutation(len(chosen)).tolist()]


def worded(picks: Sequence[rules.Pick], settings: RecycleConfig, ctx: Context, dropped: Counter[str]) -> list[TaskRow]:
    """Return the picks as tasks. Prompts beyond `max_chars`, and further tasks of the same key, are counted in `dropped`."""
    rows: list[TaskRow] = []
    keys: set[str] = set()
    for number, pick in enumerate(picks):
        seed = ctx.seed(f"template/{number}")
        key = rules.key_of_pick(pick)
        index = seed % len(templates.family_of(settings.wording, pick.family).templates)
        prompt = templates.render(settings.wording, pick.family, index, **_parts(pick, settings.wording))
        if len(prompt) > settings.max_chars or (key in keys and settings.remember):
            dropped["too_long" if len(prompt) > settings.max_chars else "duplicate"] += 1
            continue
        keys.add(key)
        about = Origin(
            kind=pick.kind,
            wording=settings.wording,
            template=f"{pick.family}/{index}",
            label=LABELS[pick.kind][0 if pick.first else 1],
            parent=pick.group.parent.task_id,
            group=pick.group.group_id,
            policy=pick.group.policy,
            step=ctx.step,
            key=key,
        )
        rows.append(make(f"{pick.kind}/train/{ctx.step:06d}-{number:04d}", pick.group.parent, about, prompt, seed=seed))
    return rows


def read_cache(generated: Tasks | None, ctx: Context) -> Cache:
    """Return the cache of the step before. At step 0 there may be none.

    Raises `LedgerError` when the cache of a later step is missing, when its `recycler.json` is missing, and when its tasks were
    made with templates of another version.
    """
    if generated is None:
        if ctx.step == 0:
            return Cache()
        raise _lost(f"the generated tasks of the step before step {ctx.step}", "none")
    rows = generated.read()
    if not (generated.path / MEMORY).exists():
        if not rows:
            return Cache()
        raise _lost(f"a file {MEMORY} beside the rows", "rows without that file")
    memory = generated.read_json(MEMORY)
    if memory["templates"] != templates.VERSION:
        raise _lost(f"templates of version {templates.VERSION}", f"version {memory['templates']}")
    return Cache(rows=rows, recent=memory["recent"], totals=memory["totals"])


def write_cache(generated: Tasks, cache: Cache) -> None:
    """Write the rows and `recycler.json`."""
    generated.write(cache.rows)
    generated.write_json(MEMORY, {"templates": templates.VERSION, "recent": cache.recent, "totals": cache.totals})


def _parts(pick: rules.Pick, wording: str) -> dict[str, str]:
    """Return the texts that a template shows, by placeholder. An attempt that is known to be wrong takes the place of the
    answer."""
    shown = [a.text if pick.kind == "reflect-trace" else a.answer or "" for a in pick.shown]
    parts = {"question": question_of(pick.group.parent, wording), "answer": shown[0], "attempt": shown[0]}
    return parts | ({"answer_a": shown[0], "answer_b": shown[1]} if len(shown) == 2 else {})


def _metrics(
    groups: Sequence[Group], new: Sequence[TaskRow], cache: Cache, dropped: Counter[str], step: int
) -> Metrics:
    out: Metrics = {"recycle_groups": float(len(groups)), "recycle_cache_size": float(len(cache.rows))}
    out |= {f"recycle_made/{kind}": float(sum(row.arm == kind for row in new)) for kind in templates.KINDS}
    out |= {f"recycle_dropped/{reason}": float(count) for reason, count in sorted(dropped.items())}
    shares = (("p_right", "judge-point"), ("p_first", "judge-pair"), ("confirm_share", "reflect"))
    for name, prefix in shares:
        about = [origin(row) for row in new if row.arm.startswith(prefix)]
        if about:
            out[f"recycle_{name}"] = sum(o.label == LABELS[o.kind][0] for o in about) / len(about)
    ages = [age(row, step) for row in cache.rows]
    if ages:
        out |= {"recycle_age_mean": sum(ages) / len(ages), "recycle_age_max": float(max(ages))}
    return out


def _lost(expected: str, found: str) -> LedgerError:
    return LedgerError(
        expected=expected,
        found=found,
        where="reward.generated",
        action="resume from the ledger, because a lost cache of generated tasks cannot be made again",
    )


def summary_by_kind(
    tasks: Mapping[str, TaskRow], rollouts: Sequence[RolloutRow], scores: Sequence[ScoreRow]
) -> Metrics:
    """Return accuracy and format rate of the generated tasks that were attempted and scored, per kind, and accuracy per label.

    The accuracy per label shows two things. For judging tasks: whether the policy recognises both classes. For reflection tasks:
    whether it keeps right attempts and corrects wrong ones.
    """
    pairs_of: dict[str, list[tuple[float, float]]] = {}
    for rollout, score in zip(rollouts, scores, strict=True):
        task = tasks[rollout.task_id]
        if is_generated(task) and score.status == "scored":
            pair = (score.correct or 0.0, score.format_ok or 0.0)
            pairs_of.setdefault(task.arm, []).append(pair)
            pairs_of.setdefault(f"{task.arm}/{origin(task).label}", []).append(pair)
    out: Metrics = {}
    for name, pairs in sorted(pairs_of.items()):
        right, formatted = (math.fsum(values) / len(pairs) for values in zip(*pairs, strict=True))
        kind, _, label = name.partition("/")
        out |= (
            {f"{kind}/accuracy_{label}": right}
            if label
            else {f"{kind}/accuracy": right, f"{kind}/format_rate": formatted}
        )
    return out
