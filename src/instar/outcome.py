"""What `instar.evolve` returns: how an evolution ended, its policies as folders on disk, and its metrics as a table.

outcome = instar.evolve(recipe, "runs/a")
outcome.champion.model_path      a folder that transformers loads
outcome.metrics()                a pandas DataFrame, one row per iteration
outcome.report                   the page report.html
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.contract import PERF
from instar.errors import LedgerError, MissingDependencyError
from instar.status import champion_iteration, policies
from instar.timeline import elapsed, summary
from instar.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


GATE = ("promoted", "decision", "elapsed_s")
"""The first columns of the table of metrics."""


@dataclass(frozen=True, kw_only=True)
class StoredPolicy:
    """A policy of an evolution: its digest, and the iteration that made it. Iteration 0 made the base."""

    digest: str
    iteration: int
    workspace: Workspace = field(repr=False)

    @property
    def model_path(self) -> Path:
        """Return the folder with the policy's files. It is fetched from the store when it is not on disk.

        The files are read-only and belong to the cache of the run. `instar export` writes a folder of your own.

            model = AutoModelForCausalLM.from_pretrained(outcome.champion.model_path)
        """
        return self.workspace.cas.get(self.digest)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an evolution ended."""

    directory: Path
    iterations: int
    """Iterations that are done."""
    reason: str
    """Why it ended: all iterations are done, or the words of the gate."""
    policy: StoredPolicy
    """The policy of the last iteration."""
    champion: StoredPolicy
    """The best policy that passed the gate."""
    workspace: Workspace = field(repr=False)

    @property
    def report(self) -> Path:
        """Return the path of `report.html`, a page that opens offline."""
        return self.directory / "report.html"

    def metrics(self) -> pd.DataFrame:
        """Return one row per iteration, indexed by `iteration`; row 0 is the base.

        A column is named as in MLflow, for example `update/entropy` or `evaluate/val/accuracy`. Of several inner steps it holds the
        mean. `promoted` and `decision` are the gate's, `elapsed_s` is wall time.

            outcome.metrics()["evaluate/val/accuracy"].plot()
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError(
                expected="pandas", found=str(error), where="outcome.metrics()", action="pip install pandas"
            ) from error
        frame = pd.DataFrame(rows(self.workspace)).set_index("iteration")
        return frame[[*GATE, *sorted(set(frame.columns) - set(GATE))]]


def outcome_of(workspace: Workspace) -> Outcome:
    """Return the outcome of an evolution that has ended. An unfinished one is a `LedgerError`."""
    closing = workspace.ledger.closing
    if closing is None:
        raise LedgerError(
            expected="an evolution that has ended",
            found="one that goes on",
            where=str(workspace.path),
            action="resume it to its end",
        )
    by_iteration, champion = policies(workspace.ledger.entries), closing.body["champion"]
    final = max(by_iteration)
    return Outcome(
        directory=workspace.path,
        iterations=int(closing.body["iterations"]),
        reason=closing.body["reason"],
        policy=StoredPolicy(digest=by_iteration[final], iteration=final, workspace=workspace),
        champion=StoredPolicy(
            digest=champion, iteration=champion_iteration(list(workspace.ledger.of("gate"))), workspace=workspace
        ),
        workspace=workspace,
    )


def rows(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the gate's decision, the wall time and the mean metrics of every iteration that has a gate."""
    ledger = workspace.ledger
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in ledger.of("stage"):
        for name, value in summary(ledger, entry).metrics.items():
            if not name.startswith(PERF):
                values[int(entry.body["iteration"])][name].append(value)
    seconds = {e.iteration: e.elapsed_s for e in elapsed(ledger.entries)}
    table: list[dict[str, Any]] = []
    for gate in ledger.of("gate"):
        iteration, decision = int(gate.body["iteration"]), gate.body["decision"]
        means = {name: sum(several) / len(several) for name, several in values[iteration].items()}
        about = {"iteration": iteration, "promoted": decision["promote"], "decision": decision["action"]}
        table.append({**about, "elapsed_s": seconds.get(iteration, 0.0), **means})
    return table
