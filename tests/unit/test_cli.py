from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from instar.cli import app, commands, doctor, offline
from instar.cli.resolve import resolve
from instar.components.dataset_prep.offline.config import FilesSource, OfflineConfig
from instar.errors import ConfigError, LedgerError, MissingDependencyError, StorageError
from instar.workspace import create_workspace

COMMANDS = {
    "run",
    "resume",
    "show",
    "diff",
    "replay",
    "check",
    "report",
    "recipes",
    "explain",
    "evaluate",
    "promote",
    "doctor",
    "stage",
}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the entry point; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["instar", *arguments])
    with pytest.raises(SystemExit) as caught:
        app.main()
    return int(caught.value.code or 0)


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(app.app, ["--help"])
    assert result.exit_code == 0
    assert set(result.output.split()) >= COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS - {"stage"}))
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app.app, [command, "--help"])
    assert result.exit_code == 0
    assert command in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "secc"], ConfigError.exit_code, "did you mean 'sec'?"),
        (["run", "sec", "--scale", "tyny"], ConfigError.exit_code, "did you mean 'tiny'?"),
        (["run", "sec", "--set", "curriculum.tua=1"], ConfigError.exit_code, "did you mean 'tau'?"),
        (["run", "sec", "--set", "update.lr"], ConfigError.exit_code, "key=value"),
        (["run", "sec", "--config", "absent.toml"], ConfigError.exit_code, "absent.toml"),
        (["run", "sec", "--images", "other.lock"], ConfigError.exit_code, "--mode containers"),
        (["explain", "sec", "--set", "update.lr=fast"], ConfigError.exit_code, "sec.update.lr"),
        (["show", "absent"], LedgerError.exit_code, "evolution.json"),
        (["resume", "absent"], LedgerError.exit_code, "evolution.json"),
        (["stage", "rolout"], ConfigError.exit_code, "did you mean 'rollout'?"),
        (["stage", "curriculum"], ConfigError.exit_code, "--store"),
        (["doctor", "--store", "ftp://host/x"], ConfigError.exit_code, "scheme 'ftp'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_named_errors_give_their_lines_and_code(
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    assert call(monkeypatch, *arguments) == code
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[-4:]] == ["  expected", "  found", "  where", "  do"]
    assert message in "\n".join(lines)


def test_an_unknown_option_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "run", "sec", "--sede", "1") == 2


def test_recipes_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "recipes") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["decision_mamba", "sec", "spark"]


def test_explain_states_the_resolved_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("update.clip_high=0.3", "curriculum.strategy=thompson", "update.kl.place=loss", "update.kl.coef=0.01")
    assert call(monkeypatch, "explain", "sec", *(word for c in changes for word in ("--set", c))) == 0
    text = capsys.readouterr().out
    for part in (
        "clip(w, 1 - 0.2, 1 + 0.3)",
        "Beta posterior",
        "l_it += 0.01 k3 w",
        "beta=0.01",
        "clip_ratio_high=0.3",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 120


def machine(**changes: object) -> doctor.Machine:
    """Return a machine that can run everything, with changes."""
    fields: dict[str, object] = {
        "python": "3.11.0",
        "cores": 64,
        "memory": 2**40,
        "disk": 2**42,
        "torch": "2.13.0",
        "cpu": "AVX512",
        "gpus": (doctor.Gpu(name="big", memory=80 * 2**30),),
        "extras": dict.fromkeys(doctor.TINY_EXTRAS, ()),
    }
    return doctor.Machine(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", doctor.SCALES)
def test_a_large_machine_runs_every_scale(scale: str) -> None:
    assert doctor.missing(machine(), doctor.SCALES[scale]) == []


@pytest.mark.parametrize(
    ("changes", "scale", "message"),
    [
        ({"memory": 2**30}, "tiny", "2 GiB memory (has 1 GiB)"),
        ({"disk": 2**30}, "tiny", "2 GiB free disk (has 1 GiB)"),
        ({"gpus": ()}, "single", "one GPU with 20 GiB (has none)"),
        ({"gpus": (doctor.Gpu(name="small", memory=8 * 2**30),)}, "single", "one GPU with 20 GiB (has 8 GiB)"),
        (
            {"extras": {**dict.fromkeys(doctor.TINY_EXTRAS, ()), "llm": ("torch>=2.8",)}},
            "tiny",
            "pip install 'torch>=2.8'",
        ),
    ],
    ids=["memory", "disk", "no gpu", "small gpu", "package"],
)
def test_doctor_names_what_is_missing(changes: dict[str, object], scale: str, message: str) -> None:
    assert doctor.missing(machine(**changes), doctor.SCALES[scale]) == [message]


def test_doctor_reads_extras_from_the_installed_package() -> None:
    found = doctor.extras()
    assert set(doctor.TINY_EXTRAS) <= set(found)
    assert any(requirement.startswith("torch") for requirement in found["llm"])
    assert not any(requirement.startswith("instar") for group in found.values() for requirement in group)


@pytest.mark.parametrize(("memory", "code"), [(2**40, 0), (2**20, MissingDependencyError.exit_code)])
def test_doctor_exit_code_says_whether_tiny_can_run(
    memory: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "probe", lambda: machine(memory=memory, extras=dict.fromkeys(doctor.extras(), ())))
    assert call(monkeypatch, "doctor") == code
    assert "tiny" in capsys.readouterr().out


def test_doctor_checks_a_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setattr(doctor, "probe", lambda: machine(extras=dict.fromkeys(doctor.extras(), ())))
    for _ in range(2):
        assert call(monkeypatch, "doctor", "--store", str(folder)) == 0
        assert "20 of 20 checks passed" in capsys.readouterr().out
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {"instar-conformance"}


def test_doctor_refuses_a_store_that_overwrites(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from instar.store import LocalStore

    monkeypatch.setattr(doctor, "probe", lambda: machine(extras=dict.fromkeys(doctor.extras(), ())))
    monkeypatch.setattr(LocalStore, "create", lambda self, name, data: self.put_bytes(name, data) or True)
    assert call(monkeypatch, "doctor", "--store", str(tmp_path_factory.mktemp("bad"))) == StorageError.exit_code
    printed = capsys.readouterr()
    assert printed.out.count("FAILED: ") == 2 and "18 of 20 checks passed" in printed.out
    assert "2 failed: create once; create, 16 racers" in printed.err


@pytest.mark.parametrize(("mode", "tracking"), [("subprocess", None), ("inprocess", "off")])
def test_a_cluster_evolution_is_not_resumed_with_options_of_this_machine(
    mode: str, tracking: str | None, tmp_path: Path
) -> None:
    create_workspace(tmp_path / "run", "e", None)
    (tmp_path / "run" / "cluster.json").write_text("{}")
    with pytest.raises(ConfigError, match="because pods run this evolution"):
        commands.resume(tmp_path / "run", mode, tracking, accept_code=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["kfp", "argo"])
def test_compile_without_a_lock_names_local_images_and_says_so(
    engine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "compile", "sec", "-o", "sec.yaml", "--engine", engine) == 0
    said = capsys.readouterr().err
    assert "instar-cpu:dev" in said and "build/images/images.lock" in said and "--images" in said
    named = set(re.findall(r"^ *image: (\S+)$", Path("sec.yaml").read_text(), re.M))
    assert named == {"instar-cpu:dev"}
    assert call(monkeypatch, "compile", "sec", "-o", "b.yaml", "--images", "absent.lock") == ConfigError.exit_code
    assert call(monkeypatch, "submit", "sec", "--store", "s3://b", "--host", "http://h") == ConfigError.exit_code
    assert not Path("b.yaml").exists() and capsys.readouterr().err.count("the lock of image digests") == 2


def test_recording_data_says_its_lines_and_its_tiers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole recording takes minutes and has its own tests. Here it only says one line and returns one tier."""
    record = pytest.importorskip("instar.components.dataset_prep.offline.record")

    def quick(job: Any, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
        say(f"{job.env} into {out.name}")
        return {"tiers": {"random": {"episodes": 2.0, "mean_return": -3.5}}}

    monkeypatch.setattr(record, "make_data", quick)
    commands.make_data("Pendulum-v1", tmp_path / "data", steps=400, seed=0, seconds=None)
    assert capsys.readouterr().out == "Pendulum-v1 into data\nrandom: 2 episodes, mean return -3.5\n"


def test_data_and_environment_are_settings_that_set_can_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", 'my "data".parquet', "--env", "MountainCarContinuous-v0")
    more = ("--set", "dataset_prep.source.random_return=-33", "--set", "dataset_prep.source.env=Pendulum-v1")
    sets = offline.with_data("decision_mamba", "tiny", Path(words[1]), words[3], [more[1], more[3]])
    prepared = resolve("decision_mamba", "tiny", None, None, sets).dataset_prep
    assert isinstance(prepared, OfflineConfig)
    assert prepared.source == FilesSource(path=words[1], env="Pendulum-v1", random_return=-33.0)
    assert call(monkeypatch, "explain", "decision_mamba", *words, *more[:2]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        f"episodes of MountainCarContinuous-v0 in {words[1]}; references (published ones where there are any): " in text
    )
    assert "score 0 is the return of random actions, -33, as given; score 1 is the best of the data" in text


def test_differences_of_an_own_data_set_hold_what_is_said() -> None:
    assert offline.offline_source("d", "A-v0", expert_return=3.0) == {
        "dataset_prep": {"source": {"strategy": "files", "path": "d", "env": "A-v0", "expert_return": 3.0}}
    }
    assert offline.offline_source(Path("d")) == {"dataset_prep": {"source": {"strategy": "files", "path": "d"}}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("decision_mamba", "--env", "Pendulum-v1"), "--data PATH with --env"),
        (("sec", "--data", "d"), "a recipe that learns from logged episodes: decision_mamba"),
        (("decision_mamab", "--data", "d"), "did you mean 'decision_mamba'?"),
    ],
)
def test_options_of_logged_data_where_they_mean_nothing_are_refused(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", *words) == ConfigError.exit_code
    assert message in capsys.readouterr().err


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    """`instar --install-completion` writes a script that asks the program itself, in this way."""
    asked = {"_INSTAR_COMPLETE": "complete_bash", "COMP_WORDS": "instar ex", "COMP_CWORD": "1", "HOME": str(tmp_path)}
    code = "import sys; sys.argv = ['instar']; from instar.__main__ import main; main()"
    command, environment = [sys.executable, "-c", code], {**os.environ, **asked}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["export", "explain"]
