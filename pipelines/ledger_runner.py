"""What all runners of the loop share. A stage whose memo key is in the ledger is not run again, and decisions of the gate are
recorded.

A subclass says how a missing result is produced. `LocalRunner` runs the stage. `Replay` reads what a container recorded.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

from instar import config as configs
from instar import contract
from instar.artifact import Artifact, Evaluation, Source
from instar.contract import WHOLE, Inputs, Shard, Stage
from instar.errors import LedgerError
from instar.events import Listener, StageDone, StageStarted, silent
from instar.ledger import Entry, memo_key
from instar.pipelines.brought import pinned as brought
from instar.pipelines.evolution import Position, settle
from instar.pipelines.gate import GateConfig, decide
from instar.plain import brief
from instar.sources import pinned
from instar.workspace import Workspace

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage call with its memo key. Its result must be produced if the ledger does not hold it."""

    stage: Stage[Any, Any, Any]
    config: Any
    iteration: int
    step: int
    shard: Shard
    inputs: dict[str, Artifact]
    key: str

    @property
    def digests(self) -> dict[str, str]:
        """Return member name -> digest of the inputs."""
        return {name: artifact.digest for name, artifact in self.inputs.items()}

    def body(self, outputs: dict[str, str], metrics: dict[str, float], code: str) -> dict[str, Any]:
        """Return the body of the ledger entry."""
        shard = {"shard": list(self.shard)} if self.shard.total > 1 else {}
        return {
            "stage": self.stage.name,
            "iteration": self.iteration,
            "step": self.step,
            "key": self.key,
            "inputs": self.digests,
            "outputs": outputs,
            "metrics": metrics,
            "code": code,
            **shard,
        }


class LedgerRunner(ABC):
    """Runs stages for `pipelines.evolution` against the ledger of a workspace."""

    def __init__(self, workspace: Workspace, listener: Listener = silent) -> None:
        self.workspace, self.listener = workspace, listener
        self._gates = iter(list(workspace.ledger.of("gate")))

    @abstractmethod
    def produce(self, job: Job) -> Entry:
        """Make the outputs of a job and append its ledger entry."""

    def call(
        self,
        stage: Stage[I, O, C],
        config: C,
        *,
        iteration: int,
        step: int | None = None,
        shard: Shard | None = None,
        **inputs: Inputs,
    ) -> O:
        """Return the outputs of a stage. They come from the ledger, or are produced if they are not there."""
        job = job_of(self.workspace.evolution, stage, config, iteration, step or 0, shard or WHOLE, inputs)
        self.listener(StageStarted(stage.name, iteration, job.step))
        committed = self.workspace.ledger.committed(job.key)
        entry = committed or self.produce(job)
        self.listener(StageDone(stage.name, iteration, job.step, entry, committed is not None))
        kinds = contract.ports(stage.outs)
        _check_ports(entry, set(kinds))
        outputs = {n: kinds[n][0](None, digest) for n, digest in entry.body["outputs"].items()}
        return contract.bind(stage.outs, outputs, where=stage.name)  # type: ignore[no-any-return]

    def gate(self, config: GateConfig, candidate: Position, before: Position | None) -> Position:
        """Decide, and record the decision. If an evolution is resumed, the decision must be the one that was recorded."""
        ledger, iteration = self.workspace.ledger, candidate.iteration
        summaries = [self.summary(e.body["evaluation"]) for e in ledger.of("gate") if e.body["iteration"] < iteration]
        decision = decide([*summaries, self.summary(candidate.champion_evaluation.digest)], config)
        body = {
            "iteration": iteration,
            "evaluation": candidate.champion_evaluation.digest,
            "baseline": before.champion_evaluation.digest if before else "",
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
                action="resume with the code and the configuration that this evolution was opened with",
            )
        return settle(decision, candidate, before)

    def num_updates(self) -> int:
        """Return the optimiser steps of the whole evolution so far."""
        metrics = [entry.body["metrics"] for entry in self.workspace.ledger.of("stage")]
        return int(sum(m.get("updates", 0.0) + m.get("update/updates", 0.0) for m in metrics))

    def sources(self) -> tuple[Source, ...]:
        """Return the evolutions that this one learns from."""
        return pinned(self.workspace.ledger)

    def brought(self) -> dict[str, Artifact]:
        """Return what the user brought: code, tasks, models."""
        return brought(self.workspace.ledger)

    def summary(self, digest: str) -> dict[str, Any]:
        """Return `summary.json` of a stored evaluation."""
        return dict(Evaluation(self.workspace.cas.get(digest), digest).read_json("summary.json"))


def _check_ports(entry: Entry, ports: set[str]) -> None:
    if unknown := sorted(set(entry.body["outputs"]) - ports):
        raise LedgerError(
            expected=f"only the outputs of {entry.body['stage']}: {', '.join(sorted(ports))}",
            found=brief(unknown[0]),
            where=f"ledger entry {entry.seq}:body.outputs",
            action="restore this entry from a copy of the store",
        )


def job_of(
    evolution: str,
    stage: Stage[Any, Any, Any],
    config: Any,
    iteration: int,
    step: int,
    shard: Shard,
    inputs: dict[str, Inputs],
) -> Job:
    """Return a stage call with its memo key."""
    artifacts = contract.flatten(inputs)
    key = memo_key(
        stage=stage.name,
        version=stage.version,
        config=configs.digest(config),
        inputs={name: artifact.digest for name, artifact in artifacts.items()},
        evolution=evolution,
        step=step,
        shard=shard,
    )
    return Job(stage=stage, config=config, iteration=iteration, step=step, shard=shard, inputs=artifacts, key=key)
