"""`instar stage NAME`: one stage as a command, the entry point of every stage container.

Two forms share the code: digests on the command line (`--policy sha256:...`), and KFP's executor input
(`--executor-input JSON`), where each artifact is a small pointer file holding a digest.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar import contract
from instar.artifact import Artifact
from instar.cas import Cas
from instar.components.catalog import STAGES
from instar.components.control.supervisor import Heartbeat
from instar.contract import Context, Stage
from instar.errors import ConfigError, ContractError, InstarError, nearest
from instar.store import open_store


def main(argv: Sequence[str]) -> int:
    """Run one stage; return the exit code. A named error is also written to the result file."""
    name = argv[0] if argv else ""
    if name not in STAGES:
        raise ConfigError(expected="a stage name", found=repr(name), where="instar stage", action=nearest(name, STAGES))
    stage = STAGES[name]
    args = vars(parser(stage).parse_args(argv[1:]))
    with contextlib.suppress(ValueError, AttributeError, OSError):  # no stderr, or one without a file descriptor
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    result = Path(args["result"]) if args["result"] else None
    try:
        done = _run_executor_input(stage, args) if args["executor_input"] else _run(stage, args, _digests(stage, args))
    except InstarError as error:
        if result:
            fields = {k: getattr(error, k) for k in ("expected", "found", "where", "action")}
            result.write_text(json.dumps({"error": {"class": type(error).__name__, **fields}}))
        raise
    text = json.dumps(done, sort_keys=True)
    if result:
        result.write_text(text)
    return 0


def parser(stage: Stage[Any, Any, Any]) -> argparse.ArgumentParser:
    """Return the argument parser, built from the stage's declaration."""
    out = argparse.ArgumentParser(prog=f"instar stage {stage.name}", description=stage.run.__doc__)
    out.add_argument("--store", help="store URI: a directory or s3://bucket/prefix")
    out.add_argument("--evolution", default="", help="name that keys the random numbers")
    out.add_argument("--step", type=int, default=0, help="inner step that keys the random numbers")
    out.add_argument("--config", default="{}", help="stage configuration as one JSON string")
    out.add_argument("--work", help="folder for cache and scratch; default: a temporary folder")
    out.add_argument("--result", help="file for output digests and metrics, or the named error")
    out.add_argument("--executor-input", help="KFP executor input in JSON, instead of --store, --config and the inputs")
    for port, (kind, required) in contract.ports(stage.ins).items():
        text = f"digest of a {kind.__name__} artifact" + ("" if required else " (optional)")
        out.add_argument(f"--{port.replace('_', '-')}", dest=f"in_{port}", help=text)
    return out


def _digests(stage: Stage[Any, Any, Any], args: dict[str, Any]) -> dict[str, str]:
    return {port: args[f"in_{port}"] for port in contract.ports(stage.ins) if args[f"in_{port}"]}


def _run(stage: Stage[Any, Any, Any], args: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    from instar.pipelines.execute import execute

    if not args["store"]:
        raise ConfigError(
            expected="--store URI", found="nothing", where="instar stage", action="name the store of the inputs"
        )
    config = configs.from_dict(stage.config, json.loads(args["config"]), where=f"{stage.name}.config")
    with tempfile.TemporaryDirectory(prefix="instar-") as temporary:
        work = Path(args["work"] or temporary)
        scratch = Path(tempfile.mkdtemp(prefix=f"{stage.name}-", dir=_made(work / "scratch")))
        cas = Cas(open_store(args["store"]), work / "cache")
        inputs: dict[str, Artifact | None] = {n: _fetch(stage, n, d, cas) for n, d in digests.items()}
        beat = Heartbeat(work / "heartbeat.json", stage.name, lambda unit, metrics: None)
        ctx = Context(evolution=args["evolution"], step=args["step"], stage=stage.name, scratch=scratch, heartbeat=beat)
        done = execute(stage, inputs, config, ctx, scratch)
        outputs = {n: cas.put(a.path, type(a).__name__) for n, a in contract.artifacts(done.outs).items()}
        return {"outputs": outputs, "metrics": done.metrics, "perf": done.perf}


def _fetch(stage: Stage[Any, Any, Any], port: str, digest: str, cas: Cas) -> Artifact:
    """Return an input artifact; a digest of another artifact class is refused."""
    kind, found = contract.ports(stage.ins)[port][0], cas.manifest(digest).type
    if found != kind.__name__:
        raise ContractError(
            expected=kind.__name__,
            found=found,
            where=f"{stage.name}.{port}",
            action="pass the digest of the right artifact",
        )
    return kind(cas.get(digest), digest)


def _run_executor_input(stage: Stage[Any, Any, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Read parameters and pointer files, run, write output pointers and `executor_output.json`."""
    raw = json.loads(args["executor_input"])
    parameters = raw["inputs"].get("parameterValues", {})
    fields = ("store", "evolution", "step", "config")
    args = {**args, **{k: parameters[k] for k in fields if k in parameters}}
    args["step"] = int(args["step"])
    pointers = {n: Path(_local(a["artifacts"][0]["uri"])) for n, a in raw["inputs"].get("artifacts", {}).items()}
    done = _run(stage, args, {n: json.loads(p.read_text())["digest"] for n, p in pointers.items()})
    artifacts: dict[str, Any] = {}
    for name, declared in raw["outputs"].get("artifacts", {}).items():
        entry = declared["artifacts"][0]
        port = name if name in contract.ports(stage.outs) else name.removeprefix("out_")
        kind = contract.ports(stage.outs)[port][0].__name__
        target = Path(_local(entry["uri"]))
        _made(target.parent)
        target.write_text(json.dumps({"digest": done["outputs"][port], "type": kind}))
        metadata = {"instar.type": kind, "instar.digest": done["outputs"][port]}
        artifacts[name] = {"artifacts": [{**entry, "metadata": metadata}]}
    output = Path(raw["outputs"]["outputFile"])
    _made(output.parent)
    output.write_text(json.dumps({"artifacts": artifacts}))
    return done


def _local(uri: str) -> str:
    for scheme in ("s3", "minio", "gs"):
        if uri.startswith(f"{scheme}://"):
            return f"/{'gcs' if scheme == 'gs' else scheme}/{uri.removeprefix(f'{scheme}://')}"
    return uri


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
