"""The lock of an image's wheels: take it from the environment's lock, and check a folder of files against it.

`requirements.lock` at the top names the versions, and every file of each. `lock.py write cpu` asks pip which of them the extras of
the stage image need on this machine, and writes each with the SHA-256 of the one file that goes into the image.
`lock.py verify LOCK FOLDER` exits 11 unless FOLDER holds exactly the files of the lock.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from instar.errors import ArtifactError, ConfigError, InstarError, UnavailableError

ROOT = Path(__file__).parents[1]
EXTRAS = "llm,control,mujoco,envs,quality,tracking,cluster"
TORCH = "torch==2.13.0"
ENVIRONMENT = ROOT / "requirements.lock"
PIN = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")
HEADER = f"""\
# Every distribution of the image, with the SHA-256 of its file: CPython 3.11, Linux, x86-64.
# What instar[{EXTRAS}] and {TORCH} need of requirements.lock; written by `make lock`.
# The hash of torch is that of the build pip found. To lock another build, put its index into PIP_EXTRA_INDEX_URL or its
# wheel into a folder named by PIP_FIND_LINKS, and write the lock again.
"""


def read(lock: Path) -> dict[str, tuple[str, str]]:
    """Return {normalised name: (version, sha256)} of a lock; a line that is no pin with one hash is a `ConfigError`."""
    pins: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lock.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        found = PIN.fullmatch(line)
        if found is None:
            raise ConfigError(
                expected="name==version --hash=sha256:64 hexadecimal digits",
                found=line[:120],
                where=f"{lock}:{number}",
                action="write the lock again with images/lock.py write",
            )
        pins[normal(found["name"])] = (found["version"], found["sha256"])
    return pins


def environment(lock: Path = ENVIRONMENT) -> dict[str, tuple[str, frozenset[str]]]:
    """Return {normalised name: (version, SHA-256 of every file of it)} of the environment's lock."""
    pins: dict[str, tuple[str, frozenset[str]]] = {}
    for block in re.split(r"\n(?=\w)", re.sub(r"(?m)^#.*\n", "", lock.read_text())):
        name, _, version = block.split()[0].partition("==")
        pins[normal(name)] = (version, frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", block)))
    return pins


def normal(name: str) -> str:
    """Return the name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def verify(lock: Path, folder: Path) -> None:
    """Raise `ArtifactError` unless `folder` holds one file for each hash of the lock, and nothing else."""
    wanted = {sha256: f"{name} {version}" for name, (version, sha256) in read(lock).items()}
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in sorted(folder.glob("*"))}
    missing = sorted(wanted[sha256] for sha256 in wanted.keys() - found.keys())
    foreign = sorted(found[sha256] for sha256 in found.keys() - wanted.keys())
    if missing or foreign:
        raise ArtifactError(
            expected=f"the {len(wanted)} files of {lock}",
            found=f"{len(missing)} missing ({', '.join(missing[:5])}), {len(foreign)} not in it ({', '.join(foreign[:5])})",
            where=str(folder),
            action="remove the folder and run images/wheelhouse.sh again",
        )


def resolve() -> list[dict[str, Any]]:
    """Return pip's report of what an empty environment would install, in the versions of the environment's lock."""
    with tempfile.TemporaryDirectory() as folder:
        report, versions = Path(folder) / "report.json", Path(folder) / "versions.txt"
        versions.write_text("".join(f"{name}=={version}\n" for name, (version, _) in environment().items()))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(report), "--constraint", str(versions), TORCH, f"{ROOT}[{EXTRAS}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UnavailableError(
                expected="a set of distributions that fits",
                found=(done.stderr.strip().splitlines() or ["no output"])[-1],
                where=f"pip install --dry-run instar[{EXTRAS}]",
                action="check that the package index answers and that the extras agree",
            )
        items: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return items


def write(image: str) -> Path:
    """Write `images/<image>/requirements.lock`, sorted by name, without instar itself.

    Raises `ArtifactError` for a file that the environment's lock does not know. torch alone is not in that.
    """
    lines, known = [], environment()
    for item in resolve():
        name, version = normal(item["metadata"]["name"]), item["metadata"]["version"]
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
        if name not in ("instar", "torch") and sha256 not in known.get(name, ("", frozenset()))[1]:
            raise ArtifactError(
                expected=f"a file of {name} that {ENVIRONMENT.name} knows",
                found=f"{name} {version}, {sha256 or 'without a SHA-256'}",
                where=str(ENVIRONMENT),
                action="write both locks again with `make lock`",
            )
        if name != "instar":
            lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    lock = ROOT / "images" / image / "requirements.lock"
    lock.write_text(HEADER.format(image=image) + "\n".join(sorted(lines)) + "\n")
    return lock


def main(arguments: list[str]) -> int:
    """Run one command; return 0 or the exit code of the error."""
    try:
        match arguments:
            case ["write", image]:
                print(write(image))  # noqa: T201
            case ["verify", lock, folder]:
                verify(Path(lock), Path(folder))
            case _:
                raise ConfigError(
                    expected="write IMAGE, or verify LOCK FOLDER",
                    found=" ".join(arguments) or "nothing",
                    where="lock.py: arguments",
                    action="see the first lines of images/lock.py",
                )
    except InstarError as error:
        print(error.render(), file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
