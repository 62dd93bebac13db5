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
    gates, recipe = list(ledger.of("gate")), ledger.recipe
    tested = [e for e in ledger.of("stage") if e.body["stage"] == "evaluate"]
    policy, champion = position(ledger.entries)
    body = opened.body if opened else {}
    return {
        "evolution": workspace.evolution,
        "recipe": body.get("name", ""),
        "scale": body.get("scale", ""),
        "seed": body.get("seed", 0),
        "iteration": gates[-1].body["iteration"] if gates else 0,
        "iterations": recipe.get("iterations", 0),
        "policy": policy,
        "champion": champion,
        "status": "done" if ledger.closing else "open" if ledger.entries else "empty",
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


def policies(entries: Iterable[Entry]) -> dict[int, str]:
    """Return iteration -> digest of the policy that its gate judged. Iteration 0 is the base.

    A policy that was rolled back is listed, too: it is in the store like every other.
    """
    by_iteration: dict[int, str] = {}
    evaluated: dict[str, str] = {}
    for entry in entries:
        if entry.kind == "stage" and entry.body["stage"] == "evaluate":
            evaluated[entry.body["outputs"]["evaluation"]] = entry.body["inputs"]["policy"]
        elif entry.kind == "gate" and entry.body["evaluation"] in evaluated:
            by_iteration[int(entry.body["iteration"])] = evaluated[entry.body["evaluation"]]
    return by_iteration


def champion_iteration(gates: Sequence[Entry]) -> int:
    """Return the iteration whose policy is the champion. Before the first promotion this is the base, iteration 0."""
    return next((int(gate.body["iteration"]) for gate in reversed(gates) if gate.body["decision"]["promote"]), 0)


def ending(gates: Sequence[Entry]) -> str:
    """Return a sentence that says which policy is champion. If it is not the last policy, the sentence says why.

    The text is empty before the first gate.
    """
    if not gates:
        return ""
    latest = gates[-1].body
    champion = champion_iteration(gates)
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
