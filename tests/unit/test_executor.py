"""Executor input: what a container may be told, and that junk in a pointer file is never taken for an absent artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instar import executor
from instar.errors import ContractError
from instar.executor import Pointer

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
