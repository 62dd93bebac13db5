"""The page on strategies: its code keeps the protocols, and is the code of the example."""

from __future__ import annotations

import re
from pathlib import Path

from instar.cli.check import check_strategy
from instar.components.sandbox.sandbox import Sandbox
from instar.components.update.own import __doc__ as about_update
from instar.rows import ArmStatsRow
from support.brought import SHORT, brought
from unit.test_docs import ROOT

PAGE = (ROOT / "docs/howto/strategies.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


def test_the_curriculum_of_the_page_keeps_the_protocol_and_is_the_example(tmp_path: Path) -> None:
    code = brought(tmp_path, FILES["half.py"], "half.py")
    assert check_strategy(code, "half.py:Half", SHORT)["success"]
    example = (ROOT / "examples/own_curriculum/half.py").read_text()
    assert example.partition('"""\n\n')[2] == FILES["half.py"]
    assert len(example.splitlines()) <= 40


def test_the_functions_of_the_page_return_what_it_says(tmp_path: Path) -> None:
    batch = {"groups": [0, 0, 1, 1], "rewards": [1.0, 0.0, 0.5, 0.5], "correct": [1.0, 0.0, 0.5, 0.5]}
    with Sandbox(brought(tmp_path, FILES["own.py"], "own.py"), SHORT) as sandbox:
        for name, field, expected in (
            ("centred", "rewards", [0.5, -0.5, 0.0, 0.0]),
            ("mixed", "correct", [True, False]),
        ):
            row = {"groups": batch["groups"], field: batch[field]}
            assert sandbox.calls(f"own.py:{name}", [row]) == [expected]


def test_the_tables_name_what_exists() -> None:
    assert about_update is not None
    parameters = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert parameters == set(re.findall(r"`(rewards|correct|groups|lengths|truncated)`", about_update))
    assert {"num_rollouts", "sum_correct", "sum_reward"} <= set(ArmStatsRow.__dataclass_fields__)
