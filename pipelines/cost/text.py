"""A plan as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from instar.pipelines.cost.plan import LIMIT, Plan, remedy
from instar.pipelines.cost.run import pull_seconds
from instar.pipelines.cost.sizes import policy_bytes

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
STORES = (4.0, 10.0, 40.0)
"""Total bandwidths of a store that the plan compares, in GB/s."""
CAUSES = ("pods", "engine", "trainer", "bytes", "hashes")


def render(plan: Plan) -> str:
    """Return the plan: fixed seconds per segment, bytes per class, pulls, and what keeps overhead within the limit."""
    case, recipe = plan.case, plan.case.recipe
    where = f"{_count(case.gpus, 'GPU')} on {_count(case.machines, 'node')}" if case.gpus else "CPU pods"
    lines = [
        f"{recipe.name} {recipe.scale}: {where}, {case.params / 1e9:.3g}B parameters",
        f"{recipe.clock}, {_count(recipe.iterations, 'iteration')} of {_count(recipe.inner_steps, 'inner step')}, "
        f"{plan.unroll} per segment"
        + (f", rollout in {recipe.rollout.shards} shards" if recipe.rollout.shards > 1 else ""),
        "",
        *_segments(plan),
        "",
        *_bytes(plan),
        "",
        *_pulls(plan),
        "",
        f"predicted overhead {plan.overhead:.1%} (limit {LIMIT:.0%})",
    ]
    if plan.overhead > LIMIT:
        lines.append(f"would keep the limit: {remedy(plan)}")
    return "\n".join(lines) + "\n"


def _segments(plan: Plan) -> list[str]:
    head = [
        "segment",
        "runs",
        "tasks",
        "pods",
        "in series",
        *(f"{c} s" for c in CAUSES),
        "fixed s",
        "work s",
        "overhead",
    ]
    runs = {"begin": 1, "iterate": -(-plan.case.recipe.iterations // plan.unroll), "finish": 1}
    rows = [
        [
            name,
            runs[name],
            s.tasks,
            s.pods,
            len(s.chain),
            *(f"{s.fixed.get(c, 0.0):.0f}" for c in CAUSES),
            f"{s.fixed_s:.0f}",
            f"{s.work_s:.0f}",
            f"{s.overhead:.1%}",
        ]
        for name, s in plan.segments.items()
    ]
    in_series = ", ".join(
        f"{n} {name}" if n > 1 else name for name, n in Counter(plan.segments["iterate"].chain).items()
    )
    return [*table([head, *rows]), f"iterate, in series: {in_series}"]


def _bytes(plan: Plan) -> list[str]:
    classes = sorted({*plan.stored, *plan.pulled}, key=lambda k: -plan.stored.get(k, 0) - plan.pulled.get(k, 0))
    rows = [[k, human(plan.stored.get(k, 0)), human(plan.pulled.get(k, 0))] for k in classes]
    return table([["bytes per iteration", "stored", "read"], *rows])


def _pulls(plan: Plan) -> list[str]:
    case, c = plan.case, plan.case.constants
    weights = case.params * policy_bytes(case)
    seconds = [f"{pull_seconds(c, weights, weights * case.machines, store):.3g} s" for store in STORES]
    rows: list[list[object]] = [
        ["one policy on every node", *(f"at {store:g} GB/s" for store in STORES), "pods: ParallelFor", "gang"],
        [human(weights * case.machines), *seconds, 1 + 3 * case.machines, 2 + case.machines],
    ]
    return table(rows)


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Return rows as aligned columns, the first to the left and the others to the right."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in text) for i in range(len(text[0]))]
    return [
        "  ".join(f"{row[0]:<{widths[0]}}" if not i else f"{cell:>{widths[i]}}" for i, cell in enumerate(row))
        for row in text
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def human(number: float) -> str:
    """Return a number of bytes as people write it, in powers of ten."""
    for unit, name in UNITS:
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"
