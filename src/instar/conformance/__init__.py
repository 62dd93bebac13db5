"""Twenty checks of what instar needs from a store. Anybody can run them: `instar doctor --store URI`.

Some gateways ignore `If-Match` or `If-None-Match`. Nobody notices this until two runs overwrite each other.
`require_conditional` is a short form of the checks. It refuses such a store before anything is submitted.

The checks write objects below `instar-conformance/`. Stores have no delete, so all runs of the checks use the same names. Each
run also leaves three new objects of a few bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from instar.conformance import conditional, objects
from instar.conformance.tools import FOLDER, Broken
from instar.errors import InstarError, StorageError, UnavailableError
from instar.store import ObjectStore

PROBE = f"{FOLDER}/probe"
_ADVICE = (
    "use a local folder or a service with conditional writes (SeaweedFS 4, AWS S3), and no gateway that drops headers"
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one check. `needed_for` names what does not work if the check fails."""

    name: str
    passed: bool
    detail: str
    needed_for: str


CHECKS: tuple[tuple[str, Callable[[ObjectStore], str], str], ...] = (
    ("put and read", objects.put_and_read, "every artifact"),
    ("size and exists", objects.size_and_exists, "storing a blob once"),
    ("missing object", objects.missing_object, "looking up what has not run yet"),
    ("empty object", objects.empty_object, "artifacts with empty files"),
    ("names", objects.odd_names, "blobs, memo keys and claims"),
    ("file in and out", objects.file_in_and_out, "policies and task sets"),
    ("object in parts", objects.object_in_parts, "weights"),
    ("parallel writes", objects.parallel_writes, "rollout shards"),
    ("overwrite", objects.overwrite, "repairing a damaged blob"),
    ("overwrite under a reader", objects.overwrite_under_reader, "reading the head while it moves"),
    ("read your write", objects.read_your_write, "a stage that starts when its input is stored"),
    ("list by prefix", objects.list_by_prefix, "loading the ledger"),
    ("list after write", objects.list_after_write, "resuming from the last entry"),
    ("strangers refused", objects.strangers_refused, "a ledger that nobody else can write"),
    ("create once", conditional.create_once, "ledger entries"),
    ("create, 16 racers", conditional.create_race, "one winner of a claim"),
    ("swap, right tag", conditional.swap_right_tag, "moving the head of an evolution"),
    ("swap, wrong tag", conditional.swap_wrong_tag, "a late run that must not move the head back"),
    ("swap, missing object", conditional.swap_missing, "a head that was never made"),
    ("swap, 8 writers x 10", conditional.swap_counter, "exactly one successor run"),
)


def run(store: ObjectStore) -> Iterator[Result]:
    """Yield the result of each check. If the service is down or refuses the key, raise an error: no check has failed then.

    Do not run the checks twice at the same time on one store. They would disturb each other, because they write the same names.
    """
    store.list(f"{FOLDER}/")
    for name, check, needed_for in CHECKS:
        try:
            passed, detail = True, check(store)
        except Broken as broken:
            passed, detail = False, str(broken)
        except UnavailableError:
            raise
        except InstarError as error:
            passed, detail = False, f"{type(error).__name__}: {error.found}"
        yield Result(name=name, passed=passed, detail=detail, needed_for=needed_for)


def require(results: list[Result], where: str) -> None:
    """Raise `StorageError` with the names of the checks that failed, if any failed."""
    failed = [result.name for result in results if not result.passed]
    if failed:
        raise StorageError(
            expected=f"a store that passes all {len(results)} checks",
            found=f"{len(failed)} failed: {'; '.join(failed)}",
            where=where,
            action=_ADVICE,
        )


def require_conditional(store: ObjectStore) -> None:
    """Raise `StorageError` unless the store refuses a second create and a wrong swap, and accepts a right swap.

    This takes a few requests and leaves the object `instar-conformance/probe`. It may run several times at the same time.
    """
    store.create(PROBE, b"probe")
    if store.create(PROBE, b"second create"):
        raise _ignored(store, "a second create of the same object that succeeded (If-None-Match)")
    if store.swap(PROBE, b"wrong swap", conditional.WRONG_TAG):
        raise _ignored(store, "a swap with a wrong tag that succeeded (If-Match)")
    for _ in range(100):  # another process may be swapping the same object
        seen = store.read_tagged(PROBE)
        if seen is not None and store.swap(PROBE, secrets.token_bytes(8), seen.tag):
            return
    raise _ignored(store, "no swap with the right tag that succeeded (If-Match)")


def _ignored(store: ObjectStore, found: str) -> StorageError:
    return StorageError(
        expected="a store that obeys the condition of a write", found=found, where=store.uri, action=_ADVICE
    )
