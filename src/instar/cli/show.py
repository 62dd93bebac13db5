"""`instar show` and `instar diff`: the state of an evolution, and the differences of two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from instar import provenance
from instar.ledger import Entry
from instar.pipelines import versions
from instar.status import changed, status
from instar.terminal import say
from instar.workspace import open_workspace


def show(directory: Path, as_json: bool) -> None:
    """Print the state of an evolution."""
    workspace = open_workspace(directory)
    summary, code = status(workspace), provenance.facts(workspace)
    if as_json:
        say(json.dumps({**summary, "code": code}, sort_keys=True) + "\n")
        return
    lines = [f"{name:<10} {value}" for name, value in summary.items() if name != "metrics"]
    lines += [provenance.line(name, about) for name, about in code.items()]
    width = max((30, *map(len, summary["metrics"])))
    lines += [f"  {name:<{width}} {value:.4g}" for name, value in sorted(summary["metrics"].items())]
    say("\n".join(lines) + "\n")


def diff(left: Path, right: Path) -> int:
    """Print the first entry in which two ledgers differ, and how the user's code differs.

    Return 0 if both did the same work, otherwise 1.
    """
    one_side, other_side = open_workspace(left), open_workspace(right)
    a, b = one_side.ledger, other_side.ledger
    if a.head == b.head:
        say(f"equal: {len(a.entries)} entries, head {a.head}\n{_machines(a.entries, b.entries)}")
        return 0
    for one, two in zip(a.entries, b.entries, strict=False):
        if (one.kind, one.body) != (two.kind, two.body):
            keys = changed(dict(one.body), dict(two.body))
            say(f"entry {one.seq} ({one.kind} {one.body.get('stage', '')}) differs in {', '.join(keys[:12])}\n")
            break
    say(f"{left}: {len(a.entries)} entries, head {a.head}\n{right}: {len(b.entries)} entries, head {b.head}\n")
    say(provenance.differences(one_side, other_side))
    say(_machines(a.entries, b.entries))
    return 1


def _machines(one: Sequence[Entry], two: Sequence[Entry]) -> str:
    """Return a sentence about different versions and hardware in the two ledgers, or an empty text if there are none."""
    lines = [
        line
        for a, b in zip(one, two, strict=False)
        for line in versions.changes(versions.noted([a]), versions.noted([b]))
    ]
    return versions.sentence("they ran", list(dict.fromkeys(lines)))
