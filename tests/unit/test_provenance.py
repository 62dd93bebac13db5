"""What `show` and `diff` say about the code that a user brought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instar import provenance
from instar.artifact import Code
from instar.bundle import bundle
from instar.cli import show
from instar.workspace import Workspace, create_workspace

OPENING: dict[str, Any] = {"name": "sec", "scale": "tiny", "seed": 0, "code": "c"}
STRICT = "from words import clean\n\ndef reward(answer, reference):\n    return clean(answer) == reference['answer']\n"


def opened(directory: Path, **code: tuple[str, dict[str, str]]) -> Workspace:
    """Open an evolution that brings code: name -> its entry and the texts of its files."""
    workspace, digests = create_workspace(directory, "sec-tiny-seed0"), {}
    for name, (entry, files) in code.items():
        folder = directory / "sources" / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text)
        bundle([str(folder / entry)], directory / "bundles" / name)
        digests[name] = workspace.put(Code(directory / "bundles" / name))
    recipe = {"iterations": 1, "inner_steps": 1}
    pins = {"brought": digests} if digests else {}
    workspace.ledger.append("open", {**OPENING, "recipe": recipe, **pins}, {"at": 0.0})
    return workspace


def test_show_names_entries_and_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"rew.py": STRICT, "words.py": "def clean(text):\n    return text\n"}
    workspace = opened(tmp_path, reward_code=("rew.py:reward", files))
    digest = provenance.brought(workspace.ledger)["reward_code"]
    show.show(tmp_path, as_json=False)
    assert f"reward     rew.py:reward {digest[7:15]}\n" in capsys.readouterr().out
    show.show(tmp_path, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["code"] == {"reward_code": {"digest": digest, "entries": ["rew.py:reward"]}}


def test_show_of_a_run_without_code_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(tmp_path)
    show.show(tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["code"] == {}


def test_diff_prints_the_changed_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strip = {"rew.py": STRICT, "words.py": "def clean(text):\n    return text\n"}
    lower = {"rew.py": STRICT, "words.py": "def clean(text):\n    return text.lower()\n"}
    same = ("cur.py:Mine", {"cur.py": "class Mine: ...\n"})
    opened(tmp_path / "a", reward_code=("rew.py:reward", strip), curriculum_code=same)
    opened(tmp_path / "b", reward_code=("rew.py:reward", lower), curriculum_code=same, update_code=same)
    assert show.diff(tmp_path / "a", tmp_path / "b") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "update_code: only the second brings it" in lines
    assert [line for line in lines if line[:1] in "-+" and not line.startswith(("---", "+++"))] == [
        "-    return text",
        "+    return text.lower()",
    ]
    assert "--- a/words.py" in lines and "--- a/rew.py" not in lines
    assert not any(line.startswith("curriculum_code") for line in lines)


def test_diff_shows_files_that_one_side_lacks_and_stays_short(tmp_path: Path) -> None:
    short, long = "def reward(): ...\n", "def reward(): ...\n" + "".join(f"A{i} = {i}\n" for i in range(2000))
    two_files = {"rew.py": f"import words\n{short}", "words.py": "A = 1\n"}
    a = opened(tmp_path / "a", reward_code=("rew.py:reward", two_files))
    b = opened(tmp_path / "b", reward_code=("rew.py:reward", {"rew.py": short}))
    c = opened(tmp_path / "c", reward_code=("rew.py:reward", {"rew.py": long}))
    assert "--- a/words.py\n+++ /dev/null\n" in provenance.differences(a, b)
    assert "--- /dev/null\n+++ b/words.py\n" in provenance.differences(b, a)
    lines = provenance.differences(b, c).splitlines()
    assert len(lines) == provenance.DIFF_LINES + 1
    assert (
        lines[-1] == f"... {2000 + 5 - provenance.DIFF_LINES} more lines"
    )  # name, two labels, range, one line of context
