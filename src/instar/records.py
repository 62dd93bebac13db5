"""Results of stages that ran in containers: one record per memo key, written once.

The ledger has one writer, so the pod of a stage cannot append to it. The pod stores its outputs and then creates the object
`evolutions/<name>/records/<key>.json`. The writer of the ledger reads this record. A pod that is started again finds the
record and does nothing. If two pods run the same stage at once, the record of the first one is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from instar import plain
from instar.config import dumps
from instar.contract import NOTE
from instar.errors import LedgerError
from instar.store import ObjectStore

FIELDS = frozenset({"outputs", "metrics", "code", "time"})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Records:
    """The records of one evolution."""

    def __init__(self, store: ObjectStore, evolution: str) -> None:
        self.store, self.prefix = store, f"evolutions/{evolution}/records/"

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the record of a memo key: `outputs` (digests), `metrics`, `code` and `time`. Return None if there is none.

        Raise `LedgerError` for anything that `put` would not have written.
        """
        name = f"{self.prefix}{key}.json"
        if not self.store.exists(name):
            return None
        try:
            record = plain.loads(self.store.read(name))
        except ValueError as error:
            raise _broken(f"{error}", name) from error
        if not isinstance(record, dict) or set(record) != FIELDS:
            raise _broken(f"{sorted(record) if isinstance(record, dict) else type(record).__name__}", name)
        wrong = sorted(field for field in FIELDS if not _is_valid(field, record[field]))
        if wrong:
            raise _broken(f"{wrong[0]} {repr(record[wrong[0]])[:200]}", f"{name}:{wrong[0]}")
        return record

    def put(self, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write a record unless there is one already. Return the one that is stored."""
        if self.store.create(f"{self.prefix}{key}.json", dumps(dict(record)).encode()):
            return dict(record)
        standing = self.get(key)
        assert standing is not None  # `create` said that the name is taken, and nothing deletes records
        return standing


def _is_valid(field: str, value: Any) -> bool:
    if field == "code":
        return isinstance(value, str)
    if not isinstance(value, dict):
        return False
    if field == "outputs":
        return all(isinstance(v, str) and _DIGEST.fullmatch(v) for v in value.values())
    notes = {name for name in value if field == "time" and name.startswith(NOTE)}
    return all(isinstance(v, str) if name in notes else _is_finite(v) for name, v in value.items())


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _broken(found: str, where: str) -> LedgerError:
    return LedgerError(
        expected="a record with outputs (digests), metrics (finite numbers), time (finite numbers, and notes as text) "
        "and code (text)",
        found=found,
        where=where,
        action="delete this record and run the stage again",
    )
