"""`instar check` as people use it: exit codes, the report with its rows, and the refusals before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instar.artifact import QualityReport
from instar.cli.check import check
from instar.errors import ConfigError

HERE = Path(__file__).parent


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    lines = [{"question": f"What is {n} + {n * 7 % 31}?", "answer": str(n + n * 7 % 31)} for n in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(entry: Path | str, tasks: Path | None, out: Path | None = None, as_json: bool = False) -> int:
    return check([f"{entry}"], tasks, "whole", out, None, [], as_json)


def test_a_sound_reward_ends_with_0(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{HERE / 'rewards/good/exact.py'}:reward", rows, tmp_path / "report") == 0
    printed = capsys.readouterr().out
    assert f"exact.py:reward on {rows}: sound, 0 red, 0 yellow" in printed and "p99_ms" in printed
    report = QualityReport(tmp_path / "report")
    report.require()
    stored = report.read_json("quality.json")
    assert stored["success"] and stored["findings"] == [] and stored["code"].startswith("sha256:")
    assert stored["scorer"] == f"exact.py:reward {stored['code']}"


def test_a_red_finding_ends_with_1_and_names_the_line(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{HERE / 'rewards/bad/always_one.py'}:reward", rows, as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    first = report["findings"][0]
    assert first["severity"] == "red" and not report["success"]
    number = int(first["where"].rpartition("sums.jsonl:line ")[2])
    answer = json.loads(rows.read_text().splitlines()[number - 1])["answer"]
    assert f"the reference is '{answer}'" in first["found"]


def test_a_reward_needs_rows_and_a_file(rows: Path) -> None:
    with pytest.raises(ConfigError, match="--tasks PATH"):
        run(f"{HERE / 'rewards/good/exact.py'}:reward", None)
    with pytest.raises(ConfigError, match="did you mean 'reward'"):
        run(f"{HERE / 'rewards/good/exact.py'}:rewards", rows)
    with pytest.raises(ConfigError, match="network"):
        check([f"{HERE / 'rewards/good/exact.py'}:reward"], rows, "whole", None, None, ["disk"], False)


def test_several_functions_are_checked_as_the_sum_that_a_run_pays(rows: Path, tmp_path: Path) -> None:
    """The length of an answer is no fault as a small part of the sum, and one that outweighs being right."""
    source = "def right(answer, reference):\n    return answer.strip() == reference['answer']\n\n"
    source += "def long(completion):\n    return min(1.0, len(completion) / 500)\n"
    (tmp_path / "rew.py").write_text(source)
    assert check([f"{tmp_path}/rew.py:right", f"{tmp_path}/rew.py:long=0.1"], rows, "whole", None, None, [], True) == 0
    assert check([f"{tmp_path}/rew.py:right", f"{tmp_path}/rew.py:long=3"], rows, "whole", None, None, [], True) == 1


def test_a_curriculum_is_checked_against_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{HERE / 'curricula/easiest.py'}:Easiest", None) == 0
    assert "easiest.py:Easiest on the protocol of curricula: sound" in capsys.readouterr().out
    assert run(f"{HERE / 'curricula/forgets.py'}:Forgets", None) == 1
    printed = capsys.readouterr().out
    assert "RED    protocol" in printed and "after a restart" in printed
