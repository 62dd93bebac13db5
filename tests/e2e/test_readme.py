"""Every command line of README, in the order of the page: each ends with the exit code that the page promises.

Runs of minutes, and what needs a cluster, a store or a simulator, go as far as the function that would begin the work: the
recipe is resolved and checked, the options are read, and what would be started is kept. All others run.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instar import tracking
from instar.cli import app, cluster, commands, doctor
from instar.cli.resolve import resolve
from instar.components.dataset_prep.offline import record
from instar.pipelines.pools import load_images
from support.micro import micro, open_and_run
from unit.test_docs import FENCE, ROOT
from unit.test_docs import commands as written

README = (ROOT / "README.md").read_text()
LINES = [words[1:] for words in written(README) if words[0] == "instar"]
ENDS: dict[str, tuple[int, ...]] = {"diff": (1,), "evaluate": (0, 2, 3)}
"""Exit codes other than 0: two runs differ, and a comparison says by its code what it found."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with small finished evolutions, the examples, and the lock that `make images` writes."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        open_and_run(Path("runs/a"), micro(iterations=1))
        open_and_run(Path("runs/b"), micro(iterations=1, inner_steps=1))
        shutil.copytree("runs/a", "runs/units")
        shutil.copytree(ROOT / "examples/units", "examples/units")
        lock = Path("build/images/images.lock")
        lock.parent.mkdir(parents=True)
        names = ("instar-cpu", "instar-cuda")
        lock.write_text(json.dumps({name: {"digest": f"sha256:{'1' * 64}"} for name in names}))
        yield folder


@pytest.fixture
def begun(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keep what would be started instead of starting it."""
    kept: dict[str, Any] = {}
    monkeypatch.chdir(place)

    class Outcome:
        champion = type("Champion", (), {"model_path": "runs/c/cache/0"})

    def in_containers(
        name: str, scale: str, seed: int, out: Any, store: str, model: Any, images: Path, *rest: Any
    ) -> None:
        kept["containers"] = (resolve(name, scale, model, rest[1], rest[2]), store, load_images(images), seed, out)

    class Tracker:
        def promote(self, digest: str) -> None:
            kept["promote"] = digest

    def evolve(recipe: Any, directory: Path, brought: Any, *_: Any) -> Any:
        kept["run"] = (recipe, directory, sorted(brought.artifacts))
        return Outcome()

    def submit(recipe: Any, directory: Path, name: str, store: str, *rest: Any, **options: Any) -> Any:
        kept["submit"] = (recipe, directory, name, store, rest, options)
        return cluster.Action(did="submitted", reason="begin, attempt 1", run="run-1")

    monkeypatch.setattr(commands, "_evolve", evolve)
    monkeypatch.setattr(commands, "run_in_containers", in_containers)
    monkeypatch.setattr(cluster, "submit", submit)
    monkeypatch.setattr(cluster, "schedule", lambda *given: [str(kept.setdefault("schedule", given))])
    monkeypatch.setattr(cluster, "status", lambda directory: {"evolution": str(directory), "status": "running"})
    monkeypatch.setattr(tracking, "open_tracker", lambda uri, workspace: Tracker())
    monkeypatch.setattr(
        record, "make_data", lambda job, out, say: {"tiers": {}} | kept.setdefault("data", {"job": job})
    )
    checks = doctor.main
    monkeypatch.setattr(
        doctor, "main", lambda store: int(kept.setdefault("doctor", store) != store) if store else checks(None)
    )
    return kept


@pytest.mark.parametrize("words", LINES, ids=shlex.join)
def test_a_line_of_readme_ends_as_the_page_says(
    words: list[str], begun: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["instar", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert int(ended.value.code or 0) in ENDS.get(words[0], (0,))
    started = {"run": "containers" if "containers" in words else "run", "submit": "submit", "data": "data"}
    assert words[0] not in started or started[words[0]] in begun
    assert "--cron" not in words or "schedule" in begun
    if words[0] == "compile":
        assert Path(words[-1]).read_text().count("instar-cpu@sha256:") > 3


def test_the_first_command_takes_own_rows_and_an_own_reward(
    begun: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["instar", *LINES[0]])
    with pytest.raises(SystemExit):
        app.main()
    recipe, directory, artifacts = begun["run"]
    assert (recipe.reward.functions[0].entry, str(directory)) == ("rew.py:reward", "runs/units")
    assert artifacts == ["imported", "reward_code"]


def test_the_python_of_readme_runs(begun: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (text for _, text in FENCE.findall(README) if "import" in text)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "runs/c/cache/0\n"
    assert (begun["run"][0].name, begun["run"][0].scale, begun["run"][1]) == ("sec", "tiny", Path("runs/c"))


def test_every_line_was_found() -> None:
    assert len(LINES) == len(re.findall(r"^instar ", README, re.M)) > 15
