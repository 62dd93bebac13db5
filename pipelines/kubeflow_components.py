"""Builds Kubeflow container components for stages and control nodes from their declarations.

- Wrong wiring is refused when a pipeline is compiled.
- Artifacts have KFP's base types. Their files are small pointers with a digest (`instar.executor`).
- The configuration is one JSON string, because KFP turns integers inside structured parameters into floats.
- An output that has the name of an input is called `out_<name>`, because KFP has one name space for both.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, List, Optional  # noqa: UP035 (kfp reads these forms)

from instar import contract
from instar.artifact import Artifact
from instar.components.catalog import GATHER, ROLLOUT
from instar.contract import Stage
from instar.errors import MissingDependencyError

STAGE: dict[str, type] = {
    "store": str,
    "evolution": str,
    "iteration": int,
    "plus_iteration": int,
    "step": int,
    "plus_step": int,
    "config": str,
    "shard": int,
    "shards": int,
}
_RUN: dict[str, type] = {"store": str, "evolution": str, "run_id": str}
CONTROL: dict[str, dict[str, type]] = {
    "open": {**_RUN, "segment": int, "attempt": int},
    "gate": {**_RUN, "iteration": int, "plus_iteration": int},
    "advance": {**_RUN, "segment": int, "iteration": int, "plus_iteration": int},
    "tick": {**_RUN, "restart": bool},
}
Ports = Mapping[str, tuple[type[Artifact], bool]]


def component(stage: Stage[Any, Any, Any], image: str, inputs: Iterable[str] = ()) -> Any:
    """Return the KFP container component of `stage`, run in `image`. Optional inputs stay optional.

    A port that may take no artifact at all becomes one port for each of its members in `inputs`: `sources.0` becomes `sources_0`.
    """
    ports, many = contract.ports(stage.ins), collected(stage)
    loose = contract.variadic(stage.ins) - many
    ins = {name: port for name, port in ports.items() if name not in loose}
    ins |= {
        contract.flat_name(n): (ports[contract.port_of(n)][0], True) for n in inputs if contract.port_of(n) in loose
    }
    return _component(
        stage.name,
        ["stage", stage.name],
        image,
        STAGE,
        ins,
        contract.ports(stage.outs),
        many=many,
        extra={"metrics": "Metrics"},
        doc=stage.run.__doc__ or "",
    )


def collected(stage: Stage[Any, Any, Any]) -> frozenset[str]:
    """Return the ports of `stage` that take what the shards of a loop made."""
    ports = contract.ports(stage.ins)
    return frozenset(name for name in contract.variadic(stage.ins) if ports[name][1])


def gang(image: str) -> Any:
    """Return the component of a gang: one task that runs all shards of a rollout and gathers their results."""
    ins, outs = contract.ports(ROLLOUT.ins), contract.ports(GATHER.outs)
    parameters = {**STAGE, "pod": str}
    extra = {"metrics": "Metrics"}
    return _component(
        "gang", ["control", "gang"], image, parameters, ins, outs, extra=extra, doc="All shards as one job."
    )


def control(kind: str, image: str, handed: type[Any] | None = None) -> Any:
    """Return the component of a control node. `handed` declares the outputs of `open` and `gate`; without it they have none."""
    outs = contract.ports(handed) if handed and kind in ("open", "gate") else {}
    extra = {"report": "Markdown", "metrics": "Metrics"} if kind == "advance" else {}
    return _component(
        kind, ["control", kind], image, CONTROL[kind], {}, outs, extra=extra, doc=f"Control task: {kind}."
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
    dsl = kfp_dsl()

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
    return f"out_{port}" if port in ins or port in STAGE else port


def kfp_dsl() -> Any:
    """Return `kfp.dsl`. Raises `MissingDependencyError` if the `kubeflow` extra is not installed."""
    try:
        from kfp import dsl  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDependencyError(
            expected="the package kfp", found=str(error), where="compile", action="pip install 'instar[kubeflow]'"
        ) from error
    return dsl
