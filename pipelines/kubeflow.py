"""Stages as Kubeflow container components. The only module that imports kfp; needs the `kubeflow` extra.

A component's interface is synthesised from the stage's declaration, so that wrong wiring is refused when a pipeline compiles.
Artifacts use KFP's base types and carry a pointer file with a digest; the configuration crosses as one JSON string, because
KFP turns integers inside structured parameters into floats. An output that shares its name with an input is called
`out_<name>`, since a KFP component has one name space.
"""

from __future__ import annotations

import inspect
from typing import Any, Optional

from instar import contract
from instar.contract import Stage

PARAMETERS: dict[str, type] = {"store": str, "evolution": str, "step": int, "config": str}


def component(stage: Stage[Any, Any, Any], image: str) -> Any:
    """Return the KFP container component of `stage`, run in `image`. Optional inputs stay optional."""
    from kfp import dsl  # pyright: ignore[reportMissingImports]

    def body(*ports: Any) -> Any:
        del ports
        return dsl.ContainerSpec(
            image=image,
            command=["instar", "stage", stage.name],
            args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    hints: dict[str, Any] = dict(PARAMETERS)
    optional: set[str] = set()
    for name, (kind, required) in contract.ports(stage.ins).items():
        hint = dsl.Input[getattr(dsl, kind.kfp_type)]
        hints[name] = hint if required else Optional[hint]  # noqa: UP045 (kfp reads this form)
        optional |= set() if required else {name}
    for name, (kind, _) in contract.ports(stage.outs).items():
        hints[f"out_{name}" if name in hints else name] = dsl.Output[getattr(dsl, kind.kfp_type)]
    kind_of = inspect.Parameter.POSITIONAL_OR_KEYWORD
    order = sorted(hints, key=lambda name: name in optional)
    body.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                n, kind_of, annotation=hints[n], default=None if n in optional else inspect.Parameter.empty
            )
            for n in order
        ]
    )
    body.__annotations__ = hints
    body.__name__ = stage.name
    body.__doc__ = stage.run.__doc__
    return dsl.container_component(body)
