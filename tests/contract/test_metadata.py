"""Every component says what it is: a closed schema, agreement with the catalog, the requirements and the wheel."""

from __future__ import annotations

import datetime
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from instar.pipelines.catalog import STAGES
from instar.pipelines.chain import control_command
from instar.pipelines.component_docs import readme_path

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "components").glob("*/metadata.yaml"), ROOT / "pipelines/metadata.yaml"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
KEYS = {"name", "stability", "stages", "dependencies", "tags", "lastVerified", "links"}
KUBEFLOW = {"Pipelines"}


def problems(found: dict[str, Any], folder: str) -> list[str]:
    """Return what is wrong with one file, in words."""
    wrong = [f"key {key}" for key in sorted(set(found) ^ KEYS) if key != "tasks"]
    if wrong:
        return wrong
    if found["name"] != folder:
        wrong.append(f"name {found['name']} in folder {folder}")
    if found["stability"] not in ("experimental", "alpha", "beta", "stable"):
        wrong.append(f"stability {found['stability']}")
    for key in ("stages", "tasks", "tags"):
        values = found.get(key, ["none"])
        if not values or len(set(values)) != len(values) or not all(re.fullmatch(r"[a-z0-9_-]+", v) for v in values):
            wrong.append(f"{key} {values}")
    day = found["lastVerified"]
    if type(day) is not datetime.date or day > datetime.datetime.now(datetime.UTC).date():
        wrong.append(f"lastVerified {day!r}")
    if set(found["links"]) != {"documentation", "readme"}:
        wrong.append(f"links {sorted(found['links'])}")
    return wrong + _dependencies(found["dependencies"])


def _dependencies(found: dict[str, Any]) -> list[str]:
    if set(found) != {"kubeflow", "external_services"}:
        return [f"dependencies {sorted(found)}"]
    wrong = []
    for group, entries in found.items():
        for entry in entries:
            missing = {"name", "version"} - set(entry) if group == "kubeflow" else {"name"} - set(entry)
            if missing or set(entry) - {"name", "version", "requires"} or len(entry) < 2:
                wrong.append(f"{group} {entry}")
            if "version" in entry and not str(SpecifierSet(str(entry["version"]))):
                wrong.append(f"{group} {entry['name']} has no version range")
    if not {entry.get("name") for entry in found["kubeflow"]} <= KUBEFLOW:
        wrong.append("an unknown part of Kubeflow")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_file_keeps_to_the_schema(path: Path) -> None:
    found = yaml.safe_load(path.read_text())
    assert problems(found, path.parent.name) == []
    for link in found["links"].values():
        assert (ROOT / link).is_file(), link


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "reward2"),
        ("stability", "final"),
        ("owner", "somebody"),
        ("lastVerified", datetime.date.max),
        ("lastVerified", "2026-11-22"),
        ("tags", []),
        ("stages", ["reward", "reward"]),
        ("dependencies", {"kubeflow": []}),
        ("dependencies", {"kubeflow": [{"name": "Pipelines"}], "external_services": []}),
        ("dependencies", {"kubeflow": [], "external_services": [{"name": "store"}]}),
        ("dependencies", {"kubeflow": [{"name": "Katib", "version": ">=0.19"}], "external_services": []}),
    ],
)
def test_the_schema_refuses(key: str, value: object) -> None:
    found = yaml.safe_load((ROOT / "components/reward/metadata.yaml").read_text())
    assert problems({**found, key: value}, "reward") != []


def test_every_stage_and_control_task_is_in_the_file_of_its_folder() -> None:
    declared = {stage: p.parent.name for p in FILES for stage in yaml.safe_load(p.read_text())["stages"]}
    assert declared == {name: readme_path(stage).parent.name for name, stage in STAGES.items()}
    control = yaml.safe_load((ROOT / "pipelines/metadata.yaml").read_text())
    assert tuple(control["tasks"]) == control_command.TASKS


def test_the_range_of_pipelines_is_the_one_that_is_installed() -> None:
    wanted = next(line for line in PROJECT["project"]["optional-dependencies"]["kubeflow"] if line.startswith("kfp["))
    for path in FILES:
        entries = yaml.safe_load(path.read_text())["dependencies"]["kubeflow"]
        ranges = {entry["name"]: SpecifierSet(entry["version"]) for entry in entries}
        assert ranges["Pipelines"] == SpecifierSet(wanted.partition("]")[2]), path


def test_the_wheel_carries_every_file() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    packed = {
        path.resolve()
        for package, globs in data.items()
        for pattern in globs
        for path in (ROOT / "src" / Path(*package.split("."))).glob(pattern)
    }
    assert FILES
    assert {path.resolve() for path in FILES} <= packed
