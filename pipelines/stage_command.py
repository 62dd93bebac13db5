"""`instar stage NAME`: one stage as a command, the entry point of every stage container.

The inputs have one of two forms. They are digests on the command line (`--policy sha256:...`), or KFP's executor input
(`--executor-input JSON`). In the executor input, each artifact is a small pointer file with a digest (`instar.executor`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar import contract, executor
from instar.artifact import Artifact
from instar.border import named
from instar.cas import Cas
from instar.code import code_version
from instar.contract import Context, Shard, Stage
from instar.errors import ConfigError, ContractError, LedgerError, nearest
from instar.executor import ExecutorInput, Pointer
from instar.heartbeat import Heartbeat
from instar.ledger import memo_key
from instar.pipelines.catalog import STAGES
from instar.records import Records
from instar.store import open_store
from instar.store_files import check_writable, storage_errors, write_whole


def main(argv: Sequence[str]) -> int:
    """Run one stage and return the exit code. A named error is also written to the result file."""
    name = argv[0] if argv else ""
    if name not in STAGES:
        raise ConfigError(expected="a stage name", found=repr(name), where="instar stage", action=nearest(name, STAGES))
    stage = STAGES[name]
    args = vars(parser(stage).parse_args(argv[1:]))
    with contextlib.suppress(ValueError, AttributeError, OSError):  # stderr is absent or has no file descriptor
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    result = Path(args["result"]) if args["result"] else None
    if result:
        check_writable(result, "--result")
    if args["outputs"]:
        _make_folder(Path(args["outputs"]))
    try:
        if args["executor_input"]:
            done = _run_executor_input(stage, args)
        else:
            done = _run(stage, args, _digests(stage, args), args["record"])
    except Exception as error:
        if not result:
            raise
        told = named(error)
        fields = {k: getattr(told, k) for k in ("expected", "found", "where", "action")}
        write_whole(result, json.dumps({"error": {"class": type(told).__name__, **fields}}))
        if told is error:
            raise
        raise told from error
    if result:
        write_whole(result, json.dumps(done, sort_keys=True))
    if args["outputs"]:
        for port in contract.ports(stage.outs):
            write_whole(Path(args["outputs"]) / port, done["outputs"].get(port, ""))
    return 0


def parser(stage: Stage[Any, Any, Any]) -> argparse.ArgumentParser:
    """Return the argument parser, which is built from the declaration of the stage."""
    out = argparse.ArgumentParser(prog=f"instar stage {stage.name}", description=stage.run.__doc__)
    out.add_argument("--store", help="store URI: a directory or s3://bucket/prefix")
    out.add_argument("--evolution", default="", help="name that keys the random numbers")
    out.add_argument("--step", type=int, default=0, help="inner step that keys the random numbers")
    out.add_argument("--plus-step", type=int, default=0, help="added to --step")
    out.add_argument("--shard", default="0/1", help="i/n: which of n parts of the work, from 0")
    out.add_argument("--config", default="{}", help="stage configuration as one JSON string")
    out.add_argument("--work", help="folder for cache and scratch; default: a temporary folder")
    out.add_argument("--result", help="file for output digests and metrics, or the named error")
    out.add_argument("--outputs", help="folder for one file per output, holding its digest")
    out.add_argument("--record", action="store_true", help="reuse a recorded result, and record a new one")
    out.add_argument("--executor-input", help="KFP executor input in JSON, instead of --store, --config and the inputs")
    many = contract.variadic(stage.ins)
    for port, (kind, required) in contract.ports(stage.ins).items():
        text = f"digest of a {kind.__name__} artifact" + ("" if required else " (optional)")
        flag = f"--{port.replace('_', '-')}"
        if port in many:
            out.add_argument(flag, dest=f"in_{port}", action="append", default=[], help=f"{text}; once for each")
        else:
            out.add_argument(flag, dest=f"in_{port}", help=text)
    return out


def _digests(stage: Stage[Any, Any, Any], args: Mapping[str, Any]) -> dict[str, str]:
    digests: dict[str, str] = {}
    for port in contract.ports(stage.ins):
        value = args[f"in_{port}"]
        if isinstance(value, list):
            digests |= {f"{port}.{i}": digest for i, digest in enumerate(value)}
        elif value:
            digests[port] = value
    return digests


def _run(stage: Stage[Any, Any, Any], args: Mapping[str, Any], digests: dict[str, str], record: bool) -> dict[str, Any]:
    """Return outputs, metrics and perf of the stage. With `record`, a stage that ran before is not run again."""
    from instar.pipelines import versions

    if not args["store"]:
        raise ConfigError(
            expected="the option --store URI",
            found="nothing",
            where="instar stage",
            action="name the store of the inputs",
        )
    step, shard = executor.integer(args, "step") + executor.integer(args, "plus_step"), _shard(args["shard"])
    config = configs.from_dict(stage.config, executor.document(args, "config"), where=f"{stage.name}.config")
    store = open_store(args["store"])
    key = memo_key(
        stage=stage.name,
        version=stage.version,
        config=configs.digest(config),
        inputs=digests,
        evolution=args["evolution"],
        step=step,
        shard=shard,
    )
    with tempfile.TemporaryDirectory(prefix="instar-") as temporary:
        cas = Cas(store, Path(args["work"] or temporary) / "cache")
        if not record:
            return _produce(stage, config, args, step, shard, digests, cas)
        stored = Records(store, args["evolution"]).get(key)
        if stored is None or not all(map(cas.has, stored["outputs"].values())):
            started = time.time()
            done = _produce(stage, config, args, step, shard, digests, cas)
            timing = {"started": started, "ended": time.time(), **done["perf"], **versions.notes()}
            new = {"outputs": done["outputs"], "metrics": done["metrics"], "code": code_version(), "time": timing}
            stored = Records(store, args["evolution"]).put(key, new)
            _check_stands(stored, new, key, cas)
    return {"outputs": stored["outputs"], "metrics": stored["metrics"], "perf": stored["time"]}


def _check_stands(standing: Mapping[str, Any], new: Mapping[str, Any], key: str, cas: Cas) -> None:
    """Raise `LedgerError` if the stored record names an artifact that is gone and that the new run did not produce again."""
    lost = sorted(n for n, d in standing["outputs"].items() if d != new["outputs"].get(n) and not cas.has(d))
    if lost:
        raise LedgerError(
            expected=f"the recorded {lost[0]} {standing['outputs'][lost[0]]} in {cas.store.uri}",
            found="no such artifact, and a second run of the stage has produced a different one",
            where=f"record {key[:16]}",
            action="restore the store from a copy, or delete the record if nothing was built on it",
        )


def _produce(
    stage: Stage[Any, Any, Any],
    config: Any,
    args: Mapping[str, Any],
    step: int,
    shard: Shard,
    digests: dict[str, str],
    cas: Cas,
) -> dict[str, Any]:
    from instar.pipelines.execute import execute

    work = cas.cache.parent
    scratch = Path(tempfile.mkdtemp(prefix=f"{stage.name}-", dir=_make_folder(work / "scratch")))
    inputs: dict[str, Artifact | None] = {n: _fetch(stage, n, d, cas) for n, d in digests.items()}
    heartbeat = Path(os.environ.get("INSTAR_HEARTBEAT") or work / "heartbeat.json")
    beat = Heartbeat(heartbeat, stage.name, lambda unit, metrics: None)
    ctx = Context(
        evolution=args["evolution"], step=step, stage=stage.name, scratch=scratch, shard=shard, heartbeat=beat
    )
    done = execute(stage, inputs, config, ctx, scratch)
    outputs = {n: cas.put(a.path, type(a).__name__) for n, a in contract.artifacts(done.outs).items()}
    return {"outputs": outputs, "metrics": done.metrics, "perf": done.perf}


def _fetch(stage: Stage[Any, Any, Any], name: str, digest: str, cas: Cas) -> Artifact:
    """Return an input artifact. Raise `ContractError` if the digest belongs to another artifact class."""
    kind = _kind(stage, name)
    _check_kind(stage, name, kind, cas.manifest(digest).type)
    return kind(cas.get(digest), digest)


def _kind(stage: Stage[Any, Any, Any], name: str) -> type[Artifact]:
    """Return the artifact class of an input. Raise `ContractError` if the stage has no such port."""
    ports = contract.ports(stage.ins)
    if contract.port_of(name) not in ports:
        raise ContractError(
            expected=f"an input of {stage.name}",
            found=f"'{name}'",
            where=f"{stage.name}.{name}",
            action=nearest(contract.port_of(name), ports),
        )
    return ports[contract.port_of(name)][0]


def _check_kind(stage: Stage[Any, Any, Any], name: str, kind: type[Artifact], found: str) -> None:
    if found != kind.__name__:
        raise ContractError(
            expected=f"an artifact of class {kind.__name__}",
            found=found,
            where=f"{stage.name}.{name}",
            action="pass the digest of the right artifact",
        )


def _run_executor_input(stage: Stage[Any, Any, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Read parameters and pointer files, run the stage, and write output pointers and `executor_output.json`."""
    executor_input = executor.parse(args["executor_input"])
    members = {contract.member_name(stage.ins, name): pointers for name, pointers in executor_input.pointers.items()}
    executor_input = dataclasses.replace(executor_input, pointers=members)
    for port, pointers_in in executor_input.pointers.items():
        kind_in = _kind(stage, port)
        for pointer in pointers_in:
            _check_kind(stage, port, kind_in, pointer.type or kind_in.__name__)
    kinds = {
        name: contract.ports(stage.outs)[port_name(stage, name)][0].__name__
        for name in _pointers(stage, executor_input)
    }
    if executor_input.stopped:
        pointers = {n: Pointer(digest="", type=kind, stopped=executor_input.stopped) for n, kind in kinds.items()}
        executor.write(executor_input, pointers, {}, _metrics(executor_input, {}))
        return {"outputs": {}, "metrics": {}, "perf": {}}
    values = {"iteration": 0, "plus_iteration": 0, "shard": 0, "shards": 1, **executor_input.parameters}
    args = {**args, **{k: executor.text(values, k) for k in ("store", "evolution", "config") if k in values}}
    args |= {k: executor.integer(values, k) for k in ("step", "plus_step") if k in values}
    args["shard"] = f"{executor.integer(values, 'shard')}/{executor.integer(values, 'shards')}"
    iteration = executor.integer(values, "iteration") + executor.integer(values, "plus_iteration")
    digests = executor_input.digests()
    for port in contract.variadic(stage.ins) & set(digests):  # the port takes a list, and got a single artifact
        digests[f"{port}.0"] = digests.pop(port)
    done = _run(stage, args, digests, record=True)
    pointers = {n: Pointer(digest=done["outputs"].get(port_name(stage, n), ""), type=kind) for n, kind in kinds.items()}
    metadata = {"schema": 1, "iteration": iteration, "policy_id": digests.get("policy", "")}
    executor.write(executor_input, pointers, metadata, _metrics(executor_input, done["metrics"]))
    return done


def port_name(stage: Stage[Any, Any, Any], output: str) -> str:
    """Return the port of a KFP output. The output is named `out_<port>` if an input has the same name as the port."""
    return output if output in contract.ports(stage.outs) else output.removeprefix("out_")


def _pointers(stage: Stage[Any, Any, Any], executor_input: ExecutorInput) -> list[str]:
    return [name for name in executor_input.outputs if port_name(stage, name) in contract.ports(stage.outs)]


def _metrics(executor_input: ExecutorInput, metrics: Mapping[str, float]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the content of KFP's Metrics output. The UI and MLflow show its metadata."""
    return {"metrics": (json.dumps(metrics, sort_keys=True), metrics)} if "metrics" in executor_input.outputs else {}


def _shard(text: str) -> Shard:
    match = re.fullmatch(r"([0-9]{1,16})/([0-9]{1,16})", text)
    if match and int(match[1]) < int(match[2]):
        return Shard(int(match[1]), int(match[2]))
    raise ConfigError(expected="i/n with 0 <= i < n", found=repr(text), where="--shard", action="correct the shard")


def _make_folder(folder: Path) -> Path:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
