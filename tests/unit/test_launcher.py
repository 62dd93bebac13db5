"""Executor input, placeholders and outputs are those of KFP's launcher; a missing or unsound output is a failure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import executor
from instar.errors import ConfigError, ContractError
from instar.executor import Pointer
from instar.pipelines.containers import launcher
from instar.pipelines.containers.program import Machine, Port, Task

DATASET = Port(title="system.Dataset", version="0.0.1")
DIGEST = "sha256:" + "a" * 64


@settings(max_examples=100, deadline=None)
@given(text=st.text() | st.sampled_from(["{{$}}", "{{$.inputs.parameters['n']}}", "{{$.pipeline_job_name}}", "\\1"]))
def test_values_are_never_read_as_placeholders(text: str) -> None:
    made = {
        "inputs": {"parameterValues": {"a": text, "n": 3, "f": True}, "artifacts": {}},
        "outputs": {"outputFile": "/o", "artifacts": {}, "parameters": {}},
    }
    names = {".pipeline_job_name": text}
    assert launcher.fill("{{$.inputs.parameters['a']}}", made, names, "t") == text
    assert launcher.fill("<{{$.pipeline_job_name}}>", made, names, "t") == f"<{text}>"
    assert json.loads(launcher.fill("{{$}}", made, names, "t")) == made
    filled = launcher.fill("{{$.inputs.parameters['n']}},{{$.inputs.parameters['f']}}", made, names, "t")
    assert filled == "3,true"


def _task(out_parameters: dict[str, str], out_artifacts: dict[str, Port]) -> Task:
    return Task(
        name="t",
        image="i",
        command=(),
        args=(),
        env={},
        parameters={},
        types={},
        artifacts={},
        out_parameters=out_parameters,
        out_artifacts=out_artifacts,
        machine=Machine(memory_mounts={}, supplied={}),
    )


def _written(folder: Path) -> tuple[Task, dict[str, Any]]:
    """A task that did everything right."""
    task = _task({"count": "NUMBER_INTEGER"}, {"made": DATASET})
    made = launcher.build(task, {}, {}, folder)
    (folder / "made").write_text(json.dumps({"digest": DIGEST, "type": "Tasks"}))
    (folder / "count").write_text("3")
    metadata = {"instar.type": "Tasks", "instar.digest": DIGEST}
    entry = {**made["outputs"]["artifacts"]["made"]["artifacts"][0], "metadata": metadata}
    (folder / "executor_output.json").write_text(json.dumps({"artifacts": {"made": {"artifacts": [entry]}}}))
    return task, made


def test_outputs_are_read_back(tmp_path: Path) -> None:
    task, made = _written(tmp_path)
    outputs = launcher.read_outputs(task, made)
    assert outputs.parameters == {"count": 3}
    (entry,) = outputs.artifacts["made"]
    assert entry["uri"] == str(tmp_path / "made") and entry["metadata"]["instar.digest"] == DIGEST
    assert entry["type"] == {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}


def _other_digest(folder: Path) -> None:
    (folder / "made").write_text(json.dumps({"digest": "sha256:" + "b" * 64, "type": "Tasks"}))


def _other_place(folder: Path) -> None:
    said = json.loads((folder / "executor_output.json").read_text())
    said["artifacts"]["made"]["artifacts"][0]["uri"] = "/etc/passwd"
    (folder / "executor_output.json").write_text(json.dumps(said))


def _link(folder: Path) -> None:
    outside = folder.with_name(folder.name + "-outside")
    (folder / "made").rename(outside)
    (folder / "made").symlink_to(outside)


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: (f / "made").unlink(),
        lambda f: (f / "count").unlink(),
        lambda f: (f / "executor_output.json").unlink(),
        lambda f: (f / "executor_output.json").write_text("{"),
        lambda f: (f / "executor_output.json").write_text("[]"),
        lambda f: (f / "executor_output.json").write_text("{}"),
        lambda f: (f / "count").write_text("three"),
        lambda f: (f / "made").write_text("top secret"),
        lambda f: (f / "made").write_text('{"digest": "sha256:1", "type": "Tasks"}'),
        lambda f: (f / "made").write_bytes(b"\xff"),
        lambda f: (f / "made").write_text(" " * (launcher.LIMIT + 1)),
        _other_digest,
        _other_place,
        _link,
    ],
)
def test_an_output_that_is_missing_or_unsound_is_a_failure(harm: Callable[[Path], Any], tmp_path: Path) -> None:
    task, made = _written(tmp_path)
    harm(tmp_path)
    with pytest.raises(ContractError) as error:
        launcher.read_outputs(task, made)
    assert "top secret" not in str(error.value) and "root:" not in str(error.value)


def test_what_a_stage_writes_is_what_is_read(tmp_path: Path) -> None:
    """The two halves of the contract: `instar.executor` in the container, `read_outputs` around it."""
    ports = {"made": DATASET, "absent": DATASET, "metrics": Port(title="system.Metrics", version="")}
    task = _task({"next": "STRING"}, {**ports, "report": Port(title="system.Markdown", version="")})
    made = launcher.build(task, {"step": 3}, {}, tmp_path)
    inside = executor.parse(launcher.fill("{{$}}", made, {}, "t"))
    assert inside.parameters == {"step": 3}
    pointers = {"made": Pointer(digest=DIGEST, type="Tasks"), "absent": Pointer(digest="", type="Policy")}
    files: Any = {"report": ("# Report", {}), "metrics": ("{}", {"accuracy": 0.5})}
    executor.write(inside, pointers, {"schema": 1}, files, {"next": "iterate"})
    outputs = launcher.read_outputs(task, made)
    assert outputs.parameters == {"next": "iterate"}
    assert outputs.artifacts["metrics"][0]["metadata"] == {"accuracy": 0.5}
    assert outputs.artifacts["made"][0]["metadata"]["instar.digest"] == DIGEST
    after = launcher.build(_task({}, {}), {}, outputs.artifacts, tmp_path / "next")
    del after["inputs"]["artifacts"]["report"], after["inputs"]["artifacts"]["metrics"]  # no stage reads these
    assert executor.parse(json.dumps(after)).digests() == {"made": DIGEST}
    (tmp_path / "report").unlink()
    with pytest.raises(ContractError, match="report"):
        launcher.read_outputs(task, made)


@pytest.mark.parametrize("text", ["{{$.inputs.parameters['x'].y}}", "{{$.workspace_path}}", "{{$", '{"Concat": ["a"]}'])
def test_an_unknown_placeholder_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        launcher.references(text, "t")


def test_a_list_of_artifacts_has_no_single_place(tmp_path: Path) -> None:
    entry = {"name": "a", "type": {}, "uri": "/x", "metadata": {}}
    made = launcher.build(_task({}, {}), {}, {"one": [entry], "two": [entry, entry]}, tmp_path)
    assert launcher.fill("{{$.inputs.artifacts['one'].path}}", made, {}, "t") == "/x"
    with pytest.raises(ConfigError, match="2 artifacts"):
        launcher.fill("{{$.inputs.artifacts['two'].path}}", made, {}, "t")
