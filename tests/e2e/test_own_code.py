"""Code of a user's is what a run stored: every runner does the same with it, and nothing is read from the user's folder again.

One byte of it runs again what reads it, and a result is computed from the store alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instar.cli import show
from instar.cli.commands import evolve_in, resume
from instar.cli.replay import replay
from instar.components.sandbox.worker import CHILD
from instar.errors import ArtifactError, ConfigError
from instar.manifest import blob_name
from instar.pipelines.evolution import evolve
from instar.pipelines.local import LocalRunner, Mode
from instar.pipelines.reuse import REUSED
from instar.state import LIFETIMES
from instar.workspace import open_workspace
from support.micro import micro
from support.own_code import CODES, FILES, open_own, write_files

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


KILLED = Path(__file__).parents[1] / "support" / "killed.py"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows, rewards, curriculum, advantage and filter of a user's, in one process under both clocks. Their files are gone."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("every")
    for clock in ("rounds", "fused"):
        run_own(folder / clock, write_files(folder / "mine"), clock)
        shutil.rmtree(folder / "mine")
    return {clock: folder / clock for clock in ("rounds", "fused")}


def run_own(directory: Path, files: Path, clock: Any, mode: Mode = "inprocess", **changes: Any) -> None:
    workspace, recipe = open_own(directory, files, clock=clock, **changes)
    evolve(LocalRunner(workspace, mode, threads=1), recipe)


def carried(directory: Path) -> list[dict[str, str]]:
    """Return the digest of every entry of the state after each iteration, the preparation first."""
    after: dict[int, dict[str, str]] = {}
    now: dict[str, str] = {}
    for entry in open_workspace(directory).ledger.of("stage"):
        now |= {name: digest for name, digest in entry.body["outputs"].items() if name in LIFETIMES}
        after[entry.body["iteration"]] = dict(now)
    return list(after.values())


def test_both_clocks_do_the_same_with_the_users_code(unbroken: dict[str, Path]) -> None:
    rounds, fused = carried(unbroken["rounds"]), carried(unbroken["fused"])
    assert rounds == fused and len({digests["policy"] for digests in rounds}) == 3
    openings = [next(open_workspace(path).ledger.of("open")).body for path in unbroken.values()]
    assert openings[0]["brought"] == openings[1]["brought"]
    assert set(openings[0]["brought"]) == {*CODES, "imported"}
    inputs = {name for e in open_workspace(unbroken["rounds"]).ledger.of("stage") for name in e.body["inputs"]}
    assert {*CODES, "imported"} <= inputs  # all of them are part of stage keys


@pytest.mark.parametrize("clock", ["fused", pytest.param("rounds", marks=pytest.mark.slow)])
def test_a_process_per_stage_writes_the_ledger_of_one_process(clock: str, tmp_path: Path) -> None:
    files = write_files(tmp_path / "mine")
    for mode in ("subprocess", "inprocess"):
        run_own(tmp_path / mode, files, clock, mode, iterations=1, inner_steps=1)
    heads = {open_workspace(tmp_path / mode).ledger.head for mode in ("subprocess", "inprocess")}
    assert len(heads) == 1


def orphans() -> Iterator[list[str]]:
    """Yield the command of every sandbox process of this checkout whose host is gone."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if str(CHILD) in words and not Path(f"/proc/{words[words.index(str(CHILD)) + 2]}").exists():
            yield words


def test_a_run_that_is_killed_goes_on_without_the_users_files(unbroken: dict[str, Path], tmp_path: Path) -> None:
    """Runs die at several instants, with a sandbox open. The user's files exist only at the first opening."""
    command = [sys.executable, str(KILLED), str(tmp_path), "own", "0.8", "1.6", "2.4", "1.2", "1e9"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and int(ended.stdout.split()[-1]) > 0, ended.stderr[-2000:]
    assert not (tmp_path / "mine").exists()
    assert open_workspace(tmp_path).ledger.head == open_workspace(unbroken["fused"]).ledger.head
    assert not list(orphans())


def test_resume_needs_no_file_of_the_user(unbroken: dict[str, Path], tmp_path: Path) -> None:
    open_own(tmp_path / "run", write_files(tmp_path / "mine"), clock="fused")
    shutil.rmtree(tmp_path / "mine")
    resume(tmp_path / "run", "inprocess", "off", accept_code=False)
    resumed, whole = open_workspace(tmp_path / "run").ledger, open_workspace(unbroken["fused"]).ledger
    assert [e.digest for e in resumed.entries[:-1]] == [e.digest for e in whole.entries]
    assert resumed.closing is not None


@pytest.mark.parametrize(
    ("file", "old", "new", "entry"),
    [
        ("helper", "strip", "lstrip", "reward_code"),
        ("cur", "p.get(name, 0.0)", "p.get(name, 0)", "curriculum_code"),
        ("upd", "> 1", "> 2", "update_code"),
    ],
)
def test_another_content_of_a_file_is_refused_by_name(
    file: str, old: str, new: str, entry: str, unbroken: dict[str, Path], tmp_path: Path
) -> None:
    changed = FILES[f"{file}.py"].replace(old, new)
    with pytest.raises(ConfigError, match=f"expected {entry} sha256:[0-9a-f]+, with which this evolution was opened"):
        open_own(unbroken["fused"], write_files(tmp_path / "mine", **{file: changed}), clock="fused")


PLANTED = {"reward_code": "helper.py", "curriculum_code": "cur.py", "update_code": "upd.py"}


@pytest.mark.parametrize("entry", CODES)
def test_code_that_was_changed_in_the_store_does_not_run(entry: str, tmp_path: Path) -> None:
    """Somebody replaces a file of the bundle in the store. Every stage that would import it ends before that."""
    workspace, recipe = open_own(tmp_path / "run", write_files(tmp_path / "mine"), clock="rounds")
    proof = tmp_path / "it-ran"
    digest = next(workspace.ledger.of("open")).body["brought"][entry]
    file = workspace.cas.manifest(digest).files[f"files/{PLANTED[entry]}"]
    blob = tmp_path / "run/store" / blob_name(file.sha256)
    blob.chmod(0o644)
    blob.write_bytes(f"open({str(proof)!r}, 'w')\n".encode() + blob.read_bytes())
    with pytest.raises(ArtifactError, match=file.sha256[:8]):
        evolve(LocalRunner(workspace, threads=1), recipe)
    assert not proof.exists()
