"""`Cas`: round trips, digests, laziness of uploads, caching."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from instar.cas import Cas
from instar.errors import ArtifactError, ConfigError
from instar.manifest import Manifest
from instar.store import LocalStore

NAME = st.text(st.characters(exclude_characters="/\x00", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda s: s not in (".", "..") and len(s.encode()) < 60
)
TREE = st.dictionaries(st.lists(NAME, min_size=1, max_size=3).map("/".join), st.binary(max_size=300), max_size=6)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
METADATA = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | NUMBER | st.text(max_size=8), max_size=3)


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class CountingStore(LocalStore):
    """A `LocalStore` that remembers what was written and refuses hard links, as a remote store does."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, durable=False)
        self.written: list[str] = []

    def put_file(self, name: str, path: Path) -> None:
        self.written.append(name)
        super().put_file(name, path)

    def put_bytes(self, name: str, data: bytes) -> None:
        self.written.append(name)
        super().put_bytes(name, data)

    def link_file(self, name: str, path: Path) -> bool:
        return False


@settings(max_examples=40, deadline=None)
@given(files=TREE, metadata=METADATA)
def test_any_tree_round_trips(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], metadata: dict[str, Any]
) -> None:
    assume(not any(b.startswith(a + "/") for a in files for b in files))
    root = tmp_path_factory.mktemp("cas")
    folder = write_tree(root / "in", files)
    linked = Cas(LocalStore(root / "store", durable=False), root / "cache")
    digest = linked.put(folder, "Policy", metadata)
    assert linked.manifest(digest).metadata == metadata
    assert linked.manifest(digest).num_bytes == sum(map(len, files.values()))
    assert read_tree(linked.get(digest)) == files
    copied = Cas(CountingStore(root / "store"), root / "cache2")
    assert read_tree(copied.get(digest)) == files
    assert copied.put(linked.get(digest), "Policy", metadata) == digest
    linked.verify(digest)


def test_digest_is_the_documented_hash(tmp_path: Path) -> None:
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    digest = cas.put(write_tree(tmp_path / "in", {"a/b.txt": b"hello"}), "Report", {"k": 1})
    # sha256("hello") and the manifest below are computed by hand with sha256sum
    text = (
        '{"files":{"a/b.txt":{"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5}},'
        '"metadata":{"k":1},"type":"Report"}'
    )
    out = subprocess.run(["sha256sum"], input=text.encode(), capture_output=True, check=True).stdout.decode().split()[0]
    assert digest == f"sha256:{out}"
    assert cas.store.list("") == [
        "blobs/2c/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        f"manifests/{out[:2]}/{out}.json",
    ]


def test_type_metadata_names_and_bytes_all_change_the_digest(tmp_path: Path) -> None:
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    a, b, c = (write_tree(tmp_path / n, f) for n, f in (("1", {"x": b"1"}), ("2", {"y": b"1"}), ("3", {"x": b"2"})))
    digests = [cas.put(a, "T"), cas.put(a, "U"), cas.put(a, "T", {"k": 1}), cas.put(b, "T"), cas.put(c, "T")]
    assert len(set(digests)) == 5
    os.utime(a / "x", (1, 1))
    (a / "x").chmod(0o600)
    (a / "empty").mkdir()
    assert cas.put(a, "T") == digests[0]


def test_only_what_the_store_lacks_is_uploaded_and_the_manifest_comes_last(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "s")
    cas = Cas(store, tmp_path / "c")
    first = cas.put(write_tree(tmp_path / "1", {"x": b"1", "y": b"2"}), "T")
    assert len(store.written) == 3 and store.written[-1] == f"manifests/{first[7:9]}/{first[7:]}.json"
    store.written.clear()
    cas.put(tmp_path / "1", "T")
    assert store.written == []
    cas.put(write_tree(tmp_path / "2", {"x": b"1", "z": b"3"}), "T")
    assert [name.split("/")[0] for name in store.written] == ["blobs", "manifests"]


def test_files_in_the_cache_are_read_only_and_linked_to_the_store(tmp_path: Path) -> None:
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    digest = cas.put(write_tree(tmp_path / "in", {"x": b"1"}), "T")
    for folder, links in ((cas.get(digest), 2), (Cas(CountingStore(tmp_path / "s"), tmp_path / "c2").get(digest), 1)):
        status = (folder / "x").stat()
        assert (status.st_mode & 0o222, status.st_nlink) == (0, links)


def test_a_second_get_in_one_process_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    digest = cas.put(write_tree(tmp_path / "in", {"x": b"1"}), "T")
    folder = cas.get(digest)
    monkeypatch.setattr("instar.cas.file_sha256", lambda path: pytest.fail("hashed again"))
    monkeypatch.setattr(cas.store, "read", lambda name: pytest.fail("read again"))
    assert cas.get(digest) == folder


def test_links_to_files_are_followed_and_other_things_refused(tmp_path: Path) -> None:
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    folder = write_tree(tmp_path / "in", {"x": b"1"})
    (tmp_path / "outside").write_bytes(b"2")
    (folder / "link").symlink_to(tmp_path / "outside")
    assert read_tree(cas.get(cas.put(folder, "T"))) == {"x": b"1", "link": b"2"}
    for make in (
        lambda p: p.symlink_to(tmp_path / "nowhere"),
        lambda p: p.symlink_to(tmp_path),
        lambda p: os.mkfifo(p),
    ):
        make(folder / "odd")
        with pytest.raises(ArtifactError, match="only files and folders"):
            cas.put(folder, "T")
        (folder / "odd").unlink()
    with pytest.raises(ArtifactError, match="a folder"):
        cas.put(tmp_path / "absent", "T")


def test_file_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    name = os.fsdecode(b"caf\xe9")
    folder = write_tree(tmp_path / "in", {name: b"1"})
    assert read_tree(cas.get(cas.put(folder, "T"))) == {name: b"1"}


@pytest.mark.parametrize("metadata", [{"a": float("nan")}, {"a": object()}])
def test_metadata_must_be_finite_json(tmp_path: Path, metadata: dict[str, Any]) -> None:
    cas = Cas(LocalStore(tmp_path / "s"), tmp_path / "c")
    with pytest.raises(ConfigError, match=r"T\.metadata"):
        cas.put(write_tree(tmp_path / "in", {"x": b"1"}), "T", metadata)


@pytest.mark.parametrize(
    "digest", ["", "abc", "sha256:", "sha256:" + "g" * 64, "sha256:../" + "a" * 61, "md5:" + "a" * 64]
)
def test_bad_digests_are_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ArtifactError, match="64 hex digits"):
        Cas(LocalStore(tmp_path / "s"), tmp_path / "c").get(digest)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a//b", "./a", "", "a/.", ".."])
def test_a_manifest_cannot_write_outside_its_folder(path: str) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    data = json.dumps({"files": {path: entry}, "metadata": {}, "type": "T"}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(ArtifactError, match="canonical manifest"):
        Manifest.from_json(data.encode(), "test")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"files":[],"metadata":{},"type":"T"}',
        b'{"files": {}, "metadata": {}, "type": "T"}',
        b'{"files":{"x":{"sha256":"zz","size":1}},"metadata":{},"type":"T"}',
        b'{"files":{},"metadata":{},"more":1,"type":"T"}',
    ],
)
def test_malformed_manifests_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="canonical manifest"):
        Manifest.from_json(data, "test")


def test_racing_processes_share_one_store_and_cache(tmp_path: Path) -> None:
    script = """
import sys, pathlib
from instar.cas import Cas
from instar.store import LocalStore
root = pathlib.Path(sys.argv[1])
cas = Cas(LocalStore(root / "s"), root / "c")
for i in range(15):
    folder = cas.get(cas.put(root / "in" / str(i), "T"))
    assert (folder / "x").read_bytes() == str(i).encode() * 1000, i
"""
    for i in range(15):
        write_tree(tmp_path / "in" / str(i), {"x": str(i).encode() * 1000, "sub/y": b"same"})
    racers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0, 0, 0]
    assert list((tmp_path / "c" / ".tmp").iterdir()) == []
