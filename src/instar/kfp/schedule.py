"""The recurring run of a chain: which cron lines the server understands, and how exactly one of a name is kept."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from itertools import pairwise

from instar.errors import ConfigError
from instar.kfp.api import KfpApi, Schedule

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_CRON: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("seconds", 0, 59, ()),
    ("minutes", 0, 59, ()),
    ("hours", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 6, _DAYS),
)
_SHORT = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = re.compile(r"@every ((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h))+")
_RANGE = re.compile(r"(?:[*?]|([0-9]{1,2}|[A-Z]{3})(?:-([0-9]{1,2}|[A-Z]{3}))?)(?:/([0-9]{1,2}))?", re.IGNORECASE)


_CYCLE = [dt.date(2001, 1, 1) + dt.timedelta(days=n) for n in range(2 * (28 * 365 + 7))]
"""Every day of twice 28 years, after which leap years meet the same days of the week again."""
_SEARCHED = dt.timedelta(days=5 * 365)
"""How far ahead the server's library looks for the next time. Where it finds none its controller asks again without end."""


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What `reconcile_schedule` did. `enabled` is False when somebody has disabled the schedule that was kept."""

    kept: str = ""
    created: str = ""
    deleted: tuple[str, ...] = ()
    enabled: bool = True


def reconcile_schedule(api: KfpApi, wanted: Schedule) -> Reconciled:
    """Leave exactly one recurring run of this name, equal to `wanted`.

    The server cannot update one, so a different one is replaced: the new one is created before the old ones are deleted,
    and a crash in between leaves two, of which the next call keeps one. One that a person disabled stays disabled.
    """
    check_cron(wanted.cron)
    found = api.find_schedules(wanted.experiment, wanted.name)
    equal = [s for s in found if s == wanted]
    kept = next((s for s in equal if s.enabled), equal[0] if equal else None)
    enabled = not found or any(s.enabled for s in found)
    created = "" if kept else api.create_schedule(replace(wanted, enabled=enabled))
    surplus = tuple(s.schedule_id for s in found if s is not kept)
    for schedule_id in surplus:
        api.delete_schedule(schedule_id)
    return Reconciled(
        kept=kept.schedule_id if kept else "",
        created=created,
        deleted=surplus,
        enabled=kept.enabled if kept else enabled,
    )


def check_cron(cron: str, where: str = "--cron") -> None:
    """Refuse what the server would refuse, take for another time, or look for without end (github.com/robfig/cron, seconds first).

    Accepted: six fields of `*`, `?`, numbers, names (JAN-DEC, SUN-SAT), ranges, steps and lists; the `@` words;
    `@every` with a Go duration above zero. `ConfigError` names `where` and the field.
    """
    if cron.startswith("@"):
        if cron in _SHORT or (_EVERY.fullmatch(cron) and re.search("[1-9]", cron)):
            return
        raise _not_cron(f"one of {', '.join(_SHORT)}, or '@every' with a duration such as 1h30m", f"'{cron}'", where)
    fields = cron.split()
    if len(fields) != len(_CRON):
        raise _not_cron("six cron fields, seconds first", f"{len(fields)} fields in '{cron}'", where)
    chosen = []
    for text, (name, low, high, words) in zip(fields, _CRON, strict=True):
        items = [_item(part, low, high, words) for part in text.split(",")]
        if None in items:
            named = f", {words[0]}-{words[-1]}" if words else ""
            expected = f"{name} from {low} to {high}{named}: values, ranges a-b, steps /n, lists, or *"
            raise _not_cron(expected, f"'{text}' in '{cron}'", where)
        chosen.append({number for item in items for number in item or ()})
    if not _comes_again(chosen[3], chosen[4], chosen[5], either=fields[3][0] not in "*?" and fields[5][0] not in "*?"):
        expected = "days that come at least once in five years"
        raise _not_cron(expected, f"day {fields[3]}, month {fields[4]}, weekday {fields[5]} in '{cron}'", where)


def _item(text: str, low: int, high: int, words: tuple[str, ...]) -> range | None:
    """Return the numbers of one item of a cron field: everything, a value or a range, each with or without a step; else None."""
    found = _RANGE.fullmatch(text)
    if found is None or (found[3] is not None and int(found[3]) == 0):
        return None
    known = {word: low + index for index, word in enumerate(words)}
    ends = [int(end) if end.isdigit() else known.get(end.upper(), -1) for end in found.group(1, 2) if end]
    if not all(low <= end <= high for end in ends) or ends != sorted(ends):
        return None
    first, last = (ends[0], ends[-1]) if ends else (low, high)
    return range(first, (high if len(ends) == 1 and found[3] else last) + 1, int(found[3] or 1))  # 5/10: from 5 on


def _comes_again(days: set[int], months: set[int], weekdays: set[int], *, either: bool) -> bool:
    """Return whether the next day is always near enough to be found. Where day and weekday are both restricted either is enough."""
    hits = [
        day
        for day in _CYCLE
        if day.month in months and (any if either else all)((day.day in days, day.isoweekday() % 7 in weekdays))
    ]
    return bool(hits) and all(b - a < _SEARCHED for a, b in pairwise(hits))


def _not_cron(expected: str, found: str, where: str) -> ConfigError:
    return ConfigError(
        expected=expected,
        found=found,
        where=where,
        action="write for example '0 0 3 * * *' for three o'clock every night",
    )
