"""Where an evolution stands, and how two differ: what `show`, `diff` and scripts read from the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from instar.ledger import Entry
from instar.pipelines import versions
from instar.terminal import say
from instar.workspace import Workspace, open_workspace


def status(workspace: Workspace) -> dict[str, Any]:
    """Return the stable summary that `show --json` prints."""
    ledger = workspace.ledger
    opened = next(ledger.of("open"), None)
    gates, closed = list(ledger.of("gate")), next(ledger.of("close"), None)
    tested = [e for e in ledger.of("stage") if e.body["stage"] == "evaluate"]
    policy, champion = position(ledger.entries)
    body = opened.body if opened else {}
    return {
        "evolution": workspace.evolution,
        "recipe": body.get("name", ""),
        "scale": body.get("scale", ""),
        "seed": body.get("seed", 0),
        "iteration": gates[-1].body["iteration"] if gates else 0,
        "policy": policy,
        "champion": champion,
        "status": "done" if closed else "open" if ledger.entries else "empty",
        "head": ledger.head,
        "decision": "{action}: {reason}".format(**gates[-1].body["decision"]) if gates else "",
        "ending": ending(gates),
        "metrics": dict(tested[-1].body["metrics"]) if tested else {},
    }


def position(entries: Iterable[Entry]) -> tuple[str, str]:
    """Return the policy that an evolution goes on from and its champion, as `evolution.settle` decides; "" while there is none."""
    policy = champion = ""
    for entry in entries:
        if entry.kind == "stage":
            policy = entry.body["outputs"].get("policy", policy)
        elif entry.kind == "gate":
            decision = entry.body["decision"]
            if decision["promote"] or not champion:
                champion = policy
            elif decision["action"] == "rollback":
                policy = champion
    return policy, champion


def ending(gates: Sequence[Entry]) -> str:
    """Return in a sentence which policy is champion and, where that is not the last one, why; empty before the first gate."""
    if not gates:
        return ""
    last = gates[-1].body
    passed = [gate.body["iteration"] for gate in gates if gate.body["decision"]["promote"]]
    champion = passed[-1] if passed else gates[0].body["iteration"]
    after = f"the policy after iteration {champion}" if champion else "the base policy"
    if champion == last["iteration"]:
        return f"champion is {after}, the last one"
    return f"champion is {after}, not the last one (iteration {last['iteration']}): {last['decision']['reason']}"


def show(directory: Path, as_json: bool) -> None:
    """Print the state of an evolution."""
    found = status(open_workspace(directory))
    if as_json:
        say(json.dumps(found, sort_keys=True) + "\n")
        return
    lines = [f"{name:<10} {value}" for name, value in found.items() if name != "metrics"]
    width = max((30, *map(len, found["metrics"])))
    lines += [f"  {name:<{width}} {value:.4g}" for name, value in sorted(found["metrics"].items())]
    say("\n".join(lines) + "\n")


def diff(left: Path, right: Path) -> int:
    """Print the first difference of two ledgers and those of their metrics; return 0 when they did the same work."""
    a, b = open_workspace(left).ledger, open_workspace(right).ledger
    if a.head == b.head:
        say(f"equal: {len(a.entries)} entries, head {a.head}\n{_machines(a.entries, b.entries)}")
        return 0
    for one, two in zip(a.entries, b.entries, strict=False):
        if (one.kind, one.body) != (two.kind, two.body):
            keys = changed(dict(one.body), dict(two.body))
            say(f"entry {one.seq} ({one.kind} {one.body.get('stage', '')}) differs in {', '.join(keys[:12])}\n")
            break
    say(f"{left}: {len(a.entries)} entries, head {a.head}\n{right}: {len(b.entries)} entries, head {b.head}\n")
    say(_machines(a.entries, b.entries))
    return 1


def _machines(one: Sequence[Entry], two: Sequence[Entry]) -> str:
    """Return the sentence on what both computed with, entry by entry; nothing where it was the same throughout."""
    found = [
        line
        for a, b in zip(one, two, strict=False)
        for line in versions.changes(versions.noted([a]), versions.noted([b]))
    ]
    return versions.sentence("they ran", list(dict.fromkeys(found)))


def changed(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the dotted paths at which two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            p for k in sorted({*old, *new}) for p in changed(old.get(k), new.get(k), f"{where}.{k}" if where else k)
        ]
    return [] if old == new else [where]
