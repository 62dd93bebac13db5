"""Where an evolution stands, and how two differ: what `show`, `diff` and scripts read from the ledger."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from instar.workspace import Workspace, open_workspace


def status(workspace: Workspace) -> dict[str, Any]:
    """Return the stable summary that `show --json` prints."""
    ledger = workspace.ledger
    opened = next(ledger.of("open"), None)
    gates, closed = list(ledger.of("gate")), next(ledger.of("close"), None)
    made = [e for e in ledger.of("stage") if "policy" in e.body["outputs"]]
    tested = [e for e in ledger.of("stage") if e.body["stage"] == "evaluate"]
    promoted = [e for e in gates if e.body["decision"]["promote"]]
    champions = {e.body["outputs"]["evaluation"]: e.body["inputs"]["policy"] for e in tested}
    body = opened.body if opened else {}
    return {
        "evolution": workspace.evolution,
        "recipe": body.get("name", ""),
        "scale": body.get("scale", ""),
        "seed": body.get("seed", 0),
        "iteration": gates[-1].body["iteration"] if gates else 0,
        "policy": made[-1].body["outputs"]["policy"] if made else "",
        "champion": champions.get((promoted or gates)[-1].body["evaluation"], "") if gates else "",
        "status": "done" if closed else "open" if ledger.entries else "empty",
        "head": ledger.head,
        "decision": "{action}: {reason}".format(**gates[-1].body["decision"]) if gates else "",
        "metrics": dict(tested[-1].body["metrics"]) if tested else {},
    }


def show(directory: Path, as_json: bool) -> None:
    """Print the state of an evolution."""
    found = status(open_workspace(directory))
    if as_json:
        sys.stdout.write(json.dumps(found, sort_keys=True) + "\n")
        return
    lines = [f"{name:<10} {value}" for name, value in found.items() if name != "metrics"]
    width = max((30, *map(len, found["metrics"])))
    lines += [f"  {name:<{width}} {value:.4g}" for name, value in sorted(found["metrics"].items())]
    sys.stdout.write("\n".join(lines) + "\n")


def diff(left: Path, right: Path) -> int:
    """Print the first difference of two ledgers and those of their metrics; return 0 when they did the same work."""
    a, b = open_workspace(left).ledger, open_workspace(right).ledger
    if a.head == b.head:
        sys.stdout.write(f"equal: {len(a.entries)} entries, head {a.head}\n")
        return 0
    for one, two in zip(a.entries, b.entries, strict=False):
        if (one.kind, one.body) != (two.kind, two.body):
            keys = changed(dict(one.body), dict(two.body))
            sys.stdout.write(
                f"entry {one.seq} ({one.kind} {one.body.get('stage', '')}) differs in {', '.join(keys[:12])}\n"
            )
            break
    sys.stdout.write(
        f"{left}: {len(a.entries)} entries, head {a.head}\n{right}: {len(b.entries)} entries, head {b.head}\n"
    )
    return 1


def changed(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the dotted paths at which two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            p for k in sorted({*old, *new}) for p in changed(old.get(k), new.get(k), f"{where}.{k}" if where else k)
        ]
    return [] if old == new else [where]
