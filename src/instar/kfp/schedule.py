"""The recurring run of a chain: checks its cron line, and makes sure that there is exactly one recurring run of its name."""

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
"""Every day of 56 years. After 28 years, leap years and days of the week repeat."""
_SEARCHED = dt.timedelta(days=5 * 365)
"""How far ahead the server searches for the next time. If it finds none, its controller searches again without end."""


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What `reconcile_schedule` did. `enabled` is False if a person has disabled the schedule, and it stays disabled."""

    kept: str = ""
    created: str = ""
    deleted: tuple[str, ...] = ()
    enabled: bool = True


def reconcile_schedule(api: KfpApi, wanted: Schedule) -> Reconciled:
    """Make sure that there is exactly one recurring run of this name, and that it is equal to `wanted`.

    The server cannot update a recurring run. So one that differs is replaced: first the new one is created, then the old ones
    are deleted. A crash in between leaves two, and the next call deletes one of them. If a person has disabled the schedule,
    it stays disabled.
    """
    check_cron(wanted.cron)
    schedules = api.find_schedules(wanted.experiment, wanted.name)
    equal = [s for s in schedules if s == wanted]
    match = next((s for s in equal if s.enabled), equal[0] if equal else None)
    enabled = not schedules or any(s.enabled for s in schedules)
    created = "" if match else api.create_schedule(replace(wanted, enabled=enabled))
    surplus = tuple(s.schedule_id for s in schedules if s is not match)
    for schedule_id in surplus:
        api.delete_schedule(schedule_id)
    return Reconciled(
        kept=match.schedule_id if match else "",
        created=created,
        deleted=surplus,
        enabled=match.enabled if match else enabled,
    )


def check_cron(cron: str, where: str = "--cron") -> None:
    """Raise `ConfigError` for a cron line that the server would refuse or misread, or whose next time it would never find.

    The server uses github.com/robfig/cron, with seconds first. Accepted are
    - six fields of `*`, `?`, numbers, names (JAN-DEC, SUN-SAT), ranges, steps and lists;
    - words such as `@daily`;
    - `@every` with a Go duration above zero, for example `@every 1h30m`.
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
        expected = "days that occur at least once in five years"
        raise _not_cron(expected, f"day {fields[3]}, month {fields[4]}, weekday {fields[5]} in '{cron}'", where)


def _item(text: str, low: int, high: int, words: tuple[str, ...]) -> range | None:
    """Return the numbers that one item of a cron field stands for, or None if it is not valid.

    An item is `*`, a value or a range, with or without a step. `5/10` stands for 5, 15, 25 and so on.
    """
    match = _RANGE.fullmatch(text)
    if match is None or (match[3] is not None and int(match[3]) == 0):
        return None
    known = {word: low + index for index, word in enumerate(words)}
    ends = [int(end) if end.isdigit() else known.get(end.upper(), -1) for end in match.group(1, 2) if end]
    if not all(low <= end <= high for end in ends) or ends != sorted(ends):
        return None
    start, end = (ends[0], ends[-1]) if ends else (low, high)
    if len(ends) == 1 and match[3]:
        end = high
    return range(start, end + 1, int(match[3] or 1))


def _comes_again(days: set[int], months: set[int], weekdays: set[int], *, either: bool) -> bool:
    """Return whether the server always finds the next day, because gaps between days are shorter than `_SEARCHED`.

    With `either`, a day matches if its day of the month or its weekday matches. Otherwise both must match.
    """
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
        action="write six fields, for example '0 0 3 * * *' for three o'clock every night",
    )
