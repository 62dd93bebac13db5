"""The CPU image, run as a cluster runs it: any user, read-only root, no capability, no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instar.code import code_version
from instar.kernels import cpp_paths

pytestmark = pytest.mark.containers
ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
Run = Callable[..., str]

IMPORTS = """
import importlib, json, pkgutil, sys
import instar.components
names = [m.name for m in pkgutil.walk_packages(instar.components.__path__, "instar.components.")]
for name in names: importlib.import_module(name)
engines = "torch transformers peft safetensors reasoning_gym gymnasium mujoco h5py great_expectations pandas"
clients = "mlflow sqlalchemy alembic kubernetes kfp_server_api"
for name in (engines + " " + clients).split(): importlib.import_module(name)
import torch
unwanted = []
for name in "kfp hera docker pip pytest".split():
    try: importlib.import_module(name)
    except ImportError: continue
    unwanted.append(name)
print(json.dumps({"stages": names, "unwanted": unwanted, "sum": torch.ones(3, 3).matmul(torch.ones(3, 3)).sum().item()}))
"""
FILES = """
import json, os, stat
def fail(error): raise error
special, writable, programs = [], [], {}
for folder in os.environ["PATH"].split(":") + ["/bin", "/sbin", "/usr/sbin"]:
    programs[folder] = sorted(os.listdir(folder))
for top in ("/usr", "/opt", "/etc", "/var"):
    for folder, _, files in os.walk(top, onerror=fail):
        for name in files:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if mode & (stat.S_ISUID | stat.S_ISGID): special.append(path)
            if mode & stat.S_IWOTH and not stat.S_ISLNK(mode): writable.append(path)
print(json.dumps({"special": special, "writable": writable, "programs": programs}))
"""
KERNELS = """
import json
import torch
from instar.kernels.decode import cpp, dispatch
from instar.kernels.selective_scan import cpp as scan
kernel = dispatch.choose(torch.bfloat16, "cpu", width=64, sizes=(64, 64))
x = torch.ones(1, 64, dtype=torch.bfloat16)
kernel.add_norm(x, x.clone(), torch.ones(64, dtype=torch.bfloat16), 1e-6)
scan.LIBRARY.load()
print(json.dumps({"decode": [kernel.name, kernel.reason], "scan": scan.LIBRARY.found()[1], "x": x.float().unique().tolist()}))
"""
SANDBOX = """
import json, tempfile
from pathlib import Path
from instar.artifact import Code
from instar.components.sandbox import confine
from instar.components.sandbox.code_folder import write_code
from instar.components.sandbox.config import SandboxConfig
from instar.components.sandbox.sandbox import Fault, Sandbox
text = '''
import os, pathlib, tempfile
def home(): return [os.path.expanduser("~") == os.getcwd(), tempfile.mkdtemp().startswith(os.getcwd())]
def fork(): return os.fork()
def secret(): return pathlib.Path("/tmp/secret").read_text()
'''
folder = Path(tempfile.mkdtemp())
Path("/tmp/secret").write_text("x")
write_code(folder, {"rew.py": text}, [])
with Sandbox(Code(folder, "sha256:0"), SandboxConfig()) as box:
    values = {name: box.calls(f"rew.py:{name}", [{}])[0] for name in ("home", "fork", "secret")}
told = {name: value.reason if isinstance(value, Fault) else value for name, value in values.items()}
print(json.dumps({**told, "landlock": confine.landlock_version()}))
"""
INSTALLED = """
import json, re
from importlib import metadata
print(json.dumps(sorted(re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower() for d in metadata.distributions())))
"""


@pytest.fixture(scope="module")
def client(engine: str) -> Iterator[Any]:
    import docker

    client: Any = docker.DockerClient(base_url=engine, timeout=120)
    yield client
    client.close()


@pytest.fixture(scope="module")
def config(client: Any, image: str) -> dict[str, Any]:
    found: dict[str, Any] = client.images.get(image).attrs["Config"]
    return found


@pytest.fixture(scope="module")
def run(client: Any, image: str) -> Run:
    """Return a function that runs a command in the image, restricted, and returns what it printed."""

    def run(*command: str, **environment: str) -> str:
        container = client.containers.create(
            image,
            list(command),
            user="12345:0",
            read_only=True,
            tmpfs={"/tmp": "rw,noexec,nosuid,size=256m"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode="none",
            environment={"OMP_NUM_THREADS": "1", **environment},
        )
        try:
            container.start()
            code = container.wait(timeout=300)["StatusCode"]
            assert code == 0, container.logs().decode()[-3000:]
            return str(container.logs(stderr=False).decode())
        finally:
            container.remove(force=True)

    return run


def test_the_command_starts(run: Run) -> None:
    assert "recipes" in run("instar", "--help")


def test_every_stage_and_its_engines_import_and_orchestrators_do_not(run: Run) -> None:
    found = json.loads(run("python", "-c", IMPORTS).splitlines()[-1])
    assert found["unwanted"] == []
    assert found["sum"] == 27.0
    on_disk = {f"instar.components.{p.name}" for p in (ROOT / "components").iterdir() if (p / "__init__.py").exists()}
    assert on_disk <= set(found["stages"])


def test_the_kernels_run_without_a_compiler(run: Run) -> None:
    found = json.loads(run("python", "-c", KERNELS))
    level = cpp_paths.targets()[0]
    assert found == {"decode": ["cpp", f"built for {level}"], "scan": level, "x": [2.0]}


def test_code_of_a_user_runs_in_its_sandbox(run: Run) -> None:
    """It needs no pip, no name for its user and no home. Where the kernel has Landlock, files of the stage are out of reach."""
    told = json.loads(run("python", "-c", SANDBOX))
    assert told["home"] == [True, True] and told["fork"].startswith("PermissionError")
    assert told["secret"].startswith("PermissionError") or not told["landlock"]


def test_the_code_is_that_of_the_checkout(run: Run) -> None:
    assert run("python", "-c", "from instar.code import code_version; print(code_version())").strip() == code_version()


def test_nothing_but_python_and_instar_can_be_run(run: Run) -> None:
    found = json.loads(run("python", "-c", FILES))
    assert found["special"] == [], "set-user-id or set-group-id"
    assert found["writable"] == []
    programs = {name for names in found["programs"].values() for name in names}
    assert programs == {"instar", "python", "python3", "python3.11"}


def test_the_root_is_readable_and_only_tmp_is_writable(run: Run) -> None:
    code = (
        "import getpass, os, tempfile; print(os.getuid(), getpass.getuser(), tempfile.gettempdir(), os.path.expanduser('~'))\n"
        "tempfile.NamedTemporaryFile().write(b'x')\n"
        "try: open('/opt/instar/x', 'w')\n"
        "except OSError as error: print(error.strerror)"
    )
    assert run("python", "-c", code).splitlines() == ["12345 instar /tmp /tmp", "Read-only file system"]


def test_configuration_of_the_image(config: dict[str, Any]) -> None:
    assert not config.get("Entrypoint"), "with one, Docker appends the command that Kubernetes puts in its place"
    assert config["Cmd"] == ["instar", "doctor"]
    assert config["User"] == "10001:0"
    environment = dict(pair.split("=", 1) for pair in config["Env"])
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"
    assert environment["GX_ANALYTICS_ENABLED"] == "false"
    assert environment["HF_HUB_OFFLINE"] == "1"
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Labels"].items()}
    wanted = {"title", "description", "version", "revision", "source", "licenses", "created", "base.digest"}
    assert wanted <= {name for name, value in labels.items() if value}
    assert labels["base.digest"].startswith("sha256:")
    assert labels["licenses"] == "Apache-2.0"


def test_the_bill_of_materials_lists_every_distribution(run: Run) -> None:
    script = (IMAGES / "sbom.py").read_text()
    command = ("python", "-c", script, "instar-cpu", "sha256:0")
    document = json.loads(run(*command, SOURCE_DATE_EPOCH="1000000000"))
    assert document == json.loads(run(*command, SOURCE_DATE_EPOCH="1000000000"))
    python = {
        p["externalRefs"][0]["referenceLocator"].removeprefix("pkg:pypi/").partition("@")[0]: p
        for p in document["packages"]
        if p["SPDXID"].startswith("SPDXRef-pypi-")
    }
    assert sorted(python) == json.loads(run("python", "-c", INSTALLED))
    assert "torch" in python and "instar" in python
    assert all(len(p["checksums"][0]["checksumValue"]) == 64 for p in python.values())
    names = {p["name"] for p in document["packages"]}
    assert {"libc6", "python3.11-minimal", "libssl3"} <= names
    identifiers = [p["SPDXID"] for p in document["packages"]]
    assert len(set(identifiers)) == len(identifiers)
    assert {r["relatedSpdxElement"] for r in document["relationships"]} == set(identifiers) - {
        "SPDXRef-image-instar-cpu"
    }


@pytest.mark.parametrize("tampered", [False, True])
@pytest.mark.usefixtures("image")  # its bases and wheels are fetched before this test's clock starts
def test_the_build_refuses_a_wheel_that_is_not_the_locked_one(engine: str, tmp_path: Path, tampered: bool) -> None:
    """The same step of the same Containerfile, with two of the locked wheels; then with one byte more in one of them."""
    wheels = Path(finished("wheelhouse.sh", "cpu").stdout.strip())
    names = ("setuptools", "zipp")
    lines = [s for s in (IMAGES / "cpu/requirements.lock").read_text().splitlines() if s.partition("==")[0] in names]
    assert len(lines) == 2
    (tmp_path / "requirements.lock").write_text("\n".join(lines) + "\n")
    (tmp_path / "wheels").mkdir()
    for name in names:
        (wheel,) = wheels.glob(f"{name}-*.whl")
        shutil.copy(wheel, tmp_path / "wheels")
    if tampered:
        (wheel,) = (tmp_path / "wheels").glob("zipp-*.whl")
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("zipp/planted.py", "print('planted')")
    docker = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    command = [docker, "build", "--progress=plain", "--network=none", "--target=locked"]
    command += ["--file", str(IMAGES / "cpu/Containerfile"), "--build-arg", "BASE_RUN=unused"]
    command += ["--build-arg", f"BASE_BUILD={finished('base.sh', 'build').stdout.strip()}", str(tmp_path)]
    environment = {"DOCKER_HOST": engine, "DOCKER_BUILDKIT": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode != 0) == tampered, done.stderr[-3000:]
    assert ("DO NOT MATCH THE HASHES" in done.stderr) == tampered, done.stderr[-3000:]


def finished(script: str, argument: str) -> subprocess.CompletedProcess[str]:
    """Run one of the build's scripts with this Python."""
    done = subprocess.run([str(IMAGES / script), argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{sys.executable}\n{done.stderr}"
    return done
