"""SEC at the tiny scale really learns: thirty updates beat the base on held-out tasks, paired, with the interval above zero."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from instar.artifact import Evaluation
from instar.pipelines.evolution import evolve
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipes import build
from instar.workspace import create_workspace


def test_thirty_updates_beat_the_base(tmp_path: Path) -> None:
    recipe = dataclasses.replace(build("sec", "tiny"), iterations=3)
    workspace = create_workspace(tmp_path, "sec-tiny-test")
    outcome = evolve(LocalRunner(workspace, threads=recipe.threads), recipe)
    tested = Evaluation(workspace.cas.get(outcome.champion_test.digest)).read_json("summary.json")["splits"]["id"]
    assert tested["comparison"]["verdict"] == "better"
    assert tested["comparison"]["low"] > 0.03
    base = Evaluation(workspace.cas.get(outcome.base_test.digest)).read_json("summary.json")["splits"]["id"]["arms"]
    next_level = "sort-06"  # one beyond what the base solves now and then; the curriculum goes there first
    assert tested["arms"][next_level]["score"] > base[next_level]["score"] + 0.2
