"""Bad input from outside: every way in ends in a named error with its documented exit code, and leaves the disk as it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar import plain, terminal
from instar.errors import ConfigError, InstarError, LedgerError, StorageError
from instar.store import open_store
from support import borders
from support.borders import called, forge, ledger_commands
from support.faulty_s3 import Service, open_service, serving
from support.micro import micro
from support.written import write_evolution

NIGHTLY = "INSTAR_FUZZ_EXAMPLES" in os.environ
"""Minutes instead of seconds."""
SCALE = 40 if NIGHTLY else 1
pytestmark = pytest.mark.fuzz
FIXED = {"deadline": None, "derandomize": not NIGHTLY, "suppress_health_check": list(HealthCheck), "database": None}


def fuzzed(examples: int) -> Any:
    return settings(max_examples=examples * SCALE, **FIXED)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evolution, written by hand. Whatever was tried before, the good command works on it afterwards."""
    return write_evolution(tmp_path_factory.mktemp("borders") / "whole", iterations=1).path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evolution that was really run, so that it can be resumed and compared."""
    folder = tmp_path_factory.mktemp("borders") / "trained"
    borders.made(folder, micro(iterations=1, inner_steps=1))
    return folder


def content(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and "cache" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# --- settings


def test_no_setting_ends_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in borders.settings(60 * SCALE):
        found = called("explain", name, "--set", text)
        assert not found.raw, (text[:200], found.raw)
        assert found.code in (0, ConfigError.exit_code), text[:200]
    assert list(tmp_path.iterdir()) == []
    assert called("explain", "sec").code == 0


KEYS = st.sampled_from(["curriculum", "gate.strategy", "update.lr", "iterations", "rollout.stop", "test", "", "a.b"])
TOML = st.recursive(
    st.sampled_from(
        ["1", "1e999", "nan", "'x'", '"\\u0000"', "1979-05-27", "true", "0x" + "f" * 5000, "9" * 4400, "#"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"k{i} = {v}" for i, v in enumerate(items)) + "}"
        ),
    ),
    max_leaves=6,
)


@fuzzed(25)
@given(KEYS, st.one_of(TOML, st.text(max_size=20), st.tuples(TOML, st.text(max_size=6)).map("".join)))
def test_any_text_of_a_setting(key: str, text: str) -> None:
    found = called("explain", "sec", "--set", f"{key}={text}")
    assert not found.raw and found.code in (0, ConfigError.exit_code), found.raw


@fuzzed(25)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(str.encode),
        st.tuples(KEYS, TOML).map(lambda p: f"{p[0]} = {p[1]}\n".encode()),
    )
)
def test_any_file_of_differences(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "changes.toml"
    file.write_bytes(data)
    found = called("explain", "sec", "--config", str(file))
    assert not found.raw and found.code in (0, ConfigError.exit_code), found.raw
    assert file.read_bytes() == data


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("gate.strategy=best", "'strategy'"),
        ("curriculum=[1]", "[1]"),
        ("curriculum.strategy=[1]", "[1]"),
        ("update=" + "[" * 5000 + "]" * 5000, "more"),
        ("update.lr=" + "9" * 5000, "digits"),
        ("update.lr=0x" + "f" * 9000, "an integer of 36,000 bits"),
        ("update.lr=1e-4\nupdate.clip_low=0.1", "only the beginning would count"),
        ("update.lr=1e-4 # half of it", "only the beginning would count"),
        ("rollout.stop=1979-05-27", "the date or time 1979-05-27"),
        ("x" + ".x" * 20_000 + "=1", "20,001 parts"),
    ],
    ids=lambda value: value[:30],
)
def test_a_setting_is_refused_by_name(setting: str, found: str) -> None:
    ended = called("explain", "sec", "--set", setting)
    assert ended.code == ConfigError.exit_code and not ended.raw
    assert found in ended.err and len(ended.err) < 3000


def test_a_dotted_key_of_40_kb_costs_nothing(tmp_path: Path) -> None:
    """tomllib needs 30 s for it; the limit of the whole test is what fails then."""
    file = tmp_path / "changes.toml"
    for text in ("a" + ".a" * 20_000 + " = 1", "[" + "a." * 20_000 + "a]", '"a"' + '."a"' * 20_000 + " = 1"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="at most 32 levels"):
            plain.toml(file.read_text(), str(file))
    with pytest.raises(ConfigError):
        plain.toml('"' + '\\"' * 100_000, "unterminated")


def test_long_lists_and_strings_with_marks_are_no_nesting() -> None:
    assert plain.toml(f"x = [{'0.5, ' * 5000}]\ny = '{'[.' * 100}' # {'{' * 99}", "f")["x"] == [0.5] * 5000
    assert plain.toml_value('"a # b"', "f") == "a # b" and plain.toml_value("a#b", "f") == "a#b"


JSON = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 100_000, b'{"a":' * 2000 + b"1" + b"}" * 2000]
    ),
)


@fuzzed(25)
@given(JSON)
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        plain.loads(data)


# --- paths and URIs

URIS = (
    "s3://[",
    "file:///%00",
    "file://[",
    "file://",
    "ftp://x",
    "://",
    "a\0b",
    "",
    "s3://b/..",
    "s3://B%/x",
    "x" * 300,
)


@pytest.mark.parametrize("uri", URIS, ids=repr)
def test_a_store_that_is_none(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INSTAR_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with pytest.raises((ConfigError, StorageError)):
        open_store(uri).read("a")


@fuzzed(100)
@given(st.text(max_size=20), st.sampled_from(["", "s3://", "file://", "file:///", "http://["]))
def test_any_store_uri(text: str, scheme: str) -> None:
    with contextlib.suppress(InstarError):
        open_store(scheme + text)


LONG = "x" * 300
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("evaluate", LONG, "--against", "y"),
    ("evaluate", "y", "--against", LONG),
    ("show", LONG),
    ("resume", LONG),
    ("diff", LONG, "y"),
    ("report", LONG),
    ("promote", LONG),
    ("status", LONG),
    ("stop", LONG),
    ("show", "a\0b"),
    ("explain", "sec", "--config", LONG),
    ("explain", "sec", "--config", "/"),
    ("run", "sec", "--out", LONG),
    ("run", "sec", "--out", "/dev/null/x"),
    ("run", "sec", "--store", "s3://["),
    ("evaluate", "x", "--against", "y", "--markdown", "missing/page.md"),
    ("evaluate", "x", "--against", "y", "--markdown", "."),
    ("stage", "curriculum", "--store", "s", "--result", "missing/done.json"),
    ("stage", "curriculum", "--store", "s", "--outputs", "/dev/null/x"),
    ("control", "open", "--outputs", "/dev/null/x"),
    ("stage", "curriculum", "--store", "s3://["),
    ("control", "open", "--store", "s3://["),
    ("stage", "curriculum", "--executor-input", "[" * 100_000),
    ("supervise",),
    ("supervise", "--retries", "x", "--", "true"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: " ".join(words)[:50])
def test_a_path_that_is_none(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = called(*arguments)
    assert found.code and not found.raw, found.raw
    assert list(tmp_path.iterdir()) == []


def test_where_a_page_goes_is_asked_before_the_evaluation(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instar.pipelines import evaluation

    monkeypatch.setattr(evaluation, "compare_policies", lambda *_: pytest.fail("it began"))
    found = called("evaluate", str(whole), "--against", str(whole), "--markdown", "missing/page.md")
    assert found.code == StorageError.exit_code and "--markdown" in found.err


# --- ledgers


def tried(whole: Path, forged: Path, seed: int, names: tuple[str, ...]) -> None:
    shutil.copytree(whole, forged, copy_function=os.link)  # what is forged is replaced, not written to
    done, before = forge(forged, seed), content(whole)
    for command in ledger_commands(forged, whole):
        if command[0] in names:
            found = called(*command)
            assert not found.raw, (done, command, found.raw)
            assert "\x1b" not in found.out + found.err, done
    assert content(whole) == before
    shutil.rmtree(forged)


def test_no_forged_ledger_ends_raw(whole: Path, tmp_path: Path) -> None:
    for seed in range(30 * SCALE):
        tried(whole, tmp_path / "forged", seed, ("show", "diff"))
    assert called("show", str(whole)).code == 0 and called("diff", str(whole), str(whole)).code == 0


@pytest.mark.slow
def test_no_forged_ledger_ends_raw_in_any_command(trained: Path, tmp_path: Path) -> None:
    for seed in range(72):
        tried(trained, tmp_path / "forged", seed, ("show", "diff", "report", "resume", "evaluate", "promote"))
    assert called("resume", str(trained), "--tracking", "off").code == 0


def test_a_changed_time_is_noticed(whole: Path, tmp_path: Path) -> None:
    """It lies outside of the digest that makes the head, and decides what a report says of cost."""
    shutil.copytree(whole, tmp_path / "run")
    path = next((tmp_path / "run" / "store" / "evolutions").glob("*/ledger/00000001.json"))
    data = path.read_text()
    path.chmod(0o644)
    path.write_text(data.replace('"perf/wall_s":', '"perf/wall_s":9'))
    assert path.read_text() != data
    found = called("show", str(tmp_path / "run"))
    assert found.code == LedgerError.exit_code and "00000001.json:time" in found.err


def test_an_entry_of_before_there_were_seals_is_read(whole: Path, tmp_path: Path) -> None:
    import json

    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run" / "store" / "evolutions").glob("*/ledger/*.json"):
        fields = json.loads(path.read_text())
        del fields["seal"]
        path.unlink()
        path.write_text(json.dumps(fields))
    assert called("show", str(tmp_path / "run")).code == 0


# --- answers of an object store


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as state:
        yield state


@pytest.mark.parametrize("call", sorted(borders.CALLS))
def test_no_answer_of_an_object_store_ends_raw(call: str, service: Service, tmp_path: Path) -> None:
    store = open_service(service.port, borders.HASTY)
    for answer in borders.ANSWERS:
        assert borders.asked(service, store, call, answer, tmp_path) == "", answer
    assert store.read("old") == b"old"


# --- what is printed


@fuzzed(100)
@given(st.text(max_size=30))
def test_nothing_that_is_printed_commands_a_terminal(text: str) -> None:
    shown = terminal.printable(text + "\x1b[2J\x9b\u202e\ud800")
    assert not terminal.HIDDEN.search(shown)
    assert terminal.printable(shown) == shown


def test_names_of_an_untrusted_ledger_are_shown_as_escapes(whole: Path, tmp_path: Path) -> None:
    import json

    shutil.copytree(whole, tmp_path / "run")
    paths = sorted((tmp_path / "run" / "store" / "evolutions").glob("*/ledger/*.json"))
    entries = [json.loads(path.read_text()) for path in paths]
    for raw in entries:
        if raw["kind"] == "gate":
            raw["body"]["decision"]["reason"] = "\x1b[2J\x1b]0;owned\x07 \u202e"
        if raw["kind"] == "stage":
            raw["body"]["metrics"]["\x1b[31mred"] = 1.0
    borders.rechain(paths, entries)
    found = called("show", str(tmp_path / "run"))
    assert found.code == 0 and "\\x1b[2J\\x1b]0;owned\\x07 \\u202e" in found.out and "\\x1b[31mred" in found.out
    assert not terminal.HIDDEN.search(found.out)


def test_every_line_is_printed_through_the_terminal() -> None:
    """The one function through which everything is printed; the display of progress escapes what it shows itself.

    `lifeline` is a program of its own, which knows nothing of instar, and says why a command could not be started.
    """
    root = Path(terminal.__file__).parent
    files = [p for folder in (root, root / "components", root / "pipelines") for p in folder.rglob("*.py")]
    found = {p.name for p in files if "sys.stdout.write" in p.read_text() or "sys.stderr.write" in p.read_text()}
    assert found == {"terminal.py", "lifeline.py"}


def instar(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "instar", *arguments], stderr=subprocess.PIPE, check=False, **options)


def test_a_full_and_a_closed_standard_output_are_named(whole: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = instar("show", str(whole), stdout=full)
    assert ended.returncode == StorageError.exit_code
    assert b"ENOSPC" in ended.stderr and b"where:    standard output" in ended.stderr
    ended = instar("show", str(whole), preexec_fn=lambda: os.close(1))
    assert ended.returncode == StorageError.exit_code and b"EBADF" in ended.stderr
    assert b"Traceback" not in ended.stderr and b"Exception ignored" not in ended.stderr


def test_a_reader_that_left_is_no_error(whole: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = instar("show", str(whole), stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_what_an_encoding_lacks_is_an_escape(whole: Path, tmp_path: Path) -> None:
    import json

    shutil.copytree(whole, tmp_path / "run")
    paths = sorted((tmp_path / "run" / "store" / "evolutions").glob("*/ledger/*.json"))
    entries = [json.loads(path.read_text()) for path in paths]
    for raw in entries:
        if raw["kind"] == "stage":
            raw["body"]["metrics"]["größe/ü"] = 1.0
    borders.rechain(paths, entries)
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = instar("show", str(tmp_path / "run"), stdout=subprocess.PIPE, env=env)
    assert ended.returncode == 0 and b"gr\\xf6\\xdfe/\\xfc" in ended.stdout


# --- what nobody foresaw


def test_a_fault_of_instar_keeps_its_traceback_and_says_where_to_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from instar.cli import show

    def broken(*_: object) -> None:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(show, "show", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = called("show", "x")
    kept = next(tmp_path.glob("instar-*.traceback"))
    assert found.code == 70 and "InternalError" in found.err and str(kept) in found.err and "/issues" in found.err
    assert "Traceback" not in found.err and "KeyError: 'nobody foresaw this'" in kept.read_text()
    monkeypatch.setenv("INSTAR_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in called("show", "x").err
    assert "exit code 70" in found.raw, "the counts of this file take it for raw"


def test_supervise_hands_on_codes_that_the_errors_page_lists() -> None:
    page = (Path(__file__).parents[2] / "docs/errors.md").read_text()
    ends = {("/nope",): 127, ("/",): 126, ("sh", "-c", "kill -9 $$"): 137, ("sh", "-c", "exit 42"): 42}
    for command, code in ends.items():
        ended = instar("supervise", "--retries", "0", "--", *command)
        assert ended.returncode == code and b"  do:" in ended.stderr
    for row in ("| 126 |", "| 127 |", "| 128 + n |", "| 130 |", "| 141 |", "hands on the exit code"):
        assert row in page
