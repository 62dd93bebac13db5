"""Evolutions on a cluster: compile, submit, schedule, status, stop, resume. All functions can be used from Python too.

The directory of such an evolution is only a handle. It names the store, and in `cluster.json` the API server. It also has the
compiled pipelines. `show`, `diff`, `report` and `promote` work on it as on the directory of a local evolution.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import config as configs
from instar import head as heads
from instar import plain, terminal
from instar.cli.own import Brought
from instar.conformance import require_conditional
from instar.errors import ConfigError
from instar.head import ChainConfig, Head
from instar.kfp.api import KfpApi, Schedule, Version
from instar.kfp.client import open_kfp
from instar.kfp.schedule import check_cron, reconcile_schedule
from instar.pipelines import preflight
from instar.pipelines.brought import check as check_brought
from instar.pipelines.brought import pin
from instar.pipelines.chain import submission
from instar.pipelines.chain.generations import is_generation
from instar.pipelines.chain.segment import TOKEN
from instar.pipelines.chain.submission import Action
from instar.pipelines.extension import reopen
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.pools import LOCAL, Images, Profile, load, load_images
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import KINDS, MAX_FAN_OUT, pipeline_name, trace
from instar.store import open_store
from instar.store_files import storage_errors, write_whole
from instar.workspace import Workspace, create_workspace, locked, open_workspace

if TYPE_CHECKING:
    from instar.pipelines.argo import Stored

TICK = "0 */30 * * * *"
"""When the chain is checked and repaired: every half hour."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A pipelines API server. An environment variable names the token file."""

    host: str
    namespace: str = ""

    def open(self) -> KfpApi:
        """Return a client."""
        token = os.environ.get(TOKEN)
        return open_kfp(self.host, Path(token) if token else None, self.namespace)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where pipelines run and how they are cut into runs."""

    profile: Profile
    images: Images
    unroll: int = 1


def target(profile: str, pools: Path | None, images: Path | None, unroll: int) -> Target:
    """Return a target from a pools file and the lock of image digests.

    If `images` is None, the target has the names of images on this machine.
    """
    return Target(profile=load(profile, pools), images=load_images(images) if images else LOCAL, unroll=unroll)


def compile_recipe(
    recipe: Recipe, kind: str, where: Target, out: Path, engine: str, stored: Stored | None = None
) -> None:
    """Write one segment as a Kubeflow package, or the whole loop as an Argo workflow, with what is `stored` for it."""
    if engine == "argo":
        if kind != "iterate" or where.unroll != 1:
            raise ConfigError(
                expected="neither --segment nor --unroll with --engine argo",
                found=f"segment {kind}, unroll {where.unroll}",
                where="compile",
                action="leave them out: the workflow has all segments and starts itself again",
            )
        from instar.pipelines.argo import write_workflow

        write_workflow(recipe, where.profile, where.images, out, stored)
        return
    from instar.pipelines.kubeflow import compile_graph, compile_tick

    if kind == "tick":
        compile_tick(where.profile, where.images, out)
    else:
        compile_graph(trace(recipe, kind, where.unroll), where.profile, where.images, out)  # type: ignore[arg-type]


def store_brought(recipe: Recipe, brought: Brought, store: str) -> Stored:
    """Store what the user brings, for a workflow that opens the evolution itself. The reward is checked first."""
    from instar.pipelines.argo import Stored

    check_brought(recipe, brought.artifacts)
    notes = brought.notes(recipe)
    with tempfile.TemporaryDirectory(prefix="instar-") as folder:
        workspace = Workspace(Path(folder), "compile", store)
        return Stored(store=store, brought=pin(workspace, brought.artifacts), notes=notes)


def submit(
    recipe: Recipe,
    directory: Path,
    name: str,
    store: str,
    server: Server,
    where: Target,
    brought: Brought | None = None,
    *,
    seed: int = 0,
) -> Action:
    """Open an evolution and start its first run. After a crash at any point, it can be repeated and continues there.

    What the user brings is stored now: pods fetch it by digest.
    """
    if not store.startswith("s3://"):
        raise ConfigError(
            expected="a store that pods can reach: s3://bucket/prefix",
            found=store,
            where="--store",
            action="name the bucket of the cluster's object store",
        )
    preflight.check_containers(recipe)
    require_conditional(open_store(store))
    with locked(directory):
        workspace = create_workspace(directory, name, store)
        owner = _write_handle(directory, server)
        if is_generation(name):
            return _adopt_generation(workspace)
        if brought is None:
            open_evolution(workspace, recipe, seed)
        else:
            brought.open(workspace, recipe, seed)
        api = server.open()
        settings = _chain(recipe, workspace, api, where)
        if heads.read_head(workspace.store, name) is not None and _differ(settings, workspace):
            raise ConfigError(
                expected="the images, profile, --unroll and API server that this evolution was started with",
                found="other settings",
                where=heads.path(name, "chain"),
                action="choose another --name for the new settings, or repeat the command as it was",
            )
        reopen(workspace, settings.max_segments)
        head = Head(evolution=name, ledger=workspace.ledger.head)
        return submission.start(workspace.store, api, head, settings, owner)


def _adopt_generation(workspace: Workspace) -> Action:
    """Make a handle for a generation. Only a schedule begins generations, so no run is started here."""
    current = heads.read_head(workspace.store, workspace.evolution)
    if current is None:
        raise ConfigError(
            expected="a generation that its schedule has begun",
            found="no evolution of this name",
            where=workspace.evolution,
            action="choose a name that does not end like the name of a generation",
        )
    return Action(did="nothing", reason=f"the handle of a generation, {current[0].status}")


def _chain(recipe: Recipe, workspace: Workspace, api: KfpApi, where: Target) -> ChainConfig:
    """Compile and upload the pipelines. The name of a version has the digest of its content, so each is uploaded only once."""
    folder = workspace.path / "pipelines"
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    versions: dict[str, Version] = {}
    for kind in (*KINDS, "tick"):
        package = folder / f"{kind}.yaml"
        compile_recipe(recipe, kind, where, package, "kfp")
        pipeline = "instar-tick" if kind == "tick" else pipeline_name(recipe, kind)
        version = f"{pipeline}-{hashlib.sha256(package.read_bytes()).hexdigest()[:16]}"
        versions[kind] = api.upload(pipeline, version, package)
    return ChainConfig(
        experiment=api.ensure_experiment(workspace.evolution),
        pipelines=versions,
        service_account=_account(recipe, where.profile),
        pipeline_root=f"{workspace.store_uri.rstrip('/')}/pipeline-root",
        store=workspace.store_uri,
        max_segments=-(-recipe.iterations // where.unroll) + 2 * (1 + len(list(workspace.ledger.of("extend")))),
    )


def _differ(settings: ChainConfig, workspace: Workspace) -> bool:
    """Return whether the chain was started with other settings. The limit of segments follows from the iterations."""
    started = heads.read_chain(workspace.store, workspace.evolution)
    return replace(started, max_segments=settings.max_segments) != settings


def _account(recipe: Recipe, profile: Profile) -> str:
    """Return the service account of the runs. A Kubeflow run has the same account for all its pods."""
    gangs = recipe.rollout.shards > MAX_FAN_OUT
    return profile.launcher_account if gangs and profile.launcher_account else profile.service_account


def schedule(store: str, evolution: str, server: Server, cron: str, tick: str = TICK) -> list[str]:
    """Make sure that there are exactly two recurring runs, and return a line about each.

    One repairs a broken chain. The other one begins the next generation when the last one is done.
    """
    check_cron(cron)
    check_cron(tick, "--tick")
    opened = open_store(store)
    settings, api = heads.read_chain(opened, evolution), server.open()
    lines = []
    for suffix, when, restart in (("tick", tick, False), ("start", cron, True)):
        wanted = Schedule(
            name=f"{evolution}-{suffix}",
            experiment=settings.experiment,
            version=settings.pipelines["tick"],
            cron=when,
            parameters={"store": store, "evolution": evolution, "restart": restart},
            pipeline_root=settings.pipeline_root,
            service_account=settings.service_account,
        )
        done = reconcile_schedule(api, wanted)
        state = "kept" if done.kept else "created"
        extra = f", {len(done.deleted)} deleted" if done.deleted else ""
        lines.append(f"{wanted.name} '{when}' {state}{extra}" + ("" if done.enabled else ", disabled by a person"))
    return lines


def status(directory: Path) -> dict[str, Any]:
    """Return the head of an evolution and the state of its newest run."""
    workspace, server = open_workspace(directory), server_of(directory)
    current = heads.read_head(workspace.store, workspace.evolution)
    if current is None:
        return {"evolution": workspace.evolution, "status": "not started"}
    head = current[0]
    latest = heads.latest_claim(workspace.store, workspace.evolution, head.segment)
    settings = heads.read_chain(workspace.store, workspace.evolution)
    api = server.open()
    runs = api.find_runs(settings.experiment, latest.run_name) if latest else []
    run = submission.known(api, runs[-1]) if runs else None
    newest = {"run": run.run_id, "state": run.state or "new"} if run else {}
    newest |= {"error": run.error} if run and run.error else {}
    return {**configs.to_dict(head), **newest, "attempt": latest.attempt if latest else 0}


def stop(directory: Path, reason: str) -> Action:
    """Stop an evolution: terminate its run, and start no further runs."""
    workspace = open_workspace(directory)
    return submission.stop(workspace.store, server_of(directory).open(), workspace.evolution, reason)


def resume(directory: Path) -> Action:
    """Continue a stopped or failed evolution. A running evolution gets a run if it has none."""
    workspace = open_workspace(directory)
    with locked(directory):
        owner = _write_handle(directory, server_of(directory))
        return submission.resume(workspace.store, server_of(directory).open(), workspace.evolution, owner)


def server_of(directory: Path) -> Server:
    """Return the API server of a handle."""
    raw = _read_handle(directory)
    return Server(host=raw["host"], namespace=raw["namespace"])


def _read_handle(directory: Path) -> dict[str, str]:
    try:
        raw = plain.loads((directory / "cluster.json").read_text())
        return {name: str(raw[name]) for name in ("host", "namespace", "owner")}
    except FileNotFoundError as error:
        raise ConfigError(
            expected="the directory of an evolution on a cluster, with cluster.json",
            found="no cluster.json",
            where=str(directory),
            action="name the --out of `instar submit`; for a run on this machine, use `instar show` or `instar resume`",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            expected="a cluster.json that `instar submit` wrote",
            found=type(error).__name__,
            where=str(directory),
            action="delete the file and submit again with the same --out; the evolution is kept",
        ) from error


def say(action: Action) -> None:
    """Print what was done."""
    run = f", run {action.run}" if action.run else ""
    terminal.say(f"{action.did}: {action.reason}{run}\n")


def _write_handle(directory: Path, server: Server) -> str:
    """Write `cluster.json` and return the owner name of this handle, under which it claims runs.

    The name is kept in the file. So a command that is repeated can finish what an interrupted one has begun.
    """
    path = directory / "cluster.json"
    wanted = {"host": server.host, "namespace": server.namespace}
    if path.exists():
        handle = _read_handle(directory)
        if {**handle, **wanted} != handle:
            raise ConfigError(
                expected=f"the API server of this handle, {handle['host']} (namespace '{handle['namespace']}')",
                found=f"{server.host} (namespace '{server.namespace}')",
                where=str(path),
                action="correct --host and --namespace; delete the file if the same server has a new address",
            )
        return handle["owner"]
    owner = f"cli-{secrets.token_hex(6)}"
    write_whole(path, json.dumps({**wanted, "owner": owner}) + "\n")
    return owner
