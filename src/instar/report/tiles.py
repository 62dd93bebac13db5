"""The headline numbers of a page."""

from __future__ import annotations

from instar.report.charts.continuous import signed
from instar.report.data import MASTERED, Data
from instar.report.evaluations import SPLIT
from instar.timeline import Elapsed

SPLITS = {"val": "validation", "id": "test", "ood": "harder tests"}
Tile = dict[str, str]


def tiles(data: Data) -> list[Tile]:
    """Return the headline numbers: label, value, note."""
    out = _control(data) if data.continuous else _accuracy(data)
    out += _tests(data)
    out += _judge(data)
    done, planned = data.iterations
    out.append(_tile("iterations", f"{done} of {planned}", f"{len(data.steps)} inner steps, champion: {data.champion}"))
    if data.rollouts:
        out.append(_rollouts(data))
    whole = spent(data.elapsed)
    if whole is not None:
        out.append(
            _tile("goodput", f"{1 - whole.overhead_share:.1%}", f"a stage worked; overhead {whole.overhead_share:.1%}")
        )
    cpu = sum(c.cpu_s for c in data.costs)
    out.append(
        _tile("CPU time", duration(cpu), f"{duration(sum(c.wall_s for c in data.costs))} of wall time in stages")
    )
    return out


def _accuracy(data: Data) -> list[Tile]:
    base, best = data.macro(0), data.macro(data.champion)
    if not base or not best:
        return []
    arms = sum(a.split == SPLIT and a.iteration == 0 and bool(a.arm) for a in data.curve)
    return [
        _tile(
            "mean accuracy, base to champion",
            f"{percent(base.value)} → {percent(best.value)}",
            f"validation; champion between {percent(best.low)} and {percent(best.high)}",
        ),
        _tile(
            "levels mastered",
            f"{data.mastered(0)} → {data.mastered(data.champion)} of {arms}",
            f"{percent(MASTERED)} or more right",
        ),
    ]


def _judge(data: Data) -> list[Tile]:
    """Return the tiles of the judge on the anchors and of reflection.

    Reflection is shown for the first test split, or for the validation tasks if there is no test yet.
    """
    if data.judge is None:
        return []
    out = []
    base, now = data.judge.after(0), data.judge.after(data.champion)
    if base and now:
        note = f"balanced accuracy, 50% is guessing; champion between {percent(now.low)} and {percent(now.high)}"
        out.append(_tile("judges given answers", f"{percent(base.value)} → {percent(now.value)}", note))
    tested = [r for r in data.judge.tested() if r.who == "champion"]
    reflected = tested[0] if tested else next((r for r in data.judge.watched() if r.iteration == data.champion), None)
    if reflected is not None:
        split = SPLITS.get(reflected.split, reflected.split)
        note = f"{split}, champion, {reflected.calls:.1f} calls a question; {reflected.reason}"
        out.append(
            _tile("before and after reflection", f"{percent(reflected.plain)} → {percent(reflected.after.value)}", note)
        )
    return out


def _control(data: Data) -> list[Tile]:
    """Return the tiles of the champion's score, with the best score of all iterations in the note, and of the gap to probes."""
    base, champion, best = data.macro(0), data.macro(data.champion), data.best()
    if not base or not champion or not best or not data.continuous:
        return []
    who = "last" if data.champion == data.iterations[0] else "champion"
    beside = "; the best of all iterations"
    if best.iteration != data.champion:
        beside = f"; best {best.value:.2f} after iteration {best.iteration}"
    note = f"validation, between {champion.low:.2f} and {champion.high:.2f}{beside}"
    out = [_tile(f"normalised score, base to {who}", f"{_score(base.value)} → {_score(champion.value)}", note)]
    gap = data.continuous.gap()
    if gap is not None:
        latest = [(t, scores[-1]) for t in data.continuous.targets if (scores := data.continuous.of(t))]
        reached = "; ".join(f"{signed(t.asked)} gets {signed(t.reached(s.value))}" for t, s in latest)
        out.append(
            _tile(
                "follows the asked return",
                f"{gap:+.2f}".replace("-", "\u2212"),
                f"score at the target minus at probes; {reached}",
            )
        )
    return out


def _tests(data: Data) -> list[Tile]:
    out = []
    shown = _score if data.continuous else percent
    by = "+.2f" if data.continuous else "+.1%"
    for before, after, comparison in data.tests:
        note = f"champion between {shown(after.low)} and {shown(after.high)}"
        if comparison and comparison.get("difference") is not None:
            gain, low, high = (f"{comparison[name]:{by}}" for name in ("difference", "low", "high"))
            note = f"gain {gain}, between {low} and {high}"
        label = f"{SPLITS.get(after.split, after.split)} ({after.split})"
        out.append(_tile(label, f"{shown(before.value)} → {shown(after.value)}", note))
    return out


def _rollouts(data: Data) -> Tile:
    if data.continuous is None:
        return _tile("rollouts", f"{data.rollouts:,}", "sampled for training")
    steps = sum(tier.steps for tier in data.continuous.tiers)
    count = sum(len(tier.returns) for tier in data.continuous.tiers)
    return _tile("windows", f"{data.rollouts:,}", f"learned from, of {steps:,} logged steps in {count:,} episodes")


def spent(iterations: list[Elapsed]) -> Elapsed | None:
    """Return the wall time of all iterations together, or None before the first gate."""
    if not iterations:
        return None
    return Elapsed(
        iteration=iterations[-1].iteration,
        at=iterations[-1].at,
        elapsed_s=sum(e.elapsed_s for e in iterations),
        work_s=sum(e.work_s for e in iterations),
        idle_s=sum(e.idle_s for e in iterations),
    )


def duration(seconds: float) -> str:
    """Return seconds for readers: `42 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 90 else f"{minutes / 60:.3g} h"


def percent(value: float) -> str:
    """Return a share as a whole percentage, for example `42%`."""
    return f"{100 * value:.0f}%"


def share(value: float | None) -> str:
    """Return a share as a percentage with one decimal, or a dash if it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}%"


def _score(value: float) -> str:
    return f"{value:.2f}".replace("-", "\u2212")


def _tile(label: str, value: str, note: str) -> Tile:
    return {"label": label, "value": value, "note": note}
