"""Turns segments into Kubeflow pipelines and writes them as compiled packages. Needs the `kubeflow` extra.

Only this module, `kubeflow_components` and `placement` import kfp. The images of the stages do not contain it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instar import config as configs
from instar import contract
from instar.pipelines import placement
from instar.pipelines.chain.gang.pod import PodSettings
from instar.pipelines.chain.pointers import handed_on
from instar.pipelines.kubeflow_components import CONTROL, collected, component, control, gang, kfp_dsl, output_name
from instar.pipelines.pools import Images, Profile
from instar.pipelines.trace import MAX_FAN_OUT, Graph, Node, Ref, check_size, config_text
from instar.store_files import storage_errors

PARAMETERS: dict[str, type] = {
    "store": str,
    "evolution": str,
    "segment": int,
    "attempt": int,
    "iteration": int,
    "step": int,
}
"""Parameters of a run."""


def pipeline(graph: Graph, profile: Profile, images: Images) -> Any:
    """Return the KFP pipeline of a segment. Its parameters are `PARAMETERS`. Raises `ConfigError` if the graph is too large."""
    check_size(graph)
    dsl = kfp_dsl()

    def body(*parameters: Any) -> None:
        _Builder(graph, profile, images, dict(zip(PARAMETERS, parameters, strict=True))).build()

    body.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=t) for n, t in PARAMETERS.items()]
    )
    body.__annotations__ = dict(PARAMETERS)
    description = f"{graph.recipe.name} at {graph.recipe.scale}: {graph.kind}"
    return dsl.pipeline(name=graph.name, description=description)(body)


class _Builder:
    """Adds the nodes of a graph to the pipeline that is being defined."""

    def __init__(self, graph: Graph, profile: Profile, images: Images, parameters: Mapping[str, Any]) -> None:
        self.graph, self.profile, self.images, self.parameters = graph, profile, images, parameters
        self.tasks: dict[str, Any] = {}
        self.nodes = {node.name: node for node in graph.nodes}

    def build(self) -> None:
        """Add every node in order. The shards of one rollout become one loop or, if they are many, one gang."""
        dsl = kfp_dsl()
        gangs: list[Any] = []
        for node in self.graph.nodes:
            if node.kind == "gather" and gangs:
                self.tasks[node.name] = gangs.pop()
            elif node.shard is None:
                self.tasks[node.name] = self._add(node)
            elif node.shard.number == 0 and node.shard.total > MAX_FAN_OUT:
                gangs.append(self._add(node))
            elif node.shard.number == 0:
                with dsl.ParallelFor(items=list(range(node.shard.total)), name=f"{node.name}-shards") as number:
                    self.tasks[node.name] = self._add(node, number)

    def _add(self, node: Node, shard: Any = 0) -> Any:
        image = self._image(node.kind)
        kind = "gang" if node.shard and node.shard.total > MAX_FAN_OUT else node.kind
        if kind == "gang":
            task = gang(self._image(kind))(**self._stage(node, 0), **self._inputs(node), pod=self._pod())
        elif node.stage is None:
            handed = handed_on(self.graph.recipe, self.graph.kind)
            task = control(node.kind, image, handed)(**self._control(node))
        else:
            task = component(node.stage, image, node.inputs)(**self._stage(node, shard), **self._inputs(node))
        task.set_display_name("gang" if kind == "gang" else node.name)
        for name in node.after:
            task.after(self.tasks[name])
        cached = self.graph.kind == "begin" and node.kind in ("dataset_prep", "evaluate")
        task.set_caching_options(cached)
        placement.place(task, kind, self.profile, self.graph.recipe.threads)
        return task

    def _image(self, kind: str) -> str:
        return self.images.reference(self.profile.pool(kind).image, self.profile.registry)

    def _pod(self) -> str:
        """Return the settings of a gang's pods as JSON, which is a parameter of the task that starts the gang."""
        settings = PodSettings(
            image=self._image("rollout"),
            pool=self.profile.pool("rollout"),
            secret=self.profile.store_secret,
            endpoint=self.profile.store_endpoint,
            service_account=self.profile.service_account,
            threads=self.graph.recipe.threads,
        )
        return configs.dumps(settings)

    def _control(self, node: Node) -> dict[str, Any]:
        values = {**self.parameters, "run_id": kfp_dsl().PIPELINE_JOB_ID_PLACEHOLDER, "plus_iteration": node.iteration}
        return {name: values[name] for name in CONTROL[node.kind]}

    def _stage(self, node: Node, shard: Any) -> dict[str, Any]:
        return {
            "store": self.parameters["store"],
            "evolution": self.parameters["evolution"],
            "iteration": self.parameters["iteration"],
            "plus_iteration": node.iteration,
            "step": 0 if node.step is None else self.parameters["step"],
            "plus_step": node.step or 0,
            "config": config_text(node),
            "shard": shard,
            "shards": node.shard.total if node.shard else 1,
        }

    def _inputs(self, node: Node) -> dict[str, Any]:
        assert node.stage is not None
        many = collected(node.stage)
        return {
            contract.port_of(name) if contract.port_of(name) in many else contract.flat_name(name): self._artifact(
                ref, collected=contract.port_of(name) in many
            )
            for name, ref in sorted(node.inputs.items(), reverse=True)  # the first member of a collected port wins
        }

    def _artifact(self, ref: Ref, *, collected: bool) -> Any:
        maker = self.nodes[ref.node]
        ins = contract.ports(maker.stage.ins) if maker.stage else {}
        if ref.node not in self.tasks:  # a shard after the first is part of the same loop
            return None
        output = self.tasks[ref.node].outputs[output_name(ref.port, ins)]
        return kfp_dsl().Collected(output) if collected else output


def tick_pipeline(profile: Profile, images: Images) -> Any:
    """Return the pipeline of the watchdog. It has one task and is the same for every recipe."""
    dsl = kfp_dsl()

    def body(store: str, evolution: str, restart: bool) -> None:
        image = images.reference(profile.pool("tick").image, profile.registry)
        values = {"store": store, "evolution": evolution, "restart": restart}
        task = control("tick", image)(**values, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        task.set_display_name("tick")
        task.set_caching_options(False)
        placement.place(task, "tick", profile, 0)

    body.__annotations__ = {"store": str, "evolution": str, "restart": bool}
    return dsl.pipeline(name="instar-tick", description="repairs the chain of an evolution")(body)


def compile_graph(graph: Graph, profile: Profile, images: Images, out: Path) -> None:
    """Write the compiled package: pipeline spec and platform spec. The bytes depend on the arguments and on kfp's version."""
    _compile(pipeline(graph, profile, images), out)


def compile_tick(profile: Profile, images: Images, out: Path) -> None:
    """Write the package of the watchdog."""
    _compile(tick_pipeline(profile, images), out)


def _compile(pipeline: Any, out: Path) -> None:
    from kfp import compiler  # pyright: ignore[reportMissingImports]

    temporary = out.with_name(f".{out.name}.yaml")  # kfp requires the suffix
    with storage_errors(out):
        try:
            compiler.Compiler().compile(pipeline, str(temporary))
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
