"""The conditional checks of `instar.conformance`: `create` and `swap` are refused exactly when they must be.

A check takes a store and returns a few words about what it saw. It raises `Broken` if the store breaks the promise in the
check's docstring.
"""

from __future__ import annotations

import secrets

from instar.conformance.tools import FOLDER, RACERS, expect, fresh, tagged, together
from instar.store import ObjectStore

WRONG_TAG = '"00000000000000000000000000000000"'
_WRITERS, _INCREMENTS = 8, 10
_MAX_ATTEMPTS = 2 * _WRITERS * _INCREMENTS
"""A swap is refused only if another one succeeded since the read. So no writer needs more attempts than there are increments."""


def create_once(store: ObjectStore) -> str:
    """The second create of a name is refused, and the bytes of the first one stay."""
    name = fresh()
    expect(store.create(name, b"first"), "a refused create of a new name")
    expect(not store.create(name, b"second"), "a second create that succeeded")
    expect(store.read(name) == b"first", "the bytes of the refused create")
    return "second refused"


def create_race(store: ObjectStore) -> str:
    """If many writers create one name at the same time, exactly one succeeds, and its bytes are stored."""
    name = fresh()
    won = [i for i, ok in enumerate(together(RACERS, lambda i: store.create(name, b"%d" % i))) if ok]
    expect(len(won) == 1, f"{len(won)} winners of {RACERS}")
    expect(store.read(name) == b"%d" % won[0], "the bytes of a loser")
    return f"1 winner of {RACERS}"


def swap_right_tag(store: ObjectStore) -> str:
    """A swap with the tag of the object replaces the object, and the new bytes have a new tag."""
    name, first, second = f"{FOLDER}/swap", secrets.token_bytes(8), secrets.token_bytes(8)
    store.put_bytes(name, first)
    before = tagged(store, name)
    expect(before == tagged(store, name), "a tag that changes while the object does not")
    expect(store.swap(name, second, before.tag), "a refused swap with the right tag")
    after = tagged(store, name)
    expect(after.data == second, "other bytes than were swapped in")
    expect(after.tag != before.tag, "the same tag for other bytes")
    return "accepted"


def swap_wrong_tag(store: ObjectStore) -> str:
    """A swap with the tag of an older version, or with an invented tag, is refused and changes nothing."""
    name, current = f"{FOLDER}/swap-refused", secrets.token_bytes(8)
    store.put_bytes(name, secrets.token_bytes(8))
    old = tagged(store, name).tag
    store.put_bytes(name, current)
    for tag, word in ((old, "an old"), (WRONG_TAG, "a wrong")):
        expect(not store.swap(name, b"swapped", tag), f"a swap with {word} tag that succeeded")
    expect(store.read(name) == current, "the bytes of the refused swap")
    return "refused"


def swap_missing(store: ObjectStore) -> str:
    """A swap of an object that does not exist is refused and creates none."""
    name = f"{FOLDER}/missing-{secrets.token_hex(6)}"
    expect(not store.swap(name, b"swapped", WRONG_TAG), "a swap of a missing object that succeeded")
    expect(not store.exists(name), "an object made by a refused swap")
    return "refused"


def swap_counter(store: ObjectStore) -> str:
    """If threads count in one object by read and swap, no increment is lost."""
    name, total = f"{FOLDER}/counter", _WRITERS * _INCREMENTS
    store.put_bytes(name, b"0")

    def count(_: int) -> int:
        done = attempts = 0
        while done < _INCREMENTS:
            expect(attempts < _MAX_ATTEMPTS, f"a writer without success after {attempts} attempts")
            seen = tagged(store, name)
            done += store.swap(name, b"%d" % (int(seen.data) + 1), seen.tag)
            attempts += 1
        return attempts

    attempts = sum(together(_WRITERS, count))
    stored = int(store.read(name))
    expect(stored == total, f"{stored} after {total} increments")
    return f"{total} in {attempts} attempts"
