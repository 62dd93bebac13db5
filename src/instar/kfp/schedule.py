"""The recurring run of a chain: which cron lines the server understands, and how exactly one of a name is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

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
    """Refuse what the server would refuse or take for another time (github.com/robfig/cron, seconds first).

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
    for text, (name, low, high, words) in zip(fields, _CRON, strict=True):
        if not all(_is_range(part, low, high, words) for part in text.split(",")):
            named = f", {words[0]}-{words[-1]}" if words else ""
            expected = f"{name} from {low} to {high}{named}: values, ranges a-b, steps /n, lists, or *"
            raise _not_cron(expected, f"'{text}' in '{cron}'", where)


def _is_range(text: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    """Return whether this is one item of a cron field: everything, a value or a range, each with or without a step."""
    found = _RANGE.fullmatch(text)
    if found is None or (found[3] is not None and int(found[3]) == 0):
        return False
    known = {word: low + index for index, word in enumerate(words)}
    ends = [int(end) if end.isdigit() else known.get(end.upper(), -1) for end in found.group(1, 2) if end]
    return all(low <= end <= high for end in ends) and ends == sorted(ends)


def _not_cron(expected: str, found: str, where: str) -> ConfigError:
    return ConfigError(
        expected=expected,
        found=found,
        where=where,
        action="write for example '0 0 3 * * *' for three o'clock every night",
    )
