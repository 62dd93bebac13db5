"""Computes the parameter values of a pipeline and of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instar.errors import ConfigError, nearest
from instar.pipelines.containers.launcher import Outputs, fill
from instar.pipelines.containers.program import Constant, Item, Parameter, Program, Source, Task, cast

Arguments = Mapping[str, Any]
"""Parameter values of a pipeline by name."""


def given_values(program: Program, parameters: Arguments) -> dict[str, Any]:
    """Return the pipeline's parameters with their types and defaults. Raises `ConfigError` for an unknown or missing one."""
    for name in parameters:
        if name not in program.parameters:
            action = nearest(name, program.parameters)
            raise ConfigError(
                expected="a parameter of the pipeline", found=f"'{name}'", where=program.name, action=action
            )
    values = {**program.defaults, **parameters}
    if missing := sorted(set(program.parameters) - set(values)):
        raise ConfigError(
            expected="a value for every parameter",
            found=f"none for {missing}",
            where=program.name,
            action="pass these parameters",
        )
    return {name: cast(value, program.parameters[name], f"{program.name}.{name}") for name, value in values.items()}


def task_values(
    task: Task, item: Any, arguments: Arguments, done: Mapping[str, Outputs], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return the parameter values of a task with their types. Placeholders in constants are replaced by other parameters."""
    values = {n: value_of(s, item, arguments, done) for n, s in task.parameters.items()}
    around = {"inputs": {"parameterValues": values}, "outputs": {"outputFile": ""}}
    for name, source in task.parameters.items():
        if isinstance(source, Constant) and isinstance(source.value, str):
            values[name] = fill(source.value, around, names, f"task {task.name}.{name}")
    return {n: cast(v, task.types[n], f"task {task.name}.{n}") if n in task.types else v for n, v in values.items()}


def value_of(source: Source, item: Any, arguments: Arguments, done: Mapping[str, Outputs]) -> Any:
    """Return the value of a parameter's source."""
    if isinstance(source, Constant):
        return source.value
    if isinstance(source, Parameter):
        return arguments[source.name]
    if isinstance(source, Item):
        return item
    return done[source.task].parameters[source.key]
