"""The state of an evolution, read from its ledger, and the dotted paths at which two plain values differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from instar.ledger import Entry
from instar.workspace import Workspace


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
    """Return the policy from which an evolution continues, and its champion, as `evolution.settle` decides.

    Each is "" while there is none.
    """
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
    """Return a sentence that says which policy is champion. If it is not the last policy, the sentence says why.

    The text is empty before the first gate.
    """
    if not gates:
        return ""
    latest = gates[-1].body
    passed = [gate.body["iteration"] for gate in gates if gate.body["decision"]["promote"]]
    champion = passed[-1] if passed else gates[0].body["iteration"]
    after = f"the policy after iteration {champion}" if champion else "the base policy"
    if champion == latest["iteration"]:
        return f"champion is {after}, the last one"
    return f"champion is {after}, not the last one (iteration {latest['iteration']}): {latest['decision']['reason']}"


def changed(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the dotted paths at which two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            p for k in sorted({*old, *new}) for p in changed(old.get(k), new.get(k), f"{where}.{k}" if where else k)
        ]
    return [] if old == new else [where]
