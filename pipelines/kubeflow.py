"""Segments as Kubeflow pipelines. With `pipelines.placement` the only module that imports kfp; needs the `kubeflow` extra.

A component's interface is synthesised from the stage's declaration, so that wrong wiring is refused when a pipeline compiles.
Artifacts use KFP's base types and are pointer files (`instar.executor`); the configuration crosses as one JSON string, because
KFP turns integers inside structured parameters into floats. An output that shares its name with an input is called
`out_<name>`, since a KFP component has one name space.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, List, Optional  # noqa: UP035 (kfp reads these forms)

from instar import config as configs
from instar import contract
from instar.artifact import Artifact
from instar.components.control.pointers import Pointers
from instar.contract import Stage
from instar.errors import ConfigError, MissingDependencyError
from instar.pipelines import placement
from instar.pipelines.pools import Images, Profile
from instar.pipelines.trace import Graph, Ref, Task

PARAMETERS: dict[str, type] = {
    "store": str,
    "evolution": str,
    "segment": int,
    "attempt": int,
    "iteration": int,
    "step": int,
}
"""Parameters of a run."""
MAX_FAN_OUT = 16
"""Shards as pods of the pipeline: each costs three pods. More of them run as one gang job."""
MAX_TEXT = 10_000
"""Characters of a parameter (kubeflow/pipelines #12510)."""
_STAGE: dict[str, type] = {
    "store": str, "evolution": str, "iteration": int, "plus_iteration": int, "step": int, "plus_step": int,
    "config": str, "shard": int, "shards": int,
}  # fmt: skip
_RUN: dict[str, type] = {"store": str, "evolution": str, "run_id": str}
_CONTROL: dict[str, dict[str, type]] = {
    "open": {**_RUN, "segment": int, "attempt": int},
    "gate": {**_RUN, "iteration": int, "plus_iteration": int},
    "advance": {**_RUN, "segment": int, "iteration": int, "plus_iteration": int},
    "tick": {**_RUN, "restart": bool},
}
Ports = Mapping[str, tuple[type[Artifact], bool]]


def component(stage: Stage[Any, Any, Any], image: str) -> Any:
    """Return the KFP container component of `stage`, run in `image`. Optional inputs stay optional."""
    return _component(
        stage.name,
        ["stage", stage.name],
        image,
        _STAGE,
        contract.ports(stage.ins),
        contract.ports(stage.outs),
        many=contract.variadic(stage.ins),
        extra={"metrics": "Metrics"},
        doc=stage.run.__doc__ or "",
    )


def control(kind: str, image: str, *, ports: bool = True) -> Any:
    """Return the component of a control task; `open` has no ports at the beginning of an evolution."""
    outs = contract.ports(Pointers) if ports and kind in ("open", "gate") else {}
    extra = {"report": "Markdown", "metrics": "Metrics"} if kind == "advance" else {}
    return _component(
        kind, ["control", kind], image, _CONTROL[kind], {}, outs, extra=extra, doc=f"Control task: {kind}."
    )


def _component(
    name: str,
    command: list[str],
    image: str,
    parameters: Mapping[str, type],
    ins: Ports,
    outs: Ports,
    *,
    extra: Mapping[str, str],
    doc: str,
    many: frozenset[str] = frozenset(),
) -> Any:
    dsl = _dsl()

    def body(*ports: Any) -> Any:
        del ports
        return dsl.ContainerSpec(
            image=image,
            command=["instar", "supervise", "--", "instar", *command],
            args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    hints: dict[str, Any] = dict(parameters)
    optional: set[str] = set()
    for port, (kind, required) in ins.items():
        base = getattr(dsl, kind.kfp_type)
        hint = dsl.Input[List[base] if port in many else base]  # type: ignore[valid-type]  # noqa: UP006
        hints[port] = hint if required else Optional[hint]  # noqa: UP045
        optional |= set() if required else {port}
    for port, (kind, _) in outs.items():
        hints[output_name(port, ins)] = dsl.Output[getattr(dsl, kind.kfp_type)]
    hints |= {port: dsl.Output[getattr(dsl, base)] for port, base in extra.items()}
    kind_of = inspect.Parameter.POSITIONAL_OR_KEYWORD
    absent = inspect.Parameter.empty
    order = sorted(hints, key=lambda n: n in optional)
    body.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, kind_of, annotation=hints[n], default=None if n in optional else absent) for n in order]
    )
    body.__annotations__ = hints
    body.__name__ = name
    body.__doc__ = doc
    return dsl.container_component(body)


def output_name(port: str, ins: Mapping[str, Any]) -> str:
    """Return the KFP name of an output port."""
    return f"out_{port}" if port in ins or port in _STAGE else port


def pipeline(graph: Graph, profile: Profile, images: Images) -> Any:
    """Return the KFP pipeline of a segment. Its parameters are `PARAMETERS`."""
    dsl = _dsl()

    def body(*parameters: Any) -> None:
        _Builder(graph, profile, images, dict(zip(PARAMETERS, parameters, strict=True))).build()

    body.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=t) for n, t in PARAMETERS.items()]
    )
    body.__annotations__ = dict(PARAMETERS)
    description = f"{graph.recipe.name} at {graph.recipe.scale}: {graph.kind}"
    return dsl.pipeline(name=graph.name, description=description)(body)


class _Builder:
    """Adds the tasks of a graph to the pipeline that is being defined."""

    def __init__(self, graph: Graph, profile: Profile, images: Images, parameters: Mapping[str, Any]) -> None:
        self.graph, self.profile, self.images, self.parameters = graph, profile, images, parameters
        self.made: dict[str, Any] = {}
        self.tasks = {task.name: task for task in graph.tasks}

    def build(self) -> None:
        """Add every task in order; the shards of one rollout become one loop."""
        dsl = _dsl()
        for task in self.graph.tasks:
            if task.shard is None:
                self.made[task.name] = self._add(task)
            elif task.shard.number == 0:
                with dsl.ParallelFor(items=list(range(task.shard.total)), name=f"{task.name}-shards") as number:
                    self.made[task.name] = self._add(task, number)

    def _add(self, task: Task, shard: Any = 0) -> Any:
        image = self.images.reference(self.profile.pool(task.kind).image, self.profile.registry)
        if task.stage is None:
            made = control(task.kind, image, ports=self.graph.kind != "begin")(**self._control(task))
        else:
            made = component(task.stage, image)(**self._stage(task, shard), **self._inputs(task))
        made.set_display_name(task.name)
        for name in task.after:
            made.after(self.made[name])
        cached = self.graph.kind == "begin" and task.kind in ("dataset_prep", "evaluate")
        made.set_caching_options(cached)
        placement.place(made, task.kind, self.profile, self.graph.recipe.threads)
        return made

    def _control(self, task: Task) -> dict[str, Any]:
        given = {**self.parameters, "run_id": _dsl().PIPELINE_JOB_ID_PLACEHOLDER, "plus_iteration": task.iteration}
        return {name: given[name] for name in _CONTROL[task.kind]}

    def _stage(self, task: Task, shard: Any) -> dict[str, Any]:
        text = configs.dumps(task.config)
        if len(text) > MAX_TEXT:
            raise ConfigError(
                expected=f"a configuration of at most {MAX_TEXT} characters",
                found=f"{len(text)}",
                where=f"{task.name}.config",
                action="move what is long into a file and name it in the configuration",
            )
        return {
            "store": self.parameters["store"],
            "evolution": self.parameters["evolution"],
            "iteration": self.parameters["iteration"],
            "plus_iteration": task.iteration,
            "step": 0 if task.step is None else self.parameters["step"],
            "plus_step": task.step or 0,
            "config": text,
            "shard": shard,
            "shards": task.shard.total if task.shard else 1,
        }

    def _inputs(self, task: Task) -> dict[str, Any]:
        assert task.stage is not None
        many = contract.variadic(task.stage.ins)
        return {
            contract.port_of(name): self._artifact(ref, collected=contract.port_of(name) in many)
            for name, ref in sorted(task.inputs.items(), reverse=True)  # of a collected port the first member counts
        }

    def _artifact(self, ref: Ref, *, collected: bool) -> Any:
        maker = self.tasks[ref.task]
        ins = contract.ports(maker.stage.ins) if maker.stage else {}
        if ref.task not in self.made:  # a shard after the first: part of the same loop
            return None
        output = self.made[ref.task].outputs[output_name(ref.port, ins)]
        return _dsl().Collected(output) if collected else output


def tick_pipeline(profile: Profile, images: Images) -> Any:
    """Return the pipeline of the watchdog: one task, the same for every recipe."""
    dsl = _dsl()

    def body(store: str, evolution: str, restart: bool) -> None:
        image = images.reference(profile.pool("tick").image, profile.registry)
        given = {"store": store, "evolution": evolution, "restart": restart}
        made = control("tick", image)(**given, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        made.set_display_name("tick")
        made.set_caching_options(False)
        placement.place(made, "tick", profile, 0)

    body.__annotations__ = {"store": str, "evolution": str, "restart": bool}
    return dsl.pipeline(name="instar-tick", description="repairs the chain of an evolution")(body)


def compile_graph(graph: Graph, profile: Profile, images: Images, out: Path) -> None:
    """Write the compiled package: pipeline spec and platform spec. The bytes depend on the arguments and kfp's version."""
    _compile(pipeline(graph, profile, images), out)


def compile_tick(profile: Profile, images: Images, out: Path) -> None:
    """Write the package of the watchdog."""
    _compile(tick_pipeline(profile, images), out)


def _compile(pipeline: Any, out: Path) -> None:
    from kfp import compiler  # pyright: ignore[reportMissingImports]

    temporary = out.with_name(f".{out.name}.yaml")
    compiler.Compiler().compile(pipeline, str(temporary))
    temporary.replace(out)


def _dsl() -> Any:
    try:
        from kfp import dsl  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDependencyError(
            expected="kfp", found=str(error), where="compile", action="pip install 'instar[kubeflow]'"
        ) from error
    return dsl
