"""The built package, installed with core dependencies alone, holds every part and imports every contract and recipe.

Takes half a minute: it builds a wheel and a source archive and installs the wheel into an empty environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "kfp",
    "mlflow",
    "kubernetes",
    "great_expectations",
    "pandas",
    "reasoning_gym",
    "peft",
    "scipy",
)
PROBE = f"""
import importlib, json, pkgutil, sys
import instar, instar.cli.app, instar.cli.commands, instar.cli.explain, instar.cli.doctor, instar.pipelines.stage_command
from instar import contract, schema
from instar.artifact import CLASSES, Table
from instar.pipelines.catalog import STAGES
from instar.pipelines.recipes import METHODS, build
for stage in STAGES.values():
    contract.ports(stage.ins), contract.ports(stage.outs), instar.pipelines.stage_command.parser(stage)
for kind in CLASSES.values():
    if issubclass(kind, Table): schema.arrow_schema(kind.row)
recipes = [build(name, scale).name for name, method in METHODS.items() for scale in method.scales]
absent = []
for name in {HEAVY!r}:
    try: importlib.import_module(name)
    except ImportError: absent.append(name)
print(json.dumps({{"file": instar.__file__, "stages": sorted(STAGES), "recipes": recipes, "absent": absent,
                   "loaded": [m for m in {HEAVY!r} if m in sys.modules]}}))
"""


def uv() -> str:
    """Return the uv executable of this environment or of the path."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        pytest.fail("no uv: `make setup` installs it")
    return found


def run(*command: str | Path, cwd: Path) -> str:
    done = finish(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def finish(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [str(c) for c in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, env=environment())


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "COV_"))}


def expected_modules() -> set[str]:
    """Return the Python files of the source tree as they must appear below `instar/` in every distribution."""
    out = {f"instar/{p.name}" for p in (ROOT / "src/instar").glob("*.py")}
    for part in ("components", "pipelines", "kernels"):
        out |= {f"instar/{p.relative_to(ROOT)}" for p in (ROOT / part).rglob("*.py")}
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources, so that a build leaves nothing in the tree, and build both distributions."""
    work = tmp_path_factory.mktemp("build")
    for name in ("src", "components", "pipelines", "kernels"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, work / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work / name)
    run(uv(), "build", "--quiet", "--python", sys.executable, "--out-dir", work / "dist", cwd=work)
    return work / "dist"


def test_wheel_holds_every_module_as_a_real_file(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        links = [i.filename for i in archive.infolist() if (i.external_attr >> 28) == 0xA]
    assert expected_modules() <= names
    assert not links
    assert "instar/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert not [n for n in names if not n.startswith("instar")], "another top-level name"


def test_source_archive_holds_every_module_as_a_real_file(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
        links = [m.name for m in archive.getmembers() if m.issym() or m.islnk()]
    assert {f"src/{name}" for name in expected_modules()} <= files
    assert not links


def test_core_dependencies_are_enough_for_every_contract_and_recipe(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    run(uv(), "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(uv(), "pip", "install", "--quiet", "--python", python, wheel, cwd=tmp_path)
    found = json.loads(run(python, "-c", PROBE, cwd=tmp_path))
    assert Path(found["file"]).is_relative_to(tmp_path / "venv")
    assert found["loaded"] == []
    assert set(HEAVY) == set(found["absent"])
    assert {"curriculum", "dataset_prep", "evaluate", "reward", "rollout", "update"} <= set(found["stages"])
    assert "sec" in found["recipes"]
    help_text = run(tmp_path / "venv/bin/instar", "--help", cwd=tmp_path)
    assert "recipes" in help_text
    doctor = finish(tmp_path / "venv/bin/instar", "doctor", cwd=tmp_path)
    assert doctor.returncode == 19, "without torch the tiny scale cannot run"
    assert "torch>=2.8" in doctor.stdout
