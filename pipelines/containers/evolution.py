"""Runs an evolution on this machine, with every task in its own container. The compiled pipelines run one segment after another.

A cluster does the same with the same packages and images. In addition, it decides where each task runs. The containers share only
the store.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from instar import head as heads
from instar.errors import ConfigError, LedgerError
from instar.head import Head
from instar.pipelines.containers import ir
from instar.pipelines.containers.engine import connect
from instar.pipelines.containers.program import Program
from instar.pipelines.containers.run import Options, run
from instar.pipelines.kubeflow import compile_graph
from instar.pipelines.pools import Images, Profile
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import KINDS, trace
from instar.store import LocalStore
from instar.terminal import say
from instar.workspace import Workspace

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
PASSED = ("INSTAR_S3_ENDPOINT", "MLFLOW_TRACKING_URI")
"""Variables of this process that every container gets. It also gets the secrets that it asks for."""


def drive(
    workspace: Workspace, recipe: Recipe, profile: Profile, images: Images, *, unroll: int = 1, docker: Any = None
) -> Head:
    """Run segments until the evolution is done, and return its head. After a crash, call it again and it goes on.

    Containers share the host's network, because the store of a laptop often listens on loopback only. If a task fails, its error is
    raised.
    """
    store, evolution = workspace.store, workspace.evolution
    engine = docker or connect()
    heads.create_head(store, Head(evolution=evolution, ledger=workspace.ledger.head))
    programs = _compile(recipe, profile, images, unroll, workspace.path / "pipelines")
    options = _options(workspace)
    while (head := _head(workspace)).status == "running":
        parameters = {"store": workspace.store_uri, "evolution": evolution, "segment": head.segment, "attempt": 0}
        parameters |= {"iteration": head.iteration, "step": head.step}
        say(f"segment {head.segment}: {head.kind}, {head.iteration} of {recipe.iterations} iterations done\n")
        run(
            programs[head.kind],
            parameters,
            root=workspace.path / "containers",
            name=f"{evolution}-{head.segment:06d}",
            run_id=str(uuid.uuid4()),
            image_of=_local_image,
            docker=engine,
            options=options,
        )
    if head.status != "done":
        raise LedgerError(
            expected="an evolution that goes on to its end",
            found=f"{head.status}: {head.reason}",
            where=heads.path(evolution, "head"),
            action="resume the evolution where it was started",
        )
    return head


def _compile(recipe: Recipe, profile: Profile, images: Images, unroll: int, folder: Path) -> dict[str, Program]:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        compile_graph(trace(recipe, kind, unroll), profile, images, folder / f"{kind}.yaml")
    return {kind: ir.load(folder / f"{kind}.yaml") for kind in KINDS}


def _head(workspace: Workspace) -> Head:
    versioned = heads.read_head(workspace.store, workspace.evolution)
    assert versioned is not None
    return versioned[0]


def _options(workspace: Workspace) -> Options:
    """Return how containers run. They get this process's credentials, or write access to a store that is a directory."""
    environment = {name: os.environ[name] for name in PASSED if os.environ.get(name)}
    secrets = {name: os.environ.get(name, "") for name in SECRETS}
    if workspace.store_uri.startswith("s3://"):
        missing = sorted(name for name, value in secrets.items() if not value)
        if missing:
            raise ConfigError(
                expected="credentials of the store",
                found=f"no {missing}",
                where="environment",
                action="set these variables",
            )
        return Options(environment=environment, secrets=secrets, network="host")
    assert isinstance(workspace.store, LocalStore)
    store = workspace.store.root
    store.mkdir(parents=True, exist_ok=True)
    owner = f"{os.getuid()}:{os.getgid()}"  # the store belongs to the caller
    return Options(environment=environment, secrets=secrets, network="host", user=owner, writable=(store,))


def _local_image(reference: str) -> str:
    """Return the id of an image in this engine. The name in the reference cannot be used, because there is no registry."""
    return "sha256:" + reference.rpartition("@sha256:")[2]
