"""Rows are read in the thread that asks for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
