"""MLflow as a view of the ledger: a run per evolution, a child per iteration, a model version per promoted policy.

`Tracker.sync` sends every entry that is newer than the last one that was sent. A tag of the parent run says which one that
was; it is written after the metrics. So nothing is lost if the process is killed between two calls. Some entries are then sent
twice. This does no harm: names, steps and times come from the ledger, and MLflow stores equal metrics once.

If a server is down, a sync takes bounded time and ends with a warning. The next sync sends what is missing.
Only `promote` moves the `champion` alias.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from instar import terminal
from instar.errors import ConfigError, InstarError, LedgerError, UnavailableError
from instar.ledger import Entry
from instar.sources import FOLDER
from instar.timeline import Point, clock, elapsed, inner_steps, points, summary
from instar.tracking_copy import embedded
from instar.tracking_server import (
    EXPORT,
    PERMANENT,
    POLICY,
    STORE,
    Patience,
    Server,
    check_client,
    check_uri,
    deadline,
    failures,
    scrub,
)
from instar.workspace import Workspace

T = TypeVar("T")

EVOLUTION, OPENED, ROLE = "instar.evolution", "instar.opened", "instar.role"
ITERATION, SEQ, HEAD = "instar.iteration", "instar.ledger_seq", "instar.ledger_head"
PLANNED = "instar.iterations"
"""Tag of the parent run: the iterations that are planned since the evolution was extended. Its parameter cannot change."""
PAUSE_S = 60.0
"""For this many seconds after a failure, a sync does nothing unless it is forced."""


def _stderr(message: str) -> None:
    terminal.warn(f"{message}\n")


class Tracker:
    """Brings MLflow up to date with the ledger. `warn` is called at every failure. `perf` counts seconds and failures."""

    def __init__(self, uri: str | None, workspace: Workspace, warn: Callable[[str], None] = _stderr) -> None:
        self.uri = uri or embedded(workspace.path)
        check_uri(self.uri)
        check_client(self.uri)
        self.artifacts = _artifacts(uri, workspace)
        self.workspace, self.warn = workspace, warn
        self.perf = {"perf/tracking_s": 0.0, "perf/tracking_cpu_s": 0.0, "perf/tracking_failures": 0.0}
        self._server: Server | None = None
        self._patience = Patience()
        self._parent = ""
        self._sent = -2  # -2: not known yet; -1: there is a parent run, and it has no entries
        self._created, self._retry_at = time.monotonic(), 0.0

    def sync(self, *, force: bool = False) -> bool:
        """Send what is new. Return whether MLflow now has the whole ledger. After a failure, warn and return False.

        For `PAUSE_S` after a failure nothing is sent, unless `force` is given or the evolution has ended.
        """
        entries = self.workspace.ledger.entries
        if self._sent == len(entries) - 1:
            return True
        if not force and entries and entries[-1].kind != "close" and time.monotonic() < self._retry_at:
            return False
        told: tuple[type[BaseException], ...] = (*failures(), ConfigError)
        try:
            with self._timed():
                self._bounded(self._push)
        except told as error:
            self.perf["perf/tracking_failures"] += 1
            self._retry_at = time.monotonic() + PAUSE_S
            self._parent = ""  # the parent run itself may be gone, so the next sync looks for it
            self.warn(f"tracking: {scrub(str(error))} - training goes on; the next sync sends what is missing")
            return False
        return True

    def fail(self) -> None:
        """Send what is new and mark the parent run as failed. A resumed evolution marks it as running again."""
        sent = self.sync(force=True)
        server, parent = self._server, self._parent
        if sent and server is not None and parent:
            with contextlib.suppress(*failures()):
                self._bounded(lambda: server.client.update_run(parent, status="FAILED"))

    def promote(self, policy: str) -> str:
        """Point the `champion` alias at `policy` and return its version.

        This is refused unless the evolution is finished and its gate has preferred this policy to the initial one.
        """
        gate = self._passed(policy)
        try:
            with self._timed():
                version = self._bounded(lambda: self._champion(gate, policy))
        except failures() as error:
            raise self._refused(error) from error
        latest = list(self.workspace.ledger.of("promote"))[-1:]
        if not latest or latest[0].body["policy"] != policy:
            body = {"policy": policy, "evaluation": gate.body["evaluation"], "model": self._model()}
            self.workspace.ledger.append("promote", body, {"at": time.time(), "version": version})
        return version

    def _champion(self, gate: Entry, policy: str) -> str:
        self._push()
        version = self._version(gate, policy)
        self._connected().client.set_registered_model_alias(self._model(), "champion", version)
        return version

    def _refused(self, error: BaseException) -> InstarError:
        """Return the named error for a promotion that MLflow refused: `UnavailableError` if it can help to try again."""
        code = str(getattr(error, "error_code", ""))
        answer, where = scrub(str(error)), scrub(self.uri)
        if code in PERMANENT:
            action = "correct at the server what it reports; without that, promoting again ends in the same way"
            return ConfigError(
                expected="a tracking server that takes the promotion", found=answer, where=where, action=action
            )
        return UnavailableError(
            expected="a tracking server that answers",
            found=answer,
            where=where,
            action="check the server, then promote again",
        )

    def _bounded(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which calls the server. It may take as long as one sync."""
        failures()  # this imports MLflow's exceptions, which takes time, so it is done before the clock starts
        return self._patience.within(deadline(self.uri), work)

    @contextlib.contextmanager
    def _timed(self) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.perf["perf/tracking_s"] += time.perf_counter() - wall
            self.perf["perf/tracking_cpu_s"] += time.process_time() - cpu

    def _connected(self) -> Server:
        if self._server is None:
            self._server = Server(self.uri, self._model(), self.artifacts)
        self._server.start()
        return self._server

    def _push(self) -> None:
        ledger = self.workspace.ledger
        opened = next(ledger.of("open"), None)
        if opened is None:
            return
        server = self._connected()
        if not self._parent:
            self._parent, self._sent = self._find_parent(server, opened)
        new = ledger.entries[self._sent + 1 :]
        if not new:
            return
        rounds = [e for e in new if e.kind in ("stage", "gate")]
        for iteration, group in itertools.groupby(rounds, key=lambda e: int(e.body["iteration"])):
            self._send_iteration(server, opened, iteration, list(group))
        for gate in (e for e in new if e.kind == "gate" and e.body["decision"]["promote"]):
            self._version(gate, self._policy_of(gate))
        self._send_parent(server, new)
        self._sent, self._retry_at = new[-1].seq, 0.0

    def _find_parent(self, server: Server, opened: Entry) -> tuple[str, int]:
        """Return the parent run of this ledger and the number of the last entry that was sent to it.

        A run whose entries differ from this ledger is not used; a new parent run is created instead.
        """
        keys = {EVOLUTION: self.workspace.evolution, ROLE: "evolution", OPENED: repr(clock(opened))}
        entries = self.workspace.ledger.entries
        for run in server.find_runs(keys):
            seq = int(run.data.tags[SEQ])
            if seq < len(entries) and run.data.tags[HEAD] == (entries[seq].digest if seq >= 0 else ""):
                break
        else:
            seq, tags = -1, {**keys, SEQ: "-1", HEAD: ""}
            run = server.create_run(self.workspace.evolution, clock(opened), tags)
        if seq < 0:
            server.log_config(run.info.run_id, opened.body)
        if run.info.status != "RUNNING" and self.workspace.ledger.closing is None:
            server.client.update_run(run.info.run_id, status="RUNNING")
        return run.info.run_id, seq

    def _send_iteration(self, server: Server, opened: Entry, iteration: int, entries: Sequence[Entry]) -> None:
        keys = self._keys(iteration)
        runs = server.find_runs(keys)
        name = f"{self.workspace.evolution} {iteration}"
        run = runs[0] if runs else server.create_run(name, _started(entries[0], opened), keys)
        tags = {SEQ: str(entries[-1].seq)}
        metrics = []
        for entry in entries:
            if entry.kind == "stage":
                metrics += self._thinned(entry)
                tags |= {f"instar.{name}": digest for name, digest in entry.body["outputs"].items()}
            else:
                decision = entry.body["decision"]
                tags |= {"instar.gate": decision["action"], "instar.gate_reason": decision["reason"]}
        gate = next((e for e in entries if e.kind == "gate"), None)
        server.log(run.info.run_id, metrics + self._elapsed([gate] if gate else []), tags)
        if gate is not None:
            server.finish(run.info.run_id, clock(gate))

    def _elapsed(self, gates: Sequence[Entry]) -> list[Point]:
        """Return how the wall time was spent in the iterations of these gates."""
        ledger, wanted = self.workspace.ledger, {int(gate.body["iteration"]) for gate in gates}
        times = [e for e in elapsed(ledger.entries) if e.iteration in wanted] if wanted else []
        steps = inner_steps(ledger)
        return [Point(iteration=e.iteration, step=e.iteration * steps, at=e.at, metrics=e.metrics()) for e in times]

    def _thinned(self, entry: Entry) -> list[Point]:
        """Return the points of an entry. For a segment, metrics per arm are sent only once, as means, because they are many."""
        step_points = points(self.workspace, entry)
        if len(step_points) == 1:
            return step_points
        for point in step_points:
            for name in [n for n in point.metrics if _per_arm(n)]:
                del point.metrics[name]
        means = summary(self.workspace.ledger, entry).metrics
        step_points[-1].metrics.update({k: v for k, v in means.items() if _per_arm(k)})
        return step_points

    def _send_parent(self, server: Server, new: Sequence[Entry]) -> None:
        """Log to the parent run: a summary per stage, the overhead per iteration, and the time that tracking takes.

        The tag that says how far the ledger was sent is written last.
        """
        share = self.perf["perf/tracking_s"] / max(1e-9, time.monotonic() - self._created)
        metrics = [summary(self.workspace.ledger, entry) for entry in new if entry.kind == "stage"]
        for point in metrics:
            for name in [n for n in point.metrics if "/arm/" in n]:
                del point.metrics[name]
        if metrics:
            metrics[-1].metrics.update({**self.perf, "perf/tracking_share": share})
        metrics += self._elapsed([entry for entry in new if entry.kind == "gate"])
        tags = {SEQ: str(new[-1].seq), HEAD: new[-1].digest}
        for entry in new:
            if entry.kind == "close":
                tags |= {f"instar.{name}": str(entry.body[name]) for name in ("reason", "policy", "champion")}
            elif entry.kind == "extend":
                tags[PLANNED] = str(entry.body["iterations"])
            elif entry.kind == "promote":
                tags["instar.promoted"] = entry.body["policy"]
            elif entry.kind == "accept_code":
                tags["instar.accepted_code"] = entry.body["code"]
        server.log(self._parent, metrics, tags)
        closing = self.workspace.ledger.closing
        if closing is not None and closing.seq >= new[0].seq:
            server.finish(self._parent, clock(closing))

    def _model(self) -> str:
        opened = next(self.workspace.ledger.of("open"), None)
        return f"instar-{opened.body['name']}" if opened else "instar"

    def _policy_of(self, gate: Entry) -> str:
        tested = self.workspace.ledger.of("stage")
        candidates = (e.body["inputs"] for e in tested if gate.body["evaluation"] in e.body["outputs"].values())
        policy = next((inputs["policy"] for inputs in candidates if "policy" in inputs), None)
        if policy is None:
            raise LedgerError(
                expected=f"the stage that wrote evaluation {gate.body['evaluation']}",
                found="no such stage entry",
                where=f"{self.workspace.ledger.prefix}{gate.seq:08d}.json:body.evaluation",
                action="restore the ledger from a copy of the store",
            )
        return str(policy)

    def _passed(self, policy: str) -> Entry:
        """Return the last gate entry that promoted `policy`. The gate of iteration 0 does not count: it compares nothing."""
        ledger = self.workspace.ledger
        if ledger.closing is None:
            raise LedgerError(
                expected="a finished evolution",
                found="a ledger without its last entry",
                where=ledger.prefix,
                action="resume the evolution to its end, then promote",
            )
        first = next(ledger.of("gate"), None)
        gates = [e for e in ledger.of("gate") if e.body["decision"]["promote"] and int(e.body["iteration"]) > 0]
        for gate in reversed(gates):
            if self._policy_of(gate) == policy and (first is None or self._policy_of(first) != policy):
                return gate
        raise LedgerError(
            expected=f"a gate that passed policy {policy or '(none)'}",
            found=f"{len(gates)} passed gates, none of them of this policy",
            where=self.workspace.ledger.prefix,
            action="train on until the gate passes it; no other policy may become champion",
        )

    def _version(self, gate: Entry, policy: str) -> str:
        """Return the model version of a policy that passed the gate. If there is none, register it as `candidate`."""
        iteration, server = int(gate.body["iteration"]), self._connected()
        store = scrub(self.workspace.store_uri)
        manifest = {"policy": policy, "store": store, "evaluation": gate.body["evaluation"]}
        tags = {
            EVOLUTION: self.workspace.evolution,
            POLICY: policy,
            STORE: store,
            ITERATION: str(iteration),
            EXPORT: self._export(store, iteration),
            "instar.run": self._parent,
        }
        return server.version(lambda: self._child(server, iteration), manifest, tags)

    def _export(self, store: str, iteration: int) -> str:
        """Return the command that writes the weights of an iteration as a folder.

        A store on a disk may be copied or moved with its run. So its path is not in the command: it is the tag `instar.store`.
        """
        uri = f"{store if '://' in store else 'STORE'}{FOLDER}{self.workspace.evolution}"
        return f"instar export {uri} -o FOLDER --policy {iteration}"

    def _child(self, server: Server, iteration: int) -> Any:
        """Return the MLflow run of an iteration. If it was deleted for good, send the iteration again."""
        keys = self._keys(iteration)
        if not (runs := server.find_runs(keys)):
            entries = [e for e in self.workspace.ledger.entries if e.kind in ("stage", "gate")]
            mine = [e for e in entries if int(e.body["iteration"]) == iteration]
            self._send_iteration(server, next(self.workspace.ledger.of("open")), iteration, mine)
            runs = server.find_runs(keys)
        return runs[0]

    def _keys(self, iteration: int) -> dict[str, str]:
        return {"mlflow.parentRunId": self._parent, EVOLUTION: self.workspace.evolution, ITERATION: str(iteration)}


def _artifacts(uri: str | None, workspace: Workspace) -> str | None:
    """Return the folder for artifacts, beside the SQLite file. Return None for a server, because it chooses its own."""
    if uri is not None and not uri.startswith("sqlite:///"):
        return None
    folder = Path(uri.removeprefix("sqlite:///")).resolve().parent if uri else workspace.path.resolve()
    return (folder / "mlartifacts").as_uri()


class Untracked:
    """The tracker of `--tracking off`. It sends nothing. Promoting is an error, because there is no registry."""

    def __init__(self, warn: Callable[[str], None] = _stderr) -> None:
        self.warn = warn

    def sync(self, *, force: bool = False) -> bool:
        """Return True: there is nothing to send to."""
        return force or True

    def fail(self) -> None:
        """Do nothing."""

    def promote(self, policy: str) -> str:
        """Refuse."""
        raise LedgerError(
            expected="a model registry",
            found="--tracking off",
            where=f"promote {policy}",
            action="give --tracking a URI",
        )


def open_tracker(uri: str | None, workspace: Workspace) -> Tracker | Untracked:
    """Open MLflow at `uri`. None stands for a SQLite file inside the workspace, `off` for no tracking."""
    return Untracked() if uri == "off" else Tracker(uri, workspace)


def _per_arm(name: str) -> bool:
    return "/arm/" in name or (name.startswith("curriculum/") and name.count("/") == 2)


def _started(entry: Entry, opened: Entry) -> float:
    return float(entry.time.get("started", clock(entry))) or clock(opened)
