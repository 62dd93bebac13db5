"""A container image that is this machine's Python and nothing else, imported as a file system: no registry, no build, no shell."""

import io
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import instar
from instar import errors, terminal

IMAGE = "instar-test-python:local"
PYTHON = str(Path(sys.executable).resolve())
HELP = """
import hashlib, json, os, sys
task = json.loads(sys.argv[1])
ins, outs = task["inputs"], task["outputs"]
said = {}
def write(name, digest):
    entry = outs["artifacts"][name]["artifacts"][0]
    open(entry["uri"], "w").write(json.dumps({"digest": digest, "type": "Tasks"}))
    said[name] = {"artifacts": [dict(entry, metadata={"instar.type": "Tasks", "instar.digest": digest})]}
def read(name):
    return [json.load(open(a["uri"]))["digest"] for a in ins["artifacts"][name]["artifacts"]]
def end(**parameters):
    open(outs["outputFile"], "w").write(json.dumps({"artifacts": said, "parameterValues": parameters}))
"""


def rootfs() -> bytes:
    """Python, the C libraries it needs, its standard library, and instar's errors with the module that they print through."""
    listed = subprocess.run(["ldd", PYTHON], capture_output=True, text=True, check=True).stdout.split()
    files = {Path(word) for word in listed if word.startswith("/")} | {Path(PYTHON)}
    library = Path(sysconfig.get_path("stdlib"))

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        skipped = {
            "site-packages",
            "dist-packages",
            "test",
            "__pycache__",
            "idlelib",
            "ensurepip",
            "lib2to3",
            "tkinter",
        }
        return None if Path(info.name).name in skipped else info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file in sorted(files):
            tar.add(file.resolve(), arcname=str(file))
        tar.add(library, arcname=str(library), filter=kept)
        for module in (instar.__file__, errors.__file__, terminal.__file__):
            assert module
            tar.add(Path(module).resolve(), arcname=f"/app/instar/{Path(module).name}")
        for folder in ("/tmp", "/proc", "/dev", "/sys", "/etc"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
    return out.getvalue()
