"""Executor input: what a container may be told, and that junk in a pointer file is never taken for an absent artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instar import executor
from instar.errors import ConfigError, ContractError
from instar.executor import Pointer
from instar.pipelines import stage_command
from instar.pipelines.chain import control_command

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def given(*files: Path) -> str:
    artifacts = {"parts": {"artifacts": [{"uri": str(file)} for file in files]}}
    return json.dumps({"inputs": {"artifacts": artifacts}, "outputs": {"outputFile": "/nowhere"}})


def test_pointers_become_member_names(tmp_path: Path) -> None:
    for number, digest in enumerate((DIGEST, OTHER)):
        (tmp_path / str(number)).write_text(Pointer(digest=digest, type="Rollouts").dump())
    parsed = executor.parse(given(tmp_path / "0", tmp_path / "1"))
    assert parsed.digests() == {"parts.0": DIGEST, "parts.1": OTHER} and not parsed.stopped


def test_an_empty_digest_is_an_absent_input_and_a_reason_stops(tmp_path: Path) -> None:
    (tmp_path / "0").write_text(Pointer(digest="", type="Policy", stopped="target reached").dump())
    parsed = executor.parse(given(tmp_path / "0"))
    assert parsed.digests() == {} and parsed.stopped == "target reached"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"digest": null}',
        '{"digest": 5}',
        '{"digest": "sha256:../../x"}',
        '{"digest": "md5:0"}',
        '{"digest": "", "stopped": 1}',
    ],
)
def test_junk_in_a_pointer_file_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "0").write_text(text)
    with pytest.raises(ContractError, match="pointer file"):
        executor.parse(given(tmp_path / "0"))


@pytest.mark.parametrize("text", ["", "null", "[]", '{"inputs": {}}', '{"inputs": [], "outputs": {"outputFile": "x"}}'])
def test_junk_for_executor_input_is_an_error(text: str) -> None:
    with pytest.raises(ContractError, match="executor input"):
        executor.parse(text)


@pytest.mark.parametrize(
    ("uri", "path"),
    [("s3://b/k", "/s3/b/k"), ("minio://b/k", "/minio/b/k"), ("gs://b/k", "/gcs/b/k"), ("/tmp/x", "/tmp/x")],
)
def test_remote_artifacts_are_read_where_the_launcher_mounts_them(uri: str, path: str) -> None:
    assert executor.local_path(uri) == path


@pytest.mark.parametrize(("value", "number"), [(0, 0), (7, 7), (7.0, 7), ("7", 7), ("007", 7), (2**53, 2**53)])
def test_counts_as_kubeflow_sends_them(value: Any, number: int) -> None:
    found = executor.integer({"step": value}, "step")
    assert found == number and type(found) is int


JUNK_COUNTS: list[Any] = [
    None,
    True,
    -1,
    -1.0,
    0.5,
    float("inf"),
    float("nan"),
    1e300,
    2**53 + 1,
    "",
    "-1",
    "+1",
    "1.0",
    " 1",
    "1_0",
    "\u00b2",
    "\u0663",
    "9" * 5000,
    [],
    {},
]


@pytest.mark.parametrize("value", JUNK_COUNTS, ids=lambda v: repr(v)[:12])
def test_junk_for_a_count_names_the_parameter(value: Any) -> None:
    with pytest.raises(ConfigError, match="parameter plus_step"):
        executor.integer({"plus_step": value}, "plus_step")


@pytest.mark.parametrize("value", [None, 5, True, [], {}, "a\0b"])
def test_junk_for_a_text_names_the_parameter(value: Any) -> None:
    with pytest.raises(ConfigError, match="parameter store"):
        executor.text({"store": value}, "store")


@pytest.mark.parametrize("value", [None, 5, {}, "", "{", "nul", "[" * 100_000])
def test_junk_for_a_document_names_the_parameter(value: Any) -> None:
    with pytest.raises(ConfigError, match="parameter config"):
        executor.document({"config": value}, "config")


@pytest.mark.parametrize("value", [True, "true", "True"])
def test_a_flag_is_true_or_false_and_nothing_else(value: Any) -> None:
    assert executor.flag({"restart": value}, "restart") is True
    assert executor.flag({"restart": not value}, "restart") is False
    for junk in (None, 1, "yes", "", "truee"):
        with pytest.raises(ConfigError, match="parameter restart"):
            executor.flag({"restart": junk}, "restart")


@pytest.mark.parametrize("values", [[], [["step", 1]], "", 5, None])
def test_parameters_that_are_no_object_are_an_error(values: Any) -> None:
    raw = {"inputs": {"parameterValues": values}, "outputs": {"outputFile": "/nowhere"}}
    with pytest.raises(ContractError, match="executor input"):
        executor.parse(json.dumps(raw))


def task(tmp_path: Path, values: dict[str, Any], port: str = "", pointer: Pointer | None = None) -> list[str]:
    """Return the option of a container that is given these parameters and one input."""
    artifacts = {}
    if pointer:
        (tmp_path / "pointer").write_text(pointer.dump())
        artifacts = {port: {"artifacts": [{"uri": str(tmp_path / "pointer")}]}}
    inputs = {
        "parameterValues": {"store": str(tmp_path / "store"), "evolution": "evo", **values},
        "artifacts": artifacts,
    }
    return ["--executor-input", json.dumps({"inputs": inputs, "outputs": {"outputFile": str(tmp_path / "out.json")}})]


BAD_COUNT = ["three", -1, 1.5, None, True, [1]]


@pytest.mark.parametrize("key", ["iteration", "plus_iteration", "step", "plus_step", "shard", "shards"])
@pytest.mark.parametrize("value", BAD_COUNT, ids=repr)
def test_a_stage_refuses_a_malformed_count(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"parameter {key}"):
        stage_command.main(["dataset_prep", *task(tmp_path, {"config": "{}", key: value})])
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(("key", "value"), [("store", 5), ("evolution", None), ("config", {}), ("config", "{")])
def test_a_stage_refuses_a_malformed_text(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"parameter {key}"):
        stage_command.main(["dataset_prep", *task(tmp_path, {key: value})])


@pytest.mark.parametrize("text", ["\u00b2/3", "0/0", "3/3", "-1/2", "1", "a/b", "0/" + "9" * 5000], ids=lambda v: v[:8])
def test_a_malformed_shard_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        stage_command.main(["dataset_prep", "--store", str(tmp_path), f"--shard={text}"])


def test_a_malformed_configuration_or_step_on_the_command_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parameter config"):
        stage_command.main(["dataset_prep", "--store", str(tmp_path), "--config", "{"])
    with pytest.raises(ConfigError, match="parameter step"):
        stage_command.main(["dataset_prep", "--store", str(tmp_path), "--step", "-1"])


@pytest.mark.parametrize("stopped", ["", "target reached"])
def test_an_input_that_the_stage_does_not_have_is_refused(stopped: str, tmp_path: Path) -> None:
    pointer = Pointer(digest="" if stopped else DIGEST, type="Policy", stopped=stopped)
    with pytest.raises(ContractError, match="did you mean 'policy'"):
        stage_command.main(["rollout", *task(tmp_path, {"config": "{}"}, "polcy", pointer)])


@pytest.mark.parametrize("stopped", ["", "target reached"])
def test_a_pointer_to_another_class_of_artifact_is_refused(stopped: str, tmp_path: Path) -> None:
    pointer = Pointer(digest="" if stopped else DIGEST, type="Tasks", stopped=stopped)
    with pytest.raises(ContractError, match=r"expected an artifact of class Policy; found Tasks; at rollout\.policy"):
        stage_command.main(["rollout", *task(tmp_path, {"config": "{}"}, "policy", pointer)])


@pytest.mark.parametrize("key", ["segment", "attempt", "iteration", "plus_iteration"])
@pytest.mark.parametrize("value", BAD_COUNT, ids=repr)
def test_a_control_task_refuses_a_malformed_count(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"parameter {key}"):
        control_command.main(["open", *task(tmp_path, {key: value})])


@pytest.mark.parametrize(
    ("key", "value"), [("store", 5), ("evolution", None), ("run_id", 1), ("recipe", "{"), ("recipe", 1)]
)
def test_a_control_task_refuses_a_malformed_text(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"parameter {key}"):
        control_command.main(["begin", *task(tmp_path, {key: value})])


@pytest.mark.parametrize("value", ["yes", "1", 1, None])
def test_restart_is_true_or_false(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_KFP_HOST", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="parameter restart"):
        control_command.main(["tick", *task(tmp_path, {"restart": value})])
