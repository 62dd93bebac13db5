"""The example of a judge as the reward: its commands as they stand in the README, and what the policy learned in truth."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unit.test_docs import FENCE, ROOT

EXAMPLE = ROOT / "examples" / "judge"


@pytest.mark.slow  # the judge is trained for 40 s, and the policy for 20 s; tests/e2e/test_scorer.py runs a judge in seconds
def test_the_policy_sorts_better_although_only_the_judge_scored_it(tmp_path: Path) -> None:
    place = tmp_path / "example"
    shutil.copytree(EXAMPLE, place)
    commands = [shlex.split(block) for _, block in FENCE.findall((EXAMPLE / "README.md").read_text())]
    assert [words[0] for words in commands] == ["python", "instar", "python"]
    starts = {"python": [sys.executable], "instar": [sys.executable, "-m", "instar"]}
    said = ""
    for first, *words in commands:
        done = subprocess.run(
            [*starts[first], *words], cwd=place, capture_output=True, text=True, check=True, timeout=900
        )
        said = done.stdout
    truth = [float(share) for share in re.findall(r"^id .* truth (\.?[0-9.]+)$", said, re.MULTILINE)]
    assert len(truth) == 2 and truth[1] > truth[0] + 0.1, said
