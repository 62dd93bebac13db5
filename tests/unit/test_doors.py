"""The page that compares instar with other libraries has the numbers of the programs beside it."""

from __future__ import annotations

import importlib.util
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unit.test_docs import ROOT, parse

DOORS = ROOT / "benchmarks" / "doors"
PAGE = (ROOT / "docs/doors.md").read_text()


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("doors_count", DOORS / "count.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "doors_count", module)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_counted_lines(count: Any) -> None:
    assert count.table() in PAGE


def test_every_program_is_counted(count: Any) -> None:
    folders = {path.parent.name for path in DOORS.glob("*/run.sh")}
    assert {program.folder for program in count.PROGRAMS} == folders
    every = {path for folder in folders for path in (DOORS / folder).rglob("*") if path.is_file()}
    counted = {path for program in count.PROGRAMS for path in program.files()}
    assert {path.name for path in every - counted if "__pycache__" not in path.parts} == {"run.sh"}


def test_comments_docstrings_and_blank_lines_do_not_count(count: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        '"""One\n\ntwo."""\n\n# three\nX = """four\nfive"""\n\n\ndef f():\n    """Six."""\n    return X  # seven\n'
    )
    assert count.lines(file) == 4


def test_wrapping_a_command_changes_no_count(count: Any) -> None:
    once = "instar run sec --model M --tasks T\n"
    wrapped = "# a comment\ninstar run sec \\\n    --model M \\\n    --tasks T\n"
    assert count.command_lines(once) == count.command_lines(wrapped) == 3
    assert count.command_lines('python -m x a.b=1 ++c.d="[1,e=2]" file\nuvicorn s:app &\n') == 4


def test_the_command_of_instar_parses() -> None:
    program, *words = shlex.split((DOORS / "instar/run.sh").read_text())
    assert program == "instar"
    parse(words)


def test_the_rewards_of_all_three_functions_agree() -> None:
    instar = runpy.run_path(str(ROOT / "examples/units/rew.py"))["reward"]
    trl = runpy.run_path(str(DOORS / "trl/rew.py"))["reward"]
    verl = runpy.run_path(str(DOORS / "verl/rew.py"))["compute_score"]
    for answer, right in [(" 3000\n", 1.0), ("300", 0.0), ("", 0.0)]:
        assert float(instar(answer, {"answer": "3000"})) == right
        assert trl([answer], ["3000"], prompts=[""]) == [right]
        assert verl("units", answer, "3000") == right
