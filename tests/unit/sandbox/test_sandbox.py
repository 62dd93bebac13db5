"""A sandbox apart from attacks: rows and values, objects of classes, functions of the host, wheels, and what stays resident."""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from instar import wheels
from instar.artifact import Code
from instar.components.sandbox import confine
from instar.components.sandbox.config import SandboxConfig
from instar.components.sandbox.sandbox import Fault, Sandbox, open_sandbox
from instar.errors import ArtifactError, ConfigError, ContractError, ProcessError, StorageError
from instar.resident import Resident
from support.brought import SHORT, brought


def test_a_row_is_passed_as_keyword_arguments_and_comes_back(tmp_path: Path) -> None:
    rows = [{"a": n, "b": ["\u00e9\n", None, {"c": 0.5}]} for n in range(1000)]
    with Sandbox(brought(tmp_path, "def f(a, b): return [a, b]"), SHORT) as sandbox:
        assert sandbox.calls("rew.py:f", rows) == [[row["a"], row["b"]] for row in rows]
        assert sandbox.calls("rew.py:f", []) == []
        assert sandbox.calls("rew.py:f", [{"a": 1}])[0].reason.startswith("TypeError")


def test_bytes_reach_the_function_as_bytes(tmp_path: Path) -> None:
    text = "def f(image, images): return [len(image), [i.hex() for i in images], type(image).__name__]"
    with Sandbox(brought(tmp_path, text), SHORT) as sandbox:
        rows = [{"image": b"abc", "images": (b"\x00", b"\x00")}, {"image": b"abcd", "images": ()}]
        assert sandbox.calls("rew.py:f", rows) == [[3, ["00", "00"], "bytes"], [4, [], "bytes"]]
        assert list(sandbox._folder.images.iterdir()) == []


def test_files_of_a_bundle_import_each_other(tmp_path: Path) -> None:
    code = brought(
        tmp_path,
        "import helper, deep.inner\nfrom beside import NAME\ndef f(): return [helper.A, deep.inner.B, NAME, __name__]",
        "sub/rew.py",
        helper_py="A = 1",
        deep__inner_py="B = 2",
        sub__beside_py="NAME = 'beside'",
    )
    with Sandbox(code, SHORT) as sandbox:
        assert sandbox.calls("sub/rew.py:f", [{}]) == [[1, 2, "beside", "rew"]]


def test_a_signature_says_what_a_function_asks_for(tmp_path: Path) -> None:
    text = """
class Scorer:
    def __init__(self, a, b=1): pass
    async def __call__(self, x, *, y, **more): pass
    def method(self): pass
scorer = Scorer(1)
"""
    with Sandbox(brought(tmp_path, text), SHORT) as sandbox:
        made = sandbox.signature("rew.py:Scorer")
        assert (made.parameters, made.required, made.is_class) == (("a", "b"), ("a",), True)
        called = sandbox.signature("rew.py:scorer")
        assert (called.parameters, called.keywords, called.is_async) == (("x", "y"), True, True)
        assert sandbox.signature("rew.py:scorer.method").parameters == ()
        with pytest.raises(ConfigError, match="no such file in the bundle"):
            sandbox.signature("other.py:f")


def test_an_object_of_a_class_lives_in_the_process(tmp_path: Path) -> None:
    text = """
import os
class Curriculum:
    def __init__(self, arms, rate=0.5): self.values, self.rate = dict.fromkeys(arms, 0.0), rate
    def update(self, arm, gain): self.values[arm] += self.rate * gain; return self.values
    def fail(self): raise ValueError("no")
    def die(self): os._exit(1)
"""
    with Sandbox(brought(tmp_path, text), SHORT) as sandbox:
        first, second = (sandbox.create("rew.py:Curriculum", ["a", "b"], rate=rate) for rate in (0.5, 1.0))
        first.call("update", "a", 1)
        assert first.call("update", "a", gain=1) == {"a": 1.0, "b": 0.0}
        assert second.call("update", "b", 3) == {"a": 0.0, "b": 3.0}
        with pytest.raises(ContractError, match=r"ValueError: no.*rew.py:Curriculum.fail"):
            first.call("fail")
        with pytest.raises(ContractError, match="ended itself with code 1"):
            first.call("die")
        with pytest.raises(ContractError, match="make the object again"):
            second.call("update", "b", 3)
        assert sandbox.create("rew.py:Curriculum", ["c"]).call("update", "c", 1) == {"c": 0.5}


def test_functions_of_the_host_are_called_back_and_their_time_does_not_count(tmp_path: Path) -> None:
    def slow(values: list[int]) -> list[int]:
        time.sleep(1.2)
        return [2 * value for value in values]

    text = "def f(a, tool): return tool.double([a, a + 1])\ndef g(tool): return tool.missing()"
    with Sandbox(brought(tmp_path, text), SandboxConfig(call_s=1.0, cpu_s=1.0)) as sandbox:
        serve = {"tool.double": slow}
        assert sandbox.calls("rew.py:f", [{"a": 1, "tool": {}}], serve) == [[2, 4]]
        (fault,) = sandbox.calls("rew.py:g", [{"tool": {}}], serve)
        assert isinstance(fault, Fault) and fault.reason == "AttributeError: missing; there is double"


def test_one_bad_row_of_many_concurrent_ones_is_the_only_fault(tmp_path: Path) -> None:
    text = """
import asyncio, os
async def f(a):
    await asyncio.sleep(0.001 * (a % 3))
    if a == 3: os._exit(0)
    if a == 5: await asyncio.sleep(60)
    if a == 6:
        while True: pass
    return a
"""
    with Sandbox(brought(tmp_path, text), SandboxConfig(call_s=1.0, cpu_s=0.3)) as sandbox:
        results = sandbox.calls("rew.py:f", [{"a": a} for a in range(8)])
    faults = {a: result.reason for a, result in enumerate(results) if isinstance(result, Fault)}
    assert faults == {
        3: "the process ended itself with code 0",
        5: "no end within 1 s",
        6: "more than 0.3 s of processor time",
    }
    assert [result for result in results if not isinstance(result, Fault)] == [a for a in range(8) if a not in faults]


def test_a_sandbox_stays_resident_for_its_code_and_limits(tmp_path: Path) -> None:
    resident, code = Resident(), brought(tmp_path / "a", "def f(): return 1")
    sandbox = open_sandbox(code, SHORT, resident)
    assert open_sandbox(code, SHORT, resident) is sandbox
    assert open_sandbox(code, SandboxConfig(), resident) is not sandbox
    sandbox.close()
    assert open_sandbox(code, SHORT, resident) is not sandbox and not sandbox.is_open


def test_files_that_are_not_those_of_the_bundle_are_refused(tmp_path: Path) -> None:
    for name, change in (("changed", "rew.py"), ("added", "more.py")):
        code = brought(tmp_path / name, "def f(): return 1")
        (code.path / "files" / change).write_text("def f(): return 2")
        with pytest.raises(ArtifactError, match=f"{change}: added, missing or changed"):
            Sandbox(code, SHORT)


def wheel(folder: Path, text: str) -> str:
    """Write the wheel of a package `brought_lib` by hand and return its SHA-256."""
    info, record = "brought_lib-1.0.dist-info", io.StringIO()
    files = {
        "brought_lib.py": text,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: brought-lib\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        csv.writer(record).writerow([name, f"sha256={digest}", len(content)])
    folder.mkdir()
    path = folder / "brought_lib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record.getvalue() + f"{info}/RECORD,,\n"}.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def locked(code: Code, digest: str) -> None:
    listed = json.loads((code.path / "code.json").read_text())
    listed["requirements"] = [f"brought-lib==1.0 --hash=sha256:{digest}"]
    (code.path / "code.json").write_text(json.dumps(listed))


def test_wheels_of_the_lock_are_installed_offline_and_only_with_their_hash(tmp_path: Path) -> None:
    code = brought(tmp_path / "code", "import brought_lib\ndef f(): return brought_lib.A")
    digest = wheel(code.path / "wheels", "A = 41")
    locked(code, digest)
    with Sandbox(code, SHORT) as sandbox:
        assert sandbox.calls("rew.py:f", [{}]) == [41]
    locked(code, "0" * 64)
    with pytest.raises(ProcessError, match="hashes of the lock"):
        Sandbox(code, SHORT)


def test_wheels_are_unpacked_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images have no pip. What pip would refuse is refused here."""
    monkeypatch.setattr(subprocess, "run", lambda *words, **settings: pytest.fail(f"ran {words}"))
    digest = wheel(tmp_path / "wheels", "A = 41")
    line = f"Brought.Lib==1.0 --hash=sha256:{digest}"
    wheels.unpack(
        tmp_path / "wheels", [line, f'other==2.0 ; python_version < "3" --hash=sha256:{digest}'], tmp_path / "a"
    )
    assert (tmp_path / "a/brought_lib.py").read_text() == "A = 41"
    with pytest.raises(ValueError, match=r"no wheel of other==2\.0"):
        wheels.unpack(tmp_path / "wheels", [line, f"other==2.0 --hash=sha256:{digest}"], tmp_path / "b")
    file = tmp_path / "wheels/brought_lib-1.0-py3-none-any.whl"
    file.rename(file.with_name("brought_lib-1.0-cp37-cp37m-win_amd64.whl"))
    with pytest.raises(ValueError, match=r"win_amd64\.whl on Python 3"):
        wheels.unpack(tmp_path / "wheels", [line], tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "is_for_us"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp{v}-cp{v}-manylinux_2_17_{m}.manylinux2014_{m}.whl", True),
        ("a-1-cp37-abi3-manylinux_2_17_{m}.whl", True),
        ("a-1-cp37-cp37m-manylinux_2_17_{m}.whl", False),
        ("a-1-cp{v}-cp{v}-musllinux_1_2_{m}.whl", False),
        ("a-1-cp{v}-cp{v}-manylinux_2_17_s390x.whl", False),
        ("a-1-cp{v}-cp{v}-macosx_11_0_{m}.whl", False),
    ],
)
def test_the_name_of_a_wheel_says_where_it_runs(name: str, is_for_us: bool) -> None:
    here = name.format(v=f"{sys.version_info.major}{sys.version_info.minor}", m=platform.machine())
    assert wheels.fits(here) == is_for_us


def test_the_kernel_ends_the_process_before_its_host(tmp_path: Path) -> None:
    text = "def f(): return int(open('/proc/self/oom_score_adj').read())"
    with Sandbox(brought(tmp_path, text), SHORT) as sandbox:
        assert sandbox.calls("rew.py:f", [{}]) == [1000]


def test_a_full_or_unwritable_folder_for_temporary_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = brought(tmp_path / "code", "def f(): return 1")

    def full(source: Path, target: Path) -> None:
        del source, target
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="free space"):
        Sandbox(code, SHORT)


def test_the_environment_of_the_process_holds_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    text = "import os\ndef f(): return [dict(os.environ), os.getcwd(), os.listdir('.')]"
    with Sandbox(brought(tmp_path, text), SHORT) as sandbox:
        (value,) = sandbox.calls("rew.py:f", [{}])
    assert not isinstance(value, Fault)
    environment, folder, names = value
    assert {"HOME", "TMPDIR", "PYTHONHASHSEED", "OMP_NUM_THREADS"} <= environment.keys()
    assert "AWS_SECRET_ACCESS_KEY" not in environment and environment["HOME"] == folder and names == []


def test_network_and_programs_work_where_they_are_allowed(tmp_path: Path) -> None:
    text = """
import socket, subprocess, sys
def f():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0)); server.listen()
        with socket.create_connection(server.getsockname()) as client:
            client.sendall(b"hello")
            peer, _ = server.accept()
            said = peer.recv(5).decode()
    program = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True)
    waits = subprocess.Popen(["sleep", "60"])
    waits.kill()
    return [said, program.stdout.strip(), waits.wait()]
"""
    config = SandboxConfig(allow=("network", "processes"))
    with Sandbox(brought(tmp_path, text), config) as sandbox:
        (value,) = sandbox.calls("rew.py:f", [{}])
    scoped = confine.landlock_version() >= 6
    assert value == ["hello", "42", -9] if scoped else isinstance(value, Fault)


def test_a_machine_without_a_filter_runs_no_code_unless_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instar.components.sandbox import worker

    text = worker.CHILD.read_text().replace("rules.filter_calls(allow)", "raise OSError(22, 'no seccomp')")
    child = tmp_path / "child.py"
    child.write_text(text)
    (tmp_path / "confine.py").write_text(worker.CHILD.with_name("confine.py").read_text())
    monkeypatch.setattr(worker, "CHILD", child)
    code = brought(tmp_path / "code", "def f(): return 1")
    with Sandbox(code, SHORT) as sandbox, pytest.raises(ProcessError, match=r"no seccomp.*INSTAR_SANDBOX=unprotected"):
        sandbox.calls("rew.py:f", [{}])
    monkeypatch.setenv("INSTAR_SANDBOX", "unprotected")
    with Sandbox(code, SHORT) as sandbox:
        assert sandbox.calls("rew.py:f", [{}]) == [1]


@pytest.mark.parametrize("field", ["call_s", "cpu_s", "memory_mb", "file_mb", "print_kb"])
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    changes: dict[str, Any] = {field: 0}
    with pytest.raises(ConfigError, match=f"sandbox.{field}"):
        SandboxConfig(**changes)


def decide(code: list[tuple[int, int, int, int]], machine: int, number: int, *arguments: int) -> int:
    """Run a filter on one system call and return its verdict."""
    words = {0: number, 4: machine}
    for n in range(6):
        value = arguments[n] if n < len(arguments) else 0
        words |= {16 + 8 * n: value & 0xFFFFFFFF, 20 + 8 * n: value >> 32}
    at, held = 0, 0
    while True:
        operation, yes, no, value = code[at]
        if operation == 0x06:
            return value
        if operation == 0x20:
            held = words[value]
        elif operation == 0x54:
            held &= value
        else:
            right = held >= value if operation == 0x35 else held == value
            at += yes if right else no
        at += 1


ALLOWED, DENIED, ABSENT, PRETENDED, KILLED = 0x7FFF0000, 0x00050001, 0x00050026, 0x00050000, 0x80000000
CALLS: list[tuple[str, int, int, tuple[int, ...], int, int, int]] = [
    # name, number on x86_64 and on aarch64, arguments; verdict with nothing allowed, with network, with processes
    ("read", 0, 63, (3,), ALLOWED, ALLOWED, ALLOWED),
    ("clone of a thread", 56, 220, (0x3D0F00,), ALLOWED, ALLOWED, ALLOWED),
    ("clone of a process", 56, 220, (0x1200011,), DENIED, DENIED, ALLOWED),
    ("clone of a namespace", 56, 220, (0x10000011,), DENIED, DENIED, DENIED),
    ("clone3", 435, 435, (), ABSENT, ABSENT, ABSENT),
    ("execve", 59, 221, (), DENIED, DENIED, ALLOWED),
    ("kill itself", 62, 129, (7, 9), ALLOWED, ALLOWED, ALLOWED),
    ("kill all", 62, 129, ((1 << 64) - 1, 9), DENIED, DENIED, ALLOWED),
    ("socket inet stream", 41, 198, (2, 1), DENIED, ALLOWED, DENIED),
    ("socket inet stream, not to wait", 41, 198, (2, 0x801), DENIED, ALLOWED, DENIED),
    ("socket inet raw", 41, 198, (2, 3), DENIED, DENIED, DENIED),
    ("socket unix", 41, 198, (1, 1), DENIED, DENIED, DENIED),
    ("socketpair stream", 53, 199, (1, 0x80001), ALLOWED, ALLOWED, ALLOWED),
    ("socketpair datagram", 53, 199, (1, 2), DENIED, DENIED, DENIED),
    ("sendto nobody", 44, 206, (3, 1, 1, 0, 0), ALLOWED, ALLOWED, ALLOWED),
    ("sendto an address", 44, 206, (3, 1, 1, 0, 1 << 40), DENIED, ALLOWED, DENIED),
    ("prlimit reading", 302, 261, (0, 7, 0), ALLOWED, ALLOWED, ALLOWED),
    ("prlimit setting", 302, 261, (0, 7, 1 << 40), DENIED, DENIED, DENIED),
    ("prctl of the parent's death", 157, 167, (1, 0), DENIED, DENIED, DENIED),
    ("prctl of a name", 157, 167, (15, 0), ALLOWED, ALLOWED, ALLOWED),
    ("setsid", 112, 157, (), PRETENDED, PRETENDED, PRETENDED),
    ("fchmod", 91, 52, (), PRETENDED, PRETENDED, ALLOWED),
    ("ptrace", 101, 117, (), DENIED, DENIED, DENIED),
    ("io_uring_setup", 425, 425, (), DENIED, DENIED, DENIED),
    ("unshare", 272, 97, (), DENIED, DENIED, DENIED),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_the_filter_decides_on_both_machines(call: tuple[str, int, int, tuple[int, ...], int, int, int]) -> None:
    _, x86, arm, arguments, *verdicts = call
    for machine, number, architecture in (("x86_64", x86, 0xC000003E), ("aarch64", arm, 0xC00000B7)):
        for allow, verdict in zip(((), ("network",), ("processes",)), verdicts, strict=True):
            code = confine.program(machine, allow, 7, True)
            assert decide(code, architecture, number, *arguments) == verdict, (machine, allow)
            assert decide(code, 0x40000003, number) == KILLED


def test_a_second_table_of_calls_is_refused_on_x86_64() -> None:
    assert decide(confine.program("x86_64", (), 7, True), 0xC000003E, 0x40000000 + 59) == ABSENT
    assert all(instruction[1] < 256 and instruction[2] < 256 for instruction in confine.program("x86_64", (), 7, True))
