"""The local runner: the loop on this machine, each stage in process or as a subprocess, without Docker or a cluster.

A stage whose memo key is in the ledger is not run again. Outputs are stored before the ledger line is written, so that a kill
at any instant loses at most the stage in flight.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from instar import config as configs
from instar import contract
from instar.artifact import Artifact, Evaluation
from instar.code import code_version
from instar.components.control import supervisor
from instar.components.control.gate import Decision, GateConfig, decide
from instar.contract import Context, Stage
from instar.errors import LedgerError
from instar.events import Listener, StageDone, StageStarted, Unit, silent
from instar.ledger import Entry, memo_key
from instar.pipelines.execute import Result, execute
from instar.workspace import Workspace

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
C = TypeVar("C")
Mode = Literal["inprocess", "subprocess"]


class LocalRunner:
    """Runs stages for `pipelines.evolution` and records them in the workspace's ledger."""

    def __init__(
        self,
        workspace: Workspace,
        mode: Mode = "inprocess",
        listener: Listener = silent,
        limits: supervisor.Limits | None = None,
        threads: int = 0,
    ) -> None:
        self.workspace, self.mode, self.listener, self.threads = workspace, mode, listener, threads
        self.limits = limits or supervisor.Limits()
        self.resident: dict[Any, Any] = {}
        self._gates = iter(list(workspace.ledger.of("gate")))

    def call(self, stage: Stage[I, O, C], config: C, *, iteration: int, step: int, **inputs: Artifact | None) -> O:
        """Return the outputs of a stage from the ledger, or run it and commit them."""
        digests = {name: artifact.digest for name, artifact in inputs.items() if artifact is not None}
        key = memo_key(
            stage=stage.name,
            version=stage.version,
            config=configs.digest(config),
            inputs=digests,
            evolution=self.workspace.evolution,
            step=step,
        )
        self.listener(StageStarted(stage.name, iteration, step))
        entry = self.workspace.ledger.committed(key)
        cached = entry is not None
        if entry is None:
            entry = self._run(stage, config, iteration, step, inputs, digests, key)
        self.listener(StageDone(stage.name, iteration, step, entry, cached))
        return self._outputs(stage, entry)

    def gate(self, iteration: int, evaluation: Evaluation, champion: Evaluation | None, config: GateConfig) -> Decision:
        """Decide and record; on resume the recorded decision must come out again."""
        ledger = self.workspace.ledger
        summaries = [self.summary(e.body["evaluation"]) for e in ledger.of("gate") if e.body["iteration"] < iteration]
        decision = decide([*summaries, self.summary(evaluation.digest)], config)
        body = {
            "iteration": iteration,
            "evaluation": evaluation.digest,
            "champion": champion.digest if champion else "",
            "decision": configs.to_dict(decision),
        }
        recorded = next(self._gates, None)
        if recorded is None:
            ledger.append("gate", body, {"at": time.time()})
        elif dict(recorded.body) != body:
            raise LedgerError(
                expected=f"the recorded gate {dict(recorded.body)['decision']}",
                found=f"{body['decision']}",
                where=f"ledger entry {recorded.seq}",
                action="resume with the code and configuration that opened this evolution",
            )
        return decision

    def num_updates(self) -> int:
        """Return the optimiser steps of the whole evolution so far."""
        metrics = [entry.body["metrics"] for entry in self.workspace.ledger.of("stage")]
        return int(sum(m.get("updates", 0.0) + m.get("update/updates", 0.0) for m in metrics))

    def summary(self, digest: str) -> dict[str, Any]:
        """Return `summary.json` of a stored evaluation."""
        return dict(Evaluation(self.workspace.cas.get(digest), digest).read_json("summary.json"))

    def _run(
        self,
        stage: Stage[I, O, C],
        config: C,
        iteration: int,
        step: int,
        inputs: Mapping[str, Artifact | None],
        digests: dict[str, str],
        key: str,
    ) -> Entry:
        started = time.time()
        local = {n: type(a)(self.workspace.cas.get(a.digest), a.digest) for n, a in inputs.items() if a is not None}
        folder = self.workspace.fresh_scratch(f"{step:06d}-{stage.name}")
        beat = supervisor.Heartbeat(
            self.workspace.path / "heartbeat.json", stage.name, lambda u, m: self.listener(Unit(u, m))
        )
        ctx = Context(
            evolution=self.workspace.evolution,
            step=step,
            stage=stage.name,
            scratch=folder,
            resident=self.resident,
            heartbeat=beat,
        )
        if self.mode == "inprocess":
            with supervisor.watch(self.limits), _threads(self.threads):
                result: Result[O] = execute(stage, local, config, ctx, folder)
            outputs = {n: self.workspace.put(a) for n, a in contract.artifacts(result.outs).items()}
            metrics, perf = result.metrics, result.perf
        else:
            done = supervisor.run_stage(stage, local, config, ctx, self.workspace, self.limits, self.threads)
            outputs, metrics, perf = done["outputs"], done["metrics"], done["perf"]
        body = {
            "stage": stage.name,
            "iteration": iteration,
            "step": step,
            "key": key,
            "inputs": digests,
            "outputs": outputs,
            "metrics": metrics,
            "code": code_version(),
        }
        timing = {"started": started, "ended": time.time(), **perf}
        entry = self.workspace.ledger.append("stage", body, timing)
        shutil.rmtree(folder, ignore_errors=True)
        return entry

    def _outputs(self, stage: Stage[I, O, C], entry: Entry) -> O:
        kinds = contract.ports(stage.outs)
        made = {n: kinds[n][0](Path(), digest) for n, digest in entry.body["outputs"].items()}
        return contract.bind(stage.outs, made, where=stage.name)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    if not count:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
