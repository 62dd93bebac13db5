"""requirements.lock: what `make setup` installs, CI tests with it, and the images take their part of it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.unit.test_images import LOCK

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = LOCK.environment()
IMAGE = LOCK.read(ROOT / "images/cpu/requirements.lock")


def variable(name: str) -> list[str]:
    """Return the words of a variable of the Makefile."""
    found = re.search(rf"^{name} \??:?= (.*)$", MAKEFILE, re.MULTILINE)
    assert found is not None
    return found[1].split()


def needed(names: list[str], extras: set[str]) -> set[str]:
    """Return the distributions that `names` bring along here, from the metadata of what is installed."""
    found: set[str] = set()
    todo = [(canonicalize_name(name), frozenset[str]()) for name in names] + [("instar", frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        name, asked = item
        found.add(name)
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in asked | {""}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found - {"instar"}


def test_every_pin_has_hashes_and_nothing_names_a_registry() -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines)
    assert not re.search(r"://|--index|--find-links|@", TEXT)
    assert all(files for _, files in PINS.values()) and len(PINS) > 150
    assert "torch" not in PINS, "its build is the machine's"


def test_the_lock_is_within_the_ranges_of_the_project() -> None:
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    asked += [one for name in variable("EXTRAS") for one in extras[name]]
    asked += [one for name in variable("GROUPS") for one in groups[name]]
    assert variable("GROUPS") == list(groups)
    while asked:
        requirement = Requirement(asked.pop())
        if requirement.name == "instar":
            asked += [one for name in requirement.extras for one in extras[name]]
        elif requirement.name != "torch" and (requirement.marker is None or requirement.marker.evaluate()):
            version, _ = PINS[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: `make lock`"


def test_the_image_is_the_part_of_the_lock_that_its_extras_need() -> None:
    """Equal versions on both sides, so that a container and a process compute with the same code."""
    for name, (version, sha256) in IMAGE.items():
        if name != "torch":
            assert version == PINS[name][0] and sha256 in PINS[name][1], f"{name}: `make lock`"
    assert set(IMAGE) == needed(["torch"], set(LOCK.EXTRAS.split(",")))


def test_one_version_of_torch_and_of_the_build_tool() -> None:
    assert variable("TORCH") == [LOCK.TORCH] == [f"torch=={IMAGE['torch'][0].partition('+')[0]}"]
    constraint = (ROOT / ".github/scripts/build-constraints.txt").read_text().strip()
    assert constraint == f"setuptools=={PINS['setuptools'][0]}"


@pytest.mark.parametrize(
    ("failed", "known", "code", "words"),
    [
        ([], "", 0, ["None."]),
        (["test_a"], "tests/unit/test_x.py::test_a # torch 9: rounds otherwise", 0, ["test_a` torch 9: rounds"]),
        (["test_a", "test_b"], "tests/unit/test_x.py::test_a # torch 9", 1, ["test_a` torch 9", "test_b` **new**"]),
        ([], "tests/unit/test_x.py::test_a # torch 9", 1, ["Named in newest.txt, but not failed"]),
    ],
)
def test_the_nightly_page_tells_new_failures_from_known_ones(
    failed: list[str], known: str, code: int, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / ".github/scripts").mkdir(parents=True)
    script = tmp_path / ".github/scripts/newest.py"
    script.write_text((ROOT / ".github/scripts/newest.py").read_text())
    (tmp_path / ".github/newest.txt").write_text(f"# the list\n{known}\n")
    (tmp_path / "requirements.lock").write_text("packaging==0.1 \\\n    --hash=sha256:0\n")
    cases = [f'<testcase classname="tests.unit.test_x" name="{name}"><failure/></testcase>' for name in failed]
    cases.append('<testcase classname="tests.unit.test_x" name="test_passes"/>')
    (tmp_path / "junit.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "junit.xml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert all(word in done.stdout for word in [*words, "- packaging 0.1 -> "])
    assert "test_passes" not in done.stdout
