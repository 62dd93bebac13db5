"""Bundles of a user's code: what goes in, that equal sources give equal bytes, and what is refused with file and line."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from instar import wheels
from instar.bundle import LARGE, bundle, entry_of, import_root, module_name
from instar.errors import ConfigError
from instar.manifest import manifest_of
from instar.user_imports import IMAGES

REWARD = "import re\nfrom helper import strip\n\ndef reward(answer, reference):\n    return strip(answer) == reference['answer']\n"
ROOT = Path(__file__).parents[2]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def bundled(folder: Path, out: Path, *entries: str, **options: Any) -> tuple[list[str], set[str]]:
    """Return the entries and the files of a bundle of entries below `folder`."""
    relative = bundle([str(folder / entry) for entry in entries], out, **options)
    files = json.loads((out / "code.json").read_text())["files"]
    on_disk = {path.relative_to(out / "files").as_posix() for path in (out / "files").rglob("*") if path.is_file()}
    assert on_disk == set(files)
    for name, digest in files.items():
        assert hashlib.sha256((out / "files" / name).read_bytes()).hexdigest() == digest
    return relative, on_disk


def refusal(folder: Path, *entries: str, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        bundle([str(folder / entry) for entry in entries], folder / "out", **options)
    return caught.value


def test_a_bundle_has_the_entry_and_what_it_imports_and_nothing_else(tmp_path: Path) -> None:
    helper = "import torch\nfrom pkg.deep import units\n\ndef strip(text):\n    import late\n    return text.strip()\n"
    folder = write(
        tmp_path / "mine",
        {
            "rew.py": REWARD,
            "helper.py": helper,
            "late.py": "",
            "pkg/__init__.py": "from . import base\nfrom .base import *\n",
            "pkg/base.py": "",
            "pkg/deep/__init__.py": "",
            "pkg/deep/units.py": "from ..sibling import A\nimport importlib\nimportlib.import_module('pkg.named')\n",
            "pkg/sibling.py": "A = 1\n",
            "pkg/named.py": "",
            "pkg/unused.py": "",
            "notes.txt": "",
            "unused.py": "import nothing_there\n",
        },
    )
    relative, files = bundled(folder, tmp_path / "out", "rew.py:reward")
    assert relative == ["rew.py:reward"]
    package = {"__init__.py", "base.py", "deep/__init__.py", "deep/units.py", "sibling.py", "named.py"}
    assert files == {"rew.py", "helper.py", "late.py"} | {f"pkg/{name}" for name in package}


def test_equal_sources_give_equal_digests_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"rew.py": REWARD, "helper.py": "def strip(text):\n    return text\n"}
    one, two = write(tmp_path / "one", files), write(tmp_path / "two/deeper", files)
    bundle([str(one / "rew.py:reward")], tmp_path / "a")
    os.utime(two / "rew.py", (1, 1))
    (two / "helper.py").chmod(0o700)
    monkeypatch.chdir(two)
    bundle(["./rew.py:reward"], tmp_path / "b")
    digests = {manifest_of(tmp_path / name, "Code").digest for name in "ab"}
    assert len(digests) == 1
    write(two, {"helper.py": "def strip(text):\n    return text \n"})
    bundle(["rew.py:reward"], tmp_path / "c")
    assert manifest_of(tmp_path / "c", "Code").digest not in digests
    about = json.loads((tmp_path / "a/code.json").read_text())
    assert about["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (about["entries"], about["requirements"], about["wheels"]) == (["rew.py:reward"], [], {})


def test_an_entry_in_a_package_stays_in_it(tmp_path: Path) -> None:
    files = {
        "mine/rewards/__init__.py": "",
        "mine/rewards/style.py": "from .words import W\n\ndef style(answer): ...\n",
    }
    folder = write(tmp_path, {**files, "mine/rewards/words.py": "W = 1\n"})
    relative, names = bundled(folder / "mine", tmp_path / "out", "rewards/style.py:style")
    assert relative == ["rewards/style.py:style"]
    assert names == {"rewards/__init__.py", "rewards/style.py", "rewards/words.py"}
    unpacked = tmp_path / "out/files/rewards/style.py"
    assert (import_root(unpacked), module_name(unpacked)) == (tmp_path / "out/files", "rewards.style")


def test_entries_from_folders_side_by_side_make_one_bundle(tmp_path: Path) -> None:
    files = {"a/rew.py": "import words\ndef reward(): ...\n", "a/words.py": "", "b/style.py": "def style(): ...\n"}
    folder = write(tmp_path / "mine", files)
    relative, names = bundled(folder, tmp_path / "out", "a/rew.py:reward", "b/style.py:style", "a/rew.py:reward")
    assert relative == ["a/rew.py:reward", "b/style.py:style", "a/rew.py:reward"]
    assert names == {"a/rew.py", "a/words.py", "b/style.py"}
    write(folder, {"b/words.py": ""})
    error = refusal(folder, "a/rew.py:reward", "b/style.py:style")
    assert str(folder / "b/words") in error.found and error.where == f"{folder / 'a/rew.py'}:1"


def test_bundling_runs_nothing(tmp_path: Path) -> None:
    source = "from pathlib import Path\nPath('ran').touch()\nimport helper\n\ndef reward(answer): ...\n"
    folder = write(tmp_path, {"rew.py": source, "helper.py": "raise SystemExit(1)\n"})
    before = set(sys.modules)
    bundled(folder, tmp_path / "out", "rew.py:reward")
    assert not {"rew", "helper"} & (set(sys.modules) - before)
    assert not (tmp_path / "ran").exists() and not Path("ran").exists()


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("def reward(a):\n    return (\n", 2, "'(' was never closed"),
        ("import re\nimport nltk\ndef reward(): ...\n", 2, "nltk"),
        ("def reward():\n    from nltk.corpus import words\n", 2, "nltk"),
        ("from . import helper\ndef reward(): ...\n", 1, "in no package"),
        ("import helper.inner\ndef reward(): ...\n", 1, "no such file"),
        ("import __future__\nimport json\ndef reward(): ...\n", 2, "standard library"),
        ("import torch\ndef reward(): ...\n", 1, "installed package"),
        ("def outer():\n    def reward(): ...\n", 2, "inside of 'outer'"),
        ("class Outer:\n    def reward(self): ...\n", 2, "inside of 'Outer'"),
        ("def rewards(): ...\n", 1, "did you mean 'rewards'?"),
        ("x = 'a\0b'\ndef reward(): ...\n", 1, "null bytes"),
    ],
)
def test_what_cannot_be_bundled_is_refused_with_its_line(tmp_path: Path, source: str, line: int, words: str) -> None:
    folder = write(tmp_path, {"rew.py": source, "helper.py": "", "json.py": "", "torch.py": ""})
    error = refusal(folder, "rew.py:reward")
    assert error.where == f"{folder / 'rew.py'}:{line}"
    assert words in f"{error.expected} {error.found} {error.action}"


def test_an_error_in_an_imported_file_names_that_file(tmp_path: Path) -> None:
    folder = write(tmp_path, {"rew.py": "import helper\ndef reward(): ...\n", "helper.py": "\n\nimport nltk\n"})
    assert refusal(folder, "rew.py:reward").where == f"{folder / 'helper.py'}:3"


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import nltk\nexcept ImportError:\n    import nltk_small as nltk\n",
        "try:\n    import nltk\nexcept (ValueError, ModuleNotFoundError):\n    nltk = None\n",
        "import contextlib\nwith contextlib.suppress(ImportError):\n    import nltk\n",
    ],
)
def test_an_import_that_may_fail_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    bundled(write(tmp_path, {"rew.py": f"{source}\ndef reward(): ...\n"}), tmp_path / "out", "rew.py:reward")
    assert re.search(r"rew.py:\d+: `import nltk` will fail", capsys.readouterr().err)


def test_an_import_for_type_checkers_does_not_count(tmp_path: Path) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nltk\nelse:\n    import helper\n\nclass R: ...\n"
    folder = write(tmp_path, {"rew.py": source, "helper.py": ""})
    assert bundled(folder, tmp_path / "out", "rew.py:R")[1] == {"rew.py", "helper.py"}


@pytest.mark.parametrize(
    "source",
    [
        "from helper import *\n",
        "from helper import reward\n",
        "import helper\nif helper:\n    reward = helper.reward\n",
        "try:\n    reward, other = 1, 2\nexcept ImportError:\n    pass\n",
        "@print\nasync def reward(): ...\n",
    ],
)
def test_a_name_may_come_to_a_file_in_any_way(tmp_path: Path, source: str) -> None:
    folder = write(tmp_path, {"rew.py": source, "helper.py": "def reward(): ...\n"})
    bundled(folder, tmp_path / "out", "rew.py:reward")


def test_files_that_are_no_plain_source_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"rew.py": "import big\ndef reward(): ...\n", "big.py": "#" * (LARGE + 1)})
    error = refusal(folder, "rew.py:reward")
    assert error.found == "1,048,577 bytes" and "large=True" in error.action
    bundled(folder, tmp_path / "out", "rew.py:reward", large=True)
    (folder / "big.py").write_bytes(b"a = 1\nb = '\xe4'\n")
    assert refusal(folder, "rew.py:reward").where == f"{folder / 'big.py'}:2"
    (folder / "big.py").write_bytes(b"# coding: latin-1\n")
    assert "iso-8859-1" in refusal(folder, "rew.py:reward").found
    (folder / "big.py").unlink()
    (folder / "big.py").symlink_to(write(tmp_path, {"outside.py": ""}) / "outside.py")
    assert "a link to" in refusal(folder, "rew.py:reward").found
    (folder / "big.py").unlink()
    (folder / "big.py").symlink_to(write(folder, {"inside.py": ""}) / "inside.py")
    assert bundled(folder, tmp_path / "linked", "rew.py:reward")[1] == {"rew.py", "big.py"}


@pytest.mark.parametrize("entry", ["rew.py", "rew.py:", "rew:reward", "rew.py:a.b", "rew.py:class", "rew.txt:x"])
def test_an_entry_is_a_file_and_a_name(tmp_path: Path, entry: str) -> None:
    assert refusal(write(tmp_path, {"rew.py": ""}), entry).expected == "FILE.py:NAME"


def test_an_entry_that_python_cannot_import_is_refused(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine", {"my-rew.py": "", "json.py": "x = 1\n", "rew.py": "x = 1\n", "rew/__init__.py": ""}
    )
    assert "import by its name" in refusal(folder, "my-rew.py:x").expected
    assert "standard library" in refusal(folder, "json.py:x").found
    assert str(folder / "rew/__init__.py") in refusal(folder, "rew.py:x").found
    assert "json.py, my-rew.py, rew.py" in refusal(folder, "ref.py:x").action
    far = write(tmp_path / "far/away", {"x.py": "x = 1\n"})
    assert "side by side" in refusal(tmp_path, "mine/json.py:x", str(far.relative_to(tmp_path) / "x.py:x")).expected


def test_data_files_come_only_by_name_and_from_the_same_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"rew.py": "def reward(): ...\n", "lists/words.txt": "a\n"})
    assert bundled(folder, tmp_path / "without", "rew.py:reward")[1] == {"rew.py"}
    with_words = bundled(folder, tmp_path / "with", "rew.py:reward", data=[folder / "lists/words.txt"])[1]
    assert with_words == {"rew.py", "lists/words.txt"}
    outside = write(tmp_path, {"other.txt": ""}) / "other.txt"
    assert "a file elsewhere" in refusal(folder, "rew.py:reward", data=[outside]).found


def tiny_wheel(folder: Path, name: str = "tinywords", module: str = "tiny_words") -> str:
    """Write a wheel into `folder` and return its line in a lock."""
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/__init__.py", "WORDS = ()\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses in place of an index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def test_a_lock_brings_its_wheels_and_their_modules(tmp_path: Path, index: Path) -> None:
    line = tiny_wheel(index)
    folder = write(tmp_path / "mine", {"rew.py": "import tiny_words\ndef reward(): ...\n"})
    assert "--requirements" in refusal(folder, "rew.py:reward").action
    pin, digest = line.split()
    lock = write(tmp_path, {"lock.txt": f"# a lock\n{pin} \\\n    {digest}  # one file\n\n"}) / "lock.txt"
    bundled(folder, tmp_path / "out", "rew.py:reward", requirements=lock)
    about = json.loads((tmp_path / "out/code.json").read_text())
    assert about["requirements"] == [line]
    (wheel,) = (tmp_path / "out/wheels").iterdir()
    assert about["wheels"] == {wheel.name: digest.rpartition(":")[2]}
    bundled(folder, tmp_path / "again", "rew.py:reward", requirements=lock)
    assert manifest_of(tmp_path / "out", "Code") == manifest_of(tmp_path / "again", "Code")


@pytest.mark.parametrize("line", ["tinywords", "tinywords==1.0", "-e .", "--index-url http://x", "a @ file:///a.whl"])
def test_a_lock_without_versions_and_hashes_is_refused(tmp_path: Path, line: str) -> None:
    lock = write(tmp_path, {"lock.txt": f"# one\n{line}\n"}) / "lock.txt"
    with pytest.raises(ConfigError) as caught:
        wheels.read_lock(lock)
    assert (caught.value.where, caught.value.found) == (f"{lock}:2", repr(line))


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, index: Path) -> None:
    line = tiny_wheel(index)
    lock = write(tmp_path, {"lock.txt": line[:-4] + "0000\n", "rew.py": "def reward(): ...\n"}) / "lock.txt"
    error = refusal(tmp_path, "rew.py:reward", requirements=lock)
    assert error.where == str(lock) and "HASHES" in error.found


def test_the_images_contain_what_bundles_may_import() -> None:
    locked = (ROOT / "images/cpu/requirements.lock").read_text().lower().replace("_", "-")
    other = {"yaml": "pyyaml", "mlflow": "mlflow-skinny"}
    missing = [
        name
        for name in sorted(IMAGES - {"instar", "torch"})
        if f"\n{other.get(name, name.replace('_', '-'))}==" not in locked
    ]
    assert missing == []


def load(folder: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


SOURCE = """
import functools

def plain(answer): ...

class Kept:
    def method(self): ...

small = lambda answer: 1.0

def outer(scale):
    def inner(answer):
        return scale
    return inner

made = outer(2.0)

def wrapped(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)
    return inner

@wrapped
def decorated(answer): ...
"""


def test_the_entry_of_an_object_is_its_file_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "objects_of_a_user", types.ModuleType("placeholder"))
    module = load(write(tmp_path, {"objects_of_a_user.py": SOURCE}), "objects_of_a_user")
    for name in ("plain", "Kept", "decorated"):
        assert entry_of(getattr(module, name)) == f"{tmp_path / 'objects_of_a_user.py'}:{name}"
    refused = {
        "a lambda": module.small,
        "a closure": module.made,
        "inside of a class": module.Kept.method,
        "a partial": functools.partial(module.plain, 1),
        "a method": module.Kept().method,
        "a builtin_function_or_method": len,
    }
    for words, value in refused.items():
        with pytest.raises(ConfigError) as caught:
            entry_of(value)
        assert words in caught.value.found


def test_a_function_of_a_notebook_is_to_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")  # what a notebook has: no file
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(compile("def reward(answer): ...\nclass Kept: ...\n", "<ipython-input-3-2f1>", "exec"), main.__dict__)
    for value in (main.reward, main.Kept):
        with pytest.raises(ConfigError) as caught:
            entry_of(value)
        assert "notebook" in caught.value.found and "save it to a file" in caught.value.action


RUNS = "from instar import evolve as go\n\ndef reward(answer): ...\n\n"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (RUNS + "outcome = go(1)\n", 5),
        (RUNS + "import instar\nif True:\n    print(instar.recipes.build('sec'))\n", 7),
        (RUNS + "def main():\n    go(1)\n\nif __name__ == '__main__':\n    main()\n    go(2)\n", 0),
        (RUNS + "print(reward(1))\n", 0),
    ],
)
def test_a_script_that_starts_the_run_is_no_file_for_a_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, line: int
) -> None:
    """The sandbox imports the file of a function. A script would start its run there once more."""
    path = write(tmp_path, {"train.py": source}) / "train.py"
    main = types.ModuleType("__main__")
    main.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(compile("\n\ndef reward(answer): ...\n", str(path), "exec"), main.__dict__)
    if not line:
        assert entry_of(main.reward) == f"{path}:reward"
        return
    with pytest.raises(ConfigError) as caught:
        entry_of(main.reward)
    assert caught.value.where == f"{path}:{line}" and "if __name__" in caught.value.action
