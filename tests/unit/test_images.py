"""The image definitions without an engine: what every Containerfile must hold, the lock, and the scripts' refusals."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.errors import ArtifactError, ConfigError

IMAGES = Path(__file__).parents[2] / "images"
NAMES = ("cpu", "cuda", "browser")
LABELS = ("title", "description", "version", "revision", "source", "licenses", "created", "base.digest")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("instar_images_lock", IMAGES / "lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = load()


def instructions(name: str) -> list[str]:
    """Return the instructions of a Containerfile, each on one line, without comments."""
    text = (IMAGES / name / "Containerfile").read_text()
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [" ".join(line.split()) for line in kept.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("name", NAMES)
def test_containerfile_reaches_nothing_outside(name: str) -> None:
    lines = instructions(name)
    for line in lines:
        word, _, rest = line.partition(" ")
        assert word in {"ARG", "FROM", "ENV", "RUN", "LABEL", "COPY", "WORKDIR", "USER", "CMD"}, line
        if word == "FROM":
            assert re.fullmatch(r"(\$\{[A-Z_]+\}|locked|wheels)( AS [a-z]+)?", rest), "a base comes from an argument"
        if word == "ARG":
            assert "=" not in rest, "no default: the build script says what is used"
        if word == "COPY":
            assert rest.startswith("--from="), "nothing is copied from the context"
        if "pip" in line and word == "RUN" and " install " in line:
            assert "--no-index" in line and "--require-hashes" in line and "--no-deps" in line


@pytest.mark.parametrize("name", NAMES)
def test_final_stage_is_restricted(name: str) -> None:
    lines = instructions(name)
    last = max(i for i, line in enumerate(lines) if line.startswith("FROM "))
    final = lines[last:]
    assert final[0] == "FROM ${BASE_RUN}"
    assert not [line for line in final if line.startswith("RUN ")], "there is no shell to run it"
    assert "USER 10001:0" in final and 'CMD ["instar", "doctor"]' in final
    (label,) = [line for line in final if line.startswith("LABEL ")]
    for key in LABELS:
        assert f"org.opencontainers.image.{key}=" in label
    assert f'title="instar-{name}"' in label
    environment = next(line for line in final if line.startswith("ENV "))
    for pair in ("MLFLOW_DISABLE_TELEMETRY=true", "DO_NOT_TRACK=true", "GX_ANALYTICS_ENABLED=false", "HOME=/tmp"):
        assert pair in environment
    assert not re.search(r"(KEY|SECRET|TOKEN|PASSWORD)", " ".join(final))


def test_lock_holds_what_the_stages_import_and_nothing_of_the_orchestrators() -> None:
    pins = LOCK.read(IMAGES / "cpu/requirements.lock")
    assert {
        "torch",
        "transformers",
        "peft",
        "great-expectations",
        "mlflow-skinny",
        "kubernetes",
        "kfp-server-api",
    } <= set(pins)
    assert not {"kfp", "hera", "docker", "mlflow", "instar", "pip"} & set(pins)


def test_lock_refuses_a_line_without_a_hash(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# ok\nnumpy==2.4.6 --hash=sha256:" + "0" * 64 + "\nzipp==4.1.2\n")
    with pytest.raises(ConfigError, match=r"requirements\.lock:3"):
        LOCK.read(lock)


@given(contents=st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.binary(max_size=64), min_size=1))
def test_verify_finds_every_change_of_a_folder(
    contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files with distinct contents pass; then one changed, one missing and one too many are each refused."""
    folder, lock = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("lock") / "requirements.lock"
    files = {name: name.encode() + b"\0" + data for name, data in contents.items()}
    digest = LOCK.hashlib.sha256
    lock.write_text("".join(f"{n}==1 --hash=sha256:{digest(d).hexdigest()}\n" for n, d in files.items()))
    for name, data in files.items():
        (folder / f"{name}.whl").write_bytes(data)
    LOCK.verify(lock, folder)
    name, data = next(iter(files.items()))
    (folder / f"{name}.whl").write_bytes(data + b"x")
    with pytest.raises(ArtifactError, match=r"1 missing .* 1 not in it"):
        LOCK.verify(lock, folder)
    (folder / f"{name}.whl").unlink()
    with pytest.raises(ArtifactError, match=r"1 missing .* 0 not in it"):
        LOCK.verify(lock, folder)
    (folder / f"{name}.whl").write_bytes(data)
    (folder / "planted.whl").write_bytes(b"planted")
    with pytest.raises(ArtifactError, match=r"0 missing .* 1 not in it"):
        LOCK.verify(lock, folder)


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        (["wheelhouse.sh", "cuda"], 10, "requirements.lock"),
        (["base.sh", "other"], 10, "build, run or browser"),
        (["build.sh", "other"], 10, "cpu, cuda or browser"),
        (["engine.sh", "start"], 2, "usage"),
    ],
)
def test_scripts_say_what_is_wrong(command: list[str], code: int, reason: str) -> None:
    done = subprocess.run([str(IMAGES / command[0]), *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert reason in done.stderr


def test_engine_that_cannot_start_gives_one_reason_and_77(tmp_path: Path) -> None:
    """A folder whose path is too long for a socket, or a user without rights: a reason on one line, no process left."""
    folder = tmp_path / ("long" * 20)
    done = subprocess.run(
        [str(IMAGES / "engine.sh"), "start", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 77
    assert len(done.stderr.splitlines()) == 1
    assert ("characters" if os.getuid() == 0 else "not root") in done.stderr
    assert not folder.exists()
