"""The release, as far as it runs without publishing: distributions and their refusals, images and their lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from instar.pipelines.pools import load_images

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / ".github/scripts"


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tree built twice, under two clocks, time zones and masks."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: build_dist.sh builds the tracked files")
    made = []
    for number, (zone, mask) in enumerate((("UTC", "022"), ("Asia/Tokyo", "077"))):
        out = tmp_path_factory.mktemp(f"dist{number}")
        env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "TZ": zone, "VERSION": ""}
        del env["VERSION"]
        command = ["bash", "-c", f"umask {mask}; exec {SCRIPTS}/build_dist.sh {out}"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        made.append(out)
    return made[0], made[1]


def test_two_builds_are_equal_byte_for_byte(dists: tuple[Path, Path]) -> None:
    one, two = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in dists]
    assert sorted(one) == sorted(two)
    assert len(one) == 4
    assert [name for name in one if one[name] != two[name]] == []


def test_the_sums_are_those_of_the_files(dists: tuple[Path, Path]) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dists[0], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_the_source_archive_names_no_user_and_no_clock(dists: tuple[Path, Path]) -> None:
    (archive,) = dists[0].glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 1700000000)}


def test_the_sbom_lists_the_files_and_what_the_wheel_needs(dists: tuple[Path, Path]) -> None:
    (wheel,), (path,) = dists[0].glob("*.whl"), dists[0].glob("*.spdx.json")
    found = json.loads(path.read_text())
    with zipfile.ZipFile(wheel) as opened:
        assert {f["fileName"] for f in found["files"]} == {f"./{name}" for name in opened.namelist()}
    ids = [entry["SPDXID"] for entry in (*found["packages"], *found["files"])]
    assert len(ids) == len(set(ids))
    linked = {side for r in found["relationships"] for side in (r["spdxElementId"], r["relatedSpdxElement"])}
    assert linked == {"SPDXRef-DOCUMENT", *ids}, "an element without a relation, or a relation to nothing"
    core = {r["relatedSpdxElement"] for r in found["relationships"] if r["relationshipType"] == "DEPENDS_ON"}
    assert core == {f"SPDXRef-needs-{name}" for name in ("minio", "numpy", "pyarrow", "rich", "typer")}


@pytest.mark.parametrize("plant", ["payload", "version", "second"])
def test_a_bad_distribution_is_refused(dists: tuple[Path, Path], tmp_path: Path, plant: str) -> None:
    for path in dists[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (wheel,) = tmp_path.glob("*.whl")
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    if plant == "payload":
        rewrite(wheel, "instar/errors.py", b"import os\n")
    elif plant == "version":
        env["VERSION"] = "v9.9.9"
    else:
        (tmp_path / "other-1-py3-none-any.whl").write_bytes(wheel.read_bytes())
    command = [sys.executable, str(SCRIPTS / "dist.py"), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert {"payload": "as in RECORD", "version": "version 9.9.9", "second": "one *.whl"}[plant] in done.stderr


def rewrite(wheel: Path, name: str, data: bytes) -> None:
    """Replace one member and leave RECORD as it is."""
    with zipfile.ZipFile(wheel) as opened:
        members = {n: opened.read(n) for n in opened.namelist()}
    assert name in members
    with zipfile.ZipFile(wheel, "w") as opened:
        for key, value in (members | {name: data}).items():
            opened.writestr(key, value)


RECORDER = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "$RECORD"
case "$1" in
  login) cat > "$RECORD.stdin" ;;
  inspect) printf '%s\\n' "$DIGESTS" ;;
esac
"""
LOCAL, PUSHED = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def push(folder: Path, digests: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run push_images.sh with docker and cosign that only record; `digests` are the image's in all registries."""
    for name in ("docker", "cosign"):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(RECORDER)
        program.chmod(0o755)
    out = folder / "images"
    out.mkdir()
    (out / "images.lock").write_text(json.dumps({"instar-cpu": {"image": "instar-cpu", "digest": LOCAL}}))
    (out / "instar-cpu.spdx.json").write_text("{}")
    env = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "RECORD": str(folder / "record"),
        "DIGESTS": digests,
        "TAG": "v1.2.3",
        "GITHUB_OUTPUT": str(folder / "output"),
        "REGISTRY": "registry.test:5000/team",
        "REGISTRY_USER": "pusher",
        "REGISTRY_PASSWORD": "hunter2-of-the-test",
    }
    command = ["bash", str(SCRIPTS / "push_images.sh"), str(out)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done, (folder / "record").read_text().splitlines()


def test_the_lock_of_a_release_holds_the_digest_of_the_registry(tmp_path: Path) -> None:
    image = "registry.test:5000/team/instar-cpu"
    done, record = push(tmp_path, f"other.test/instar-cpu@{LOCAL}\n{image}@{PUSHED}")
    assert done.returncode == 0, done.stderr
    images = load_images(tmp_path / "images/registry.lock.json")
    assert images.reference("instar-cpu", "registry.test:5000/team") == f"{image}@{PUSHED}"
    assert set(images.digests) == {"instar-cpu"}
    assert (tmp_path / "output").read_text() == f"digest={PUSHED}\n"
    assert record.index(f"docker push {image}:v1.2.3") < record.index(f"cosign sign --yes {image}@{PUSHED}")
    assert [line for line in record if "attest" in line] == [
        f"cosign attest --yes --type spdxjson --predicate {tmp_path}/images/instar-cpu.spdx.json {image}@{PUSHED}"
    ]
    assert (tmp_path / "record.stdin").read_text() == "hunter2-of-the-test"
    assert "hunter2" not in "".join([*record, done.stdout, done.stderr]), "a password on a command line or in the log"


@pytest.mark.parametrize("digests", ["", f"other.test/instar-cpu@{LOCAL}", "registry.test:5000/team/instar-cpu@latest"])
def test_without_a_digest_of_the_registry_there_is_no_lock(tmp_path: Path, digests: str) -> None:
    done, record = push(tmp_path, digests)
    assert done.returncode != 0
    assert not [line for line in record if line.startswith("cosign")]
    assert not (tmp_path / "images/registry.lock.json").exists()
