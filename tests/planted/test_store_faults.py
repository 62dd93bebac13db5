"""Planted damage: full and read-only disks, limits, truncated, flipped and missing bytes in store and cache."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from instar.artifact import Policy
from instar.cas import Cas
from instar.contract import Context, Stage
from instar.errors import ArtifactError, StorageError
from instar.manifest import blob_name, manifest_name
from instar.pipelines import stage_command
from instar.pipelines.execute import execute
from instar.pipelines.supervise import watchdog
from instar.store import LocalStore
from instar.store_files import refusals, remove_stale, write_whole

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB. Needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"may not mount: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def attempts(store: LocalStore, big: Path) -> list[Callable[[], object]]:
    data = big.read_bytes()
    return [
        lambda: store.put_file("a", big),
        lambda: store.put_bytes("a", data),
        lambda: store.put_bytes("new", data),
        lambda: store.create("new", data),
    ]


def test_a_file_written_whole_on_a_full_disk_stays_as_it_was(small_disk: Path) -> None:
    path = small_disk / "report.html"
    write_whole(path, "old")
    with pytest.raises(StorageError, match="ENOSPC"):
        write_whole(path, "x" * (3 << 20))
    assert path.read_text() == "old" and [file.name for file in small_disk.iterdir()] == ["report.html"]


def test_full_disk_names_the_path_and_leaves_the_old_object(small_disk: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 3 * MIB)
    store = LocalStore(small_disk / "s")
    store.put_bytes("a", b"old")
    for attempt in attempts(store, big):
        with pytest.raises(StorageError, match=r"ENOSPC.*disk/s/(a|new); free space"):
            attempt()
    assert (store.list(""), store.read("a")) == (["a"], b"old")
    assert list((store.root / ".tmp").iterdir()) == []
    store.put_bytes("a", b"y" * MIB)  # the failed attempts hold no space


def test_full_disk_under_a_stage_is_named_whatever_library_writes(small_disk: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=MIB)
    writers: list[Callable[[], object]] = [
        lambda: save_file({"x": numbers}, small_disk / "a"),
        lambda: pq.write_table(pa.table({"x": numbers}), small_disk / "b"),
        lambda: (small_disk / "c").write_bytes(numbers.tobytes()),
    ]
    for write in writers:
        with pytest.raises(StorageError, match=r"ENOSPC: .*[Nn]o space left.*disk; free space"), refusals(small_disk):
            write()
        for path in small_disk.iterdir():
            path.unlink()
    with pytest.raises(KeyError, match="other"), refusals(small_disk):
        raise KeyError("other")


@dataclass(frozen=True, kw_only=True)
class Nothing:
    pass


@dataclass(frozen=True, kw_only=True)
class Made:
    policy: Policy


def staged(function: Callable[[Path], object], folder: Path) -> None:
    """Run a stage that writes its output by `function`, as every runner does."""

    def run(ins: Nothing, outs: Made, config: Nothing, ctx: Context) -> dict[str, float]:
        del ins, config, ctx
        function(outs.policy.path / "config.json")
        return {}

    stage = Stage(name="update", ins=Nothing, outs=Made, config=Nothing, run=run)
    execute(stage, {}, Nothing(), Context(evolution="e", step=0, stage="update", scratch=folder), folder)


WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "safetensors": lambda path: save_file({"x": NUMBERS}, path),
    "parquet": lambda path: pq.write_table(pa.table({"x": NUMBERS}), path),
    "hdf5": lambda path: h5py.File(path, "w").create_dataset("x", data=NUMBERS).file.close(),
}
NUMBERS = np.random.default_rng(0).normal(size=MIB // 4)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_size_limit_under_a_stage_is_named_whatever_library_writes(writer: str, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"EFBIG.*ulimit -f"):
            staged(WRITERS[writer], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_system_that_became_read_only_under_a_stage_is_named(small_disk: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("{}")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        path.with_name("more.json").write_text("{}")

    with pytest.raises(StorageError, match=r"EROFS.*more\.json; choose a folder on a writable file system"):
        staged(write, small_disk)


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.EMFILE, errno.EACCES])
def test_a_refusal_under_a_stage_is_named(code: int, tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    with pytest.raises(StorageError, match=errno.errorcode[code]) as caught:
        staged(fail, tmp_path)
    assert caught.value.where.endswith("policy/config.json") and caught.value.exit_code == 18


@pytest.mark.parametrize(
    "error", [KeyError("x"), FileNotFoundError(errno.ENOENT, "x"), ConnectionRefusedError(111, "x")]
)
def test_what_is_no_refusal_of_a_file_system_stays_what_it_is(error: Exception, tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        staged(fail, tmp_path)
    assert caught.value is error


def test_a_stage_of_its_own_process_hands_its_refusal_to_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/data/x")

    monkeypatch.setattr(stage_command, "_run", fail)
    result = tmp_path / "done.json"
    with pytest.raises(StorageError):
        stage_command.main(["curriculum", "--store", str(tmp_path), "--result", str(result)])
    error = watchdog.child_error(result, "curriculum", 18, tmp_path / "none")
    assert isinstance(error, StorageError) and error.where == "/data/x" and "EIO" in error.found


def test_a_clock_a_day_ahead_of_the_file_system_removes_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = time.time() + 10 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: ahead)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_bytes(b"x")
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    assert (cas.get(cas.put(tmp_path / "in", "T")) / "x").read_bytes() == b"x"
    left = cas.cache / ".tmp" / "left"
    left.mkdir()
    remove_stale(left.parent)
    assert left.is_dir()


def test_what_a_killed_process_left_two_days_ago_is_removed(tmp_path: Path) -> None:
    for name, age_s in (("old", 48 * 3600), ("young", 3600)):
        (tmp_path / name).mkdir()
        then = (tmp_path / name).stat().st_mtime - age_s
        os.utime(tmp_path / name, (then, then))
    remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["young"]


def test_full_disk_under_the_cache(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "x").write_bytes(b"x" * 3 * MIB)
    store = LocalStore(tmp_path / "s")
    digest = Cas(store, tmp_path / "c").put(source, "T")
    cas = Cas(store, small_disk / "cache")
    with pytest.raises(StorageError, match="ENOSPC"):
        cas.get(digest)
    assert [p.name for p in cas.cache.iterdir()] == [".tmp"] and list((cas.cache / ".tmp").iterdir()) == []


def test_read_only_file_system(small_disk: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x")
    LocalStore(small_disk / "s").put_bytes("a", b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = LocalStore(small_disk / "s")
    for attempt in attempts(store, big):
        with pytest.raises(StorageError, match=r"EROFS.*writable file system"):
            attempt()
    assert store.read("a") == b"old"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "writable"),
        (errno.EACCES, "permission"),
        (errno.EIO, "check the disk"),
        (errno.ENXIO, "check the path"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_every_refusal_of_the_system_is_named(
    code: int, advice: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "s")
    store.put_bytes("a", b"old")
    big = tmp_path / "big"
    big.write_bytes(b"x")

    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    for attempt in attempts(store, big):
        with monkeypatch.context() as patch, pytest.raises(StorageError, match=advice) as caught:
            patch.setattr(os, call, fail)
            attempt()
        assert errno.errorcode[code] in caught.value.found and str(store.root) in caught.value.where
        assert not caught.value.transient
    assert (store.list(""), store.read("a")) == (["a"], b"old")
    assert list((store.root / ".tmp").iterdir()) == []


def test_file_size_limit(tmp_path: Path) -> None:
    script = """
import pathlib, resource, sys
from instar.errors import StorageError
from instar.store import LocalStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = LocalStore(pathlib.Path(sys.argv[1]))
store.put_bytes("small", b"x" * 99_999)
try:
    store.put_bytes("big", b"x" * 200_000)
except StorageError as error:
    print(error.found.split(":")[0], store.list(""))
"""
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "EFBIG ['small']"


def test_killed_writer_leaves_nothing_visible(tmp_path: Path) -> None:
    script = """
import os, pathlib, sys
from instar.store import LocalStore
store = LocalStore(pathlib.Path(sys.argv[1]))
os.fsync = lambda fd: os.kill(os.getpid(), 9) if "/.tmp/" in os.readlink(f"/proc/self/fd/{fd}") else None
getattr(store, sys.argv[2])("a", b"x" * 100_000)
"""
    for method in ("put_bytes", "create"):
        run = subprocess.run([sys.executable, "-c", script, str(tmp_path / method), method], check=False)
        assert run.returncode == -9
        store = LocalStore(tmp_path / method)
        assert (store.list(""), store.exists("a")) == ([], False)
        assert store.create("a", b"after") and store.read("a") == b"after"


class Planted:
    """One artifact of three files in a store, and ways to damage its copies."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, LocalStore(root / "s")
        self.source = root / "in"
        (self.source / "sub").mkdir(parents=True)
        self.files = {"x": b"1" * 1000, "sub/y": b"2" * 1000, "z": b""}
        for path, data in self.files.items():
            (self.source / path).write_bytes(data)
        self.cas = Cas(self.store, root / "c")
        self.digest = self.cas.put(self.source, "Policy")
        self.sha256 = self.cas.manifest(self.digest).files["x"].sha256
        self.blob = self.store.root / blob_name(self.sha256)
        self.record = self.store.root / manifest_name(self.digest)

    def fresh(self, cache: str = "c2") -> Cas:
        return Cas(self.store, self.root / cache)

    def is_whole(self, folder: Path) -> bool:
        return {
            p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        } == self.files


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def replace(path: Path, data: bytes) -> None:
    """Put other bytes at a path in a new inode, so that hard links keep the old ones."""
    path.unlink()
    path.write_bytes(data)


def truncate(path: Path) -> None:
    replace(path, path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500 % len(data)] ^= 1
    replace(path, bytes(data))


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("damage", [truncate, flip])
def test_damaged_blob_names_artifact_file_and_both_digests(
    planted: Planted, damage: Callable[[Path], None], link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(planted.blob)
    cas = planted.fresh()
    if not link:
        monkeypatch.setattr(planted.store, "link_file", lambda name, path: False)
    for call in (cas.get, cas.verify):
        with pytest.raises(ArtifactError) as caught:
            call(planted.digest)
        assert planted.digest in caught.value.where and caught.value.where.startswith("x of ")
        assert planted.sha256 in caught.value.expected and "1000 bytes" in caught.value.expected
        assert caught.value.found != caught.value.expected and " bytes)" in caught.value.found
        assert str(planted.blob) in caught.value.action
    assert [p.name for p in cas.cache.iterdir()] == [".tmp"]
    cas.put(planted.source, "Policy")  # this process has seen the damage: the blob is stored anew
    assert planted.is_whole(planted.fresh("c3").get(planted.digest))


def test_truncated_blob_is_healed_by_a_put_in_another_process(planted: Planted) -> None:
    truncate(planted.blob)
    planted.fresh().put(planted.source, "Policy")
    planted.fresh().verify(planted.digest)


def test_missing_blob_and_missing_manifest(planted: Planted) -> None:
    planted.blob.unlink()
    for call in (planted.fresh().get, planted.fresh().verify):
        with pytest.raises(
            ArtifactError, match=f"blob {blob_name(planted.sha256)}; found nothing; at x of {planted.digest}"
        ):
            call(planted.digest)
    planted.fresh().put(planted.source, "Policy")
    assert planted.is_whole(planted.fresh().get(planted.digest))
    planted.record.unlink()
    with pytest.raises(ArtifactError, match="found nothing"):
        planted.fresh("c4").get(planted.digest)


@pytest.mark.parametrize("damage", [truncate, flip])
def test_damaged_manifest(planted: Planted, damage: Callable[[Path], None]) -> None:
    damage(planted.record)
    cas = planted.fresh()
    with pytest.raises(ArtifactError, match=f"expected digest {planted.digest}"):
        cas.get(planted.digest)
    assert cas.put(planted.source, "Policy") == planted.digest
    assert planted.is_whole(cas.get(planted.digest))


def drop(path: Path) -> None:
    path.unlink()


def add(path: Path) -> None:
    (path.parent / "more").write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, drop, add])
@pytest.mark.parametrize("same_process", [True, False])
def test_damaged_cache_is_fetched_again_once(
    planted: Planted, damage: Callable[[Path], None], same_process: bool
) -> None:
    cas = planted.fresh()
    damage(cas.get(planted.digest) / "x")
    again = cas if same_process else planted.fresh()
    assert planted.is_whole(again.get(planted.digest))
    assert list((cas.cache / ".tmp").iterdir()) == []


def test_damaged_cache_and_store_is_an_error(planted: Planted) -> None:
    cas = planted.fresh()
    flip(cas.get(planted.digest) / "x")
    flip(planted.blob)
    with pytest.raises(ArtifactError, match=planted.sha256):
        planted.fresh().get(planted.digest)


def test_file_that_changes_while_it_is_stored(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    real = planted.store.put_file

    def slow(name: str, path: Path) -> None:
        real(name, path)
        with path.open("ab") as stream:
            stream.write(b"late")

    monkeypatch.setattr(planted.store, "put_file", slow)
    (planted.source / "w").write_bytes(b"early")
    with pytest.raises(ArtifactError, match="does not change while it is stored"):
        planted.cas.put(planted.source, "Policy")
