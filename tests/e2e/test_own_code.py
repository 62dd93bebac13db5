"""Code of a user's is what a run stored: one byte of it runs again what reads it, and a result is computed from the store alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from instar.cli import show
from instar.cli.commands import evolve_in
from instar.cli.replay import replay
from instar.pipelines.reuse import REUSED
from instar.workspace import open_workspace
from support.micro import micro

REWARD = (
    "from helper import clean\n\n\ndef reward(answer, reference):\n    return clean(answer) == reference['answer']\n"
)
HELPER = "def clean(text):\n    return text.strip()\n"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def source(folder: Path, helper: str = HELPER, unused: str = "A = 1\n") -> str:
    folder.mkdir()
    for name, text in {"rew.py": REWARD, "helper.py": helper, "unused.py": unused}.items():
        (folder / name).write_text(text)
    return f"{folder / 'rew.py'}:reward"


def run(directory: Path, reward: str, reuse: Path | None = None) -> None:
    recipe = micro(inner_steps=1, iterations=1, threads=1, clock="rounds")
    evolve_in(recipe, directory, reward=reward, tracking="off", reuse=reuse)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose source is gone."""
    folder = tmp_path_factory.mktemp("own")
    run(folder / "a", source(folder / "mine"))
    shutil.rmtree(folder / "mine")
    return folder / "a"


def taken(directory: Path) -> dict[str, list[bool]]:
    out: dict[str, list[bool]] = {}
    for entry in open_workspace(directory).ledger.of("stage"):
        out.setdefault(entry.body["stage"], []).append(REUSED in entry.time)
    return out


def test_a_byte_in_a_file_that_nothing_imports_changes_nothing(recorded: Path, tmp_path: Path) -> None:
    run(tmp_path / "b", source(tmp_path / "mine", unused="A = 2\n"), recorded)
    assert all(all(flags) for flags in taken(tmp_path / "b").values())
    assert open_workspace(tmp_path / "b").ledger.head == open_workspace(recorded).ledger.head


def test_a_byte_of_the_reward_runs_again_what_reads_it(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "b", source(tmp_path / "mine", helper=HELPER.replace("strip", "lstrip")), recorded)
    flags = taken(tmp_path / "b")
    assert (flags["dataset_prep"], flags["curriculum"], flags["rollout"]) == ([True], [True], [True])
    assert not any([*flags["reward"], *flags["update"], *flags["evaluate"]])
    capsys.readouterr()
    assert show.diff(recorded, tmp_path / "b") == 1
    printed = capsys.readouterr().out
    assert "-    return text.strip()\n+    return text.lstrip()\n" in printed and "unused" not in printed


def test_a_score_is_computed_again_without_the_users_folder(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = open_workspace(recorded).evolution
    shutil.copytree(recorded / "store", tmp_path / "store")
    assert replay(f"{tmp_path / 'store'}/evolutions/{name}", 1, "reward") == 0
    assert ", reward of iteration 1, step 0: 1 outputs" in capsys.readouterr().out


def test_show_names_the_code(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show.show(recorded, as_json=True)
    code = json.loads(capsys.readouterr().out)["code"]["reward_code"]
    assert code["entries"] == ["rew.py:reward"]
    show.show(recorded, as_json=False)
    assert f"reward     rew.py:reward {code['digest'][7:15]}\n" in capsys.readouterr().out
