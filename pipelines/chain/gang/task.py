"""`instar control gang`: the task that stands for all shards of one rollout and for their gathering.

It takes the executor input of a rollout. One JobSet computes the shards, instead of one task for each shard. Then this task does
what the task `gather` does. It looks for recorded shards before it starts the JobSet, so a recorded shard is never computed
twice.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from instar import config as configs
from instar import contract, executor
from instar.components.catalog import GATHER, ROLLOUT
from instar.errors import ConfigError, ContractError, LedgerError
from instar.executor import ExecutorInput, Pointer
from instar.heartbeat import Heartbeat
from instar.pipelines.chain.gang.api import GangApi, open_api
from instar.pipelines.chain.gang.launch import run_gang
from instar.pipelines.chain.gang.manifests import GangJob, Owner, rollout_jobset
from instar.pipelines.chain.gang.pod import PodSettings
from instar.pipelines.pools import QUEUE_S
from instar.records import Records
from instar.store import open_store

POLL_S = 60.0


def main_gang(executor_input: str) -> int:
    """Compute all shards of a rollout, gather them, write the outputs, and return the exit code.

    The parameters are those of a rollout, and `shards` and `pod` (JSON of `PodSettings`). The inputs are `policy`, `tasks` and
    `batch`. The outputs are those of `gather`. `INSTAR_NAMESPACE` and `INSTAR_WORKFLOW` name the namespace of the run and the
    Workflow that will own the job; the parameters `namespace` and `workflow` replace them.
    """
    inputs = executor.parse(executor_input)
    with tempfile.TemporaryDirectory(prefix="instar-gang-") as folder:
        if inputs.stopped:
            batch = Path(folder, "batch.json")
            batch.write_text(Pointer(digest="", type="Batch", stopped=inputs.stopped).dump())
            return _gather(executor_input, {"batch": [batch]})
        return _gather(executor_input, {"parts": _parts(inputs, Path(folder))})


def _parts(inputs: ExecutorInput, folder: Path) -> list[Path]:
    """Return one pointer file for the rollouts of each shard. If any shard is missing, run the gang first."""
    api = open_api(_named(inputs, "namespace"))
    job = _job(inputs, api)
    records = Records(open_store(job.store), job.evolution)
    if not all(map(records.get, job.keys)):
        heartbeat = Heartbeat(
            Path(os.environ.get("INSTAR_HEARTBEAT") or folder / "heartbeat.json"), "gang", lambda unit, metrics: None
        )
        run_gang(
            api,
            rollout_jobset(job),
            deadline_s=job.deadline_s + QUEUE_S,
            poll_s=POLL_S,
            beat=lambda: heartbeat(job.name, {}),
        )
    shards = [records.get(key) for key in job.keys]
    missing = [number for number, record in enumerate(shards) if record is None]
    if missing:
        raise LedgerError(
            expected=f"a record of each of {job.shards} shards after {job.name} has succeeded",
            found=f"{len(missing)} missing, first shard {missing[0]}",
            where=f"{job.store}: {records.prefix}",
            action=f"delete JobSet {job.name} and run again; check that its pods use the same store and code",
        )
    paths = [folder / f"part-{number}.json" for number in range(job.shards)]
    for path, record in zip(paths, shards, strict=True):
        assert record is not None
        path.write_text(Pointer(digest=record["outputs"]["rollouts"], type="Rollouts").dump())
    return paths


def _job(task: ExecutorInput, api: GangApi) -> GangJob:
    values = task.parameters
    config = configs.from_dict(ROLLOUT.config, executor.document(values, "config"), where="rollout.config")
    shards, inputs = executor.integer(values, "shards"), task.digests()
    ports = contract.ports(ROLLOUT.ins)
    if not {name for name, (_, required) in ports.items() if required} <= set(inputs) <= set(ports):
        raise ContractError(
            expected=f"the inputs {', '.join(ports)}",
            found=", ".join(inputs) or "none",
            where="gang",
            action="compile the pipeline again",
        )
    if shards < 2 or shards != config.shards:
        raise ConfigError(
            expected=f"as many shards as rollout.shards, which is {config.shards}, and at least 2",
            found=f"{shards}",
            where="gang.shards",
            action="compile the pipeline again",
        )
    pod = configs.from_dict(PodSettings, executor.document(values, "pod"), where="gang.pod")
    return GangJob(
        stage=ROLLOUT,
        config=config,
        store=values["store"],
        evolution=values["evolution"],
        step=executor.integer(values, "step") + executor.integer(values, "plus_step"),
        inputs=inputs,
        shards=shards,
        parallelism=min(pod.pool.parallelism or shards, shards),
        pod=pod,
        namespace=api.namespace,
        owner=_owner(api, _named(task, "workflow")),
    )


def _owner(api: GangApi, name: str) -> Owner:
    """Return the owner with the UID that the server knows. A job whose owner does not exist would be deleted at once."""
    workflow = api.workflow(name)
    if workflow is None:
        raise ConfigError(
            expected=f"Workflow {name}",
            found="none",
            where=f"namespace {api.namespace}",
            action="pass the name of the workflow that this task belongs to",
        )
    return Owner(name=name, uid=workflow["metadata"]["uid"])


def _named(task: ExecutorInput, what: str) -> str:
    name = str(task.parameters.get(what) or os.environ.get(f"INSTAR_{what.upper()}", ""))
    if not name:
        raise ConfigError(
            expected=f"the {what} of this run",
            found="nothing",
            where=f"gang.{what}",
            action=f"set INSTAR_{what.upper()} from the fields of the pod",
        )
    return name


def _gather(executor_input: str, pointers: dict[str, list[Path]]) -> int:
    """Run the stage `gather` as its own task would, with the same parameters, batch and outputs, on these pointer files."""
    from instar.pipelines import stage_command

    raw: dict[str, Any] = json.loads(executor_input)
    values = {k: v for k, v in raw["inputs"]["parameterValues"].items() if k not in ("shards", "shard")}
    files = {port: {"artifacts": [{"uri": str(path)} for path in paths]} for port, paths in pointers.items()}
    batch = {"batch": raw["inputs"]["artifacts"]["batch"]}
    raw["inputs"] = {"parameterValues": {**values, "config": "{}"}, "artifacts": {**batch, **files}}
    return stage_command.main([GATHER.name, "--executor-input", json.dumps(raw)])
