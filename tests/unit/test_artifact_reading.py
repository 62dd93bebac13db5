"""Rows are read in the thread that asks for them, and an artifact that is not on disk has no path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from instar.artifact import Policy
from instar.errors import ArtifactError

READ = """
import os, sys
from pathlib import Path
from instar.artifact import Batch
from instar.rows import BatchRow
batch = Batch(path=Path(sys.argv[1]))
rows = [BatchRow(slot=i, task_id="t", arm="a", probability=1.0, group_id=f"g{i}", group_size=2) for i in range(3)]
batch.write(rows)
before = set(os.listdir("/proc/self/task"))
assert batch.read() == rows
sys.exit(len(set(os.listdir("/proc/self/task")) - before))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux alone")
def test_reading_waits_for_no_other_thread(tmp_path: Path) -> None:
    """Arrow's dataset scanner hands even one small file to its pools and waits without a limit."""
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_artifact_that_is_not_on_disk_has_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder may hold files of its own. They are never taken for those of an artifact."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "another"}')
    policy = Policy(None, f"sha256:{7:064x}")
    for use in (policy.require, lambda: policy.read_json("config.json"), lambda: policy.path):
        with pytest.raises(ArtifactError, match="found only its digest; at sha256:0000"):
            use()
    assert repr(policy) == f"Policy(sha256:{7:064x})"
    Policy(tmp_path, policy.digest).require()
