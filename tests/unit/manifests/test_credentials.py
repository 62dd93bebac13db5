"""Secrets of an installation: fresh, complete, and only into a pipe."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from manifests import credentials
from manifests.check import FOLDER
from manifests.credentials import SECRETS, generate

from instar.errors import ConfigError


def test_secrets_are_fresh_complete_and_only_for_a_pipe() -> None:
    first, second = generate(), generate()
    assert {(o["metadata"]["namespace"], o["metadata"]["name"]): tuple(o["stringData"]) for o in first} == dict(SECRETS)
    values = [v for made in (first, second) for o in made for k, v in o["stringData"].items() if k != "username"]
    assert len(set(values)) == len(values) and min(map(len, values)) >= 20
    outside = {o["metadata"]["name"] for o in generate(external_s3=True)}
    assert not outside & {"instar-store", "mlflow-store", "seaweedfs-admin", "seaweedfs-identities"}
    command = [sys.executable, "-m", "manifests.credentials"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    assert done.stdout.count('"kind": "Secret"') == len(SECRETS) and not done.stderr


def test_secrets_are_not_printed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})())
    with pytest.raises(ConfigError, match="a terminal"):
        credentials.main([])
