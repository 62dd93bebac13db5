"""Broken and hostile policy folders, templates and answers: a named error or a good reading, and nothing changed. Ten seconds.

`INSTAR_FUZZ_EXAMPLES` (60 by default) sets how many random ones are tried.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.artifact import Policy
from instar.components.chat_template import Template, frame
from instar.components.dataset_prep.config import Checkpoint
from instar.components.dataset_prep.text import _checkpoint
from instar.components.policy_io import load_model
from instar.components.reward.extract import STYLES
from instar.components.reward.verifiers import VERIFIERS, Abstain, Failed, Score, verify
from instar.components.tokenizer import TextTokenizer
from instar.contract import Context
from instar.errors import InstarError
from instar.rows import TaskRow
from support import hostile

EXAMPLES = int(os.environ.get("INSTAR_FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MOST_CPU_S = 20.0
"""Far above what any of them takes; work that grows with a number in a file would take hours."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.whole(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def good_continuous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.control(tmp_path_factory.mktemp("good-control"))


def load(folder: Path) -> object:
    return load_model(Policy(folder), Context(evolution="e", step=0, stage="s", scratch=folder))


def encode(folder: Path) -> object:
    tokenizer = TextTokenizer(folder)
    return tokenizer.encode_prompt("1+2=", "text"), tokenizer.encode_prompt("1+2=", "chat")


def copy(folder: Path) -> object:
    """Take a folder as `--model` does."""
    out = folder.parent / "copied"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return _checkpoint(Checkpoint(path=str(folder)), out)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def outcome(read: Callable[[Path], object], folder: Path) -> InstarError | None:
    """Return the named error of a reading; anything else that is raised fails the test, and so does a changed file."""
    before, start = contents(folder), time.process_time()
    try:
        read(folder)
        found = None
    except InstarError as error:
        found = error
        assert all((error.expected, error.found, error.where, error.action)) and error.exit_code in (10, 11, 12)
    assert contents(folder) == before and time.process_time() - start < MOST_CPU_S
    return found


def faulty(good: Path, name: str, fault: hostile.Fault, tmp_path: Path) -> Path:
    folder = tmp_path / name.partition("/")[0]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    fault(folder)
    return folder


OF_THE_MODEL = sorted(name for name in hostile.FAULTS if name.startswith(("weights/", "config/")))
OF_THE_TOKENIZER = sorted(set(hostile.FAULTS) - set(OF_THE_MODEL))
IGNORED = {"config/quantised", "tokenizer/two of one id", "tokenizer/added far away", "tokenizer/map a list"}
"""Faults that no reading of the model, or of the tokenizer, minds: an unknown method of quantisation is none."""


def test_the_whole_folders_are_read(good: Path, good_continuous: Path) -> None:
    assert outcome(load, good) is outcome(encode, good) is outcome(copy, good) is outcome(load, good_continuous) is None


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_a_model_that_is_broken_is_refused_by_name(name: str, good: Path, tmp_path: Path) -> None:
    folder = faulty(good, name, hostile.FAULTS[name], tmp_path)
    error = outcome(load, folder)
    assert (error is None) == (name in IGNORED)
    assert error is None or str(folder) in error.where or name == "config/deep 800"
    assert not Path("/tmp/instar-was-here").exists()


@pytest.mark.parametrize("name", OF_THE_TOKENIZER)
def test_a_tokenizer_that_is_broken_is_refused_by_name(name: str, good: Path, tmp_path: Path) -> None:
    error = outcome(encode, faulty(good, name, hostile.FAULTS[name], tmp_path))
    assert (error is None) == (name in IGNORED or name in UNREAD)


UNREAD = {"tokenizer/class unknown", "tokenizer/class a list", "tokenizer/custom code", "tokenizer/no unknown word"}
"""Fields that instar's own reading does not look at; a word that is not there is only missed by a text that needs it."""


@pytest.mark.parametrize("name", sorted(hostile.CONTROL_FAULTS))
def test_a_control_policy_that_is_broken_is_refused_by_name(name: str, good_continuous: Path, tmp_path: Path) -> None:
    assert outcome(load, faulty(good_continuous, name, hostile.CONTROL_FAULTS[name], tmp_path)) is not None


TAKEN = ["weights/cut", "weights/tensor missing", "config/3 layers", "config/10^7 layers", "config/custom code"]


@pytest.mark.parametrize("name", [*TAKEN, "generation/list", "tokenizer/no model", "tokenizer/map a list"])
def test_a_broken_folder_is_no_model_to_start_from(name: str, good: Path, tmp_path: Path) -> None:
    """`--model`: what is missing is not drawn at random, and no code of the folder runs."""
    assert outcome(copy, faulty(good, name, hostile.FAULTS[name], tmp_path)) is not None
    assert not Path("/tmp/instar-was-here").exists()


@pytest.mark.slow
@pytest.mark.parametrize("read", [load, encode, copy])
@pytest.mark.parametrize("name", sorted(hostile.FAULTS))
def test_every_fault_at_every_door(name: str, read: Callable[[Path], object], good: Path, tmp_path: Path) -> None:
    outcome(read, faulty(good, name, hostile.FAULTS[name], tmp_path))


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    1 << 31,
    1 << 62,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "../x",
    "\udcff",
    [],
    [[]],
    {},
    {"a": 1},
]
JSONS = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")


@st.composite
def changes(draw: st.DrawFn) -> Callable[[Any], Any]:
    """Draw a change of one field of a JSON value, however deep it lies."""
    picks, value = draw(st.lists(st.integers(0, 99), min_size=1, max_size=4)), draw(st.sampled_from(VALUES))
    gone = draw(st.booleans())

    def change(record: Any) -> Any:
        inner, last = record, None
        for depth, pick in enumerate(picks, 1):
            keys: list[Any] = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
            last = keys[pick % len(keys)]
            if depth == len(picks) or not (isinstance(inner[last], dict | list) and inner[last]):
                break
            inner = inner[last]
        if gone:
            del inner[last]
        else:
            inner[last] = value
        return record

    return change


@given(name=st.sampled_from(JSONS), change=changes())
@FUZZ
@pytest.mark.fuzz
def test_any_changed_field_is_read_or_refused(
    name: str, change: Callable[[Any], Any], good: Path, tmp_path: Path
) -> None:
    def fault(folder: Path) -> None:
        if name == "model.safetensors":
            return hostile.header(change)(folder)
        file = folder / name
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
        return None

    folder = faulty(good, name, fault, tmp_path)
    for read in (encode,) if name.startswith("token") else (load,) if "model" in name else (load, encode):
        outcome(read, folder)


@given(
    name=st.sampled_from([*JSONS, "chat_template.jinja"]),
    place=st.integers(0, 1 << 16),
    data=st.binary(max_size=8),
    cut=st.booleans(),
)
@FUZZ
@pytest.mark.fuzz
def test_any_damaged_byte_is_read_or_refused(
    name: str, place: int, data: bytes, cut: bool, good: Path, tmp_path: Path
) -> None:
    def fault(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        at = place % len(whole)
        (folder / name).write_bytes(whole[:at] + data + (b"" if cut else whole[at + len(data) :]))

    folder = faulty(good, name, fault, tmp_path)
    outcome(load if name in ("config.json", "model.safetensors") else encode, folder)


@given(length=st.integers(0, (1 << 64) - 1))
@FUZZ
@pytest.mark.fuzz
def test_any_length_of_a_header_is_read_or_refused(length: int, good: Path, tmp_path: Path) -> None:
    folder = faulty(good, "length", hostile.weights(lambda data: struct.pack("<Q", length) + data[8:]), tmp_path)
    assert outcome(load, folder) is not None


PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    " for ",
    "m in messages",
    "if",
    "endif",
    "endfor",
    "macro f(x)",
    "endmacro",
    "set a =",
    "messages[0].content",
    "| upper",
    "| tojson",
    "range(10**6)",
    "'x' * 10**9",
    "**",
    "9",
    "(",
    ")",
    "[",
    "]",
    "'",
    "self",
    ".__class__",
    "namespace()",
    "include 'x'",
    "import 'x' as y",
    "extends",
    "raise_exception('x')",
    "break",
    "f(1)",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans())
@FUZZ
@pytest.mark.fuzz
def test_any_template_gives_a_frame_or_a_named_error(pieces: list[str], shown: bool) -> None:
    source = " ".join(pieces) + ("{{ messages[0].content }}" if shown else "")
    try:
        frame(Template(source=source, where="here"))
    except InstarError as error:
        assert error.exit_code == 12 and all((error.expected, error.found, error.where, error.action))


SIGNS = "0123456789+-*/().,{}\\boxed<answer> \n\u2013\u2212\u22c5\u2217\u2215\uff11\u0663\u00b2%$"
ANSWERS = st.text(st.sampled_from(SIGNS), max_size=40) | st.text(max_size=60)
SOUND: dict[str, dict[str, Any]] = {
    "exact": {"answer": "5"},
    "label": {"answer": "A", "labels": ["A", "B"]},
    "zebra": {"answer": "Ada"},
    "arc1d": {"answer": "0 1 2"},
    "number": {"answer": "\u22125."},
    "countdown": {"numbers": [1, 2], "target": 3},
}
BROKEN: list[Any] = [{"answer": 5}, {}, [], None, "x", {"numbers": [0, 0], "target": 10**30}, {"answer": "1e400"}]


@given(ANSWERS, st.sampled_from(sorted(VERIFIERS)), st.none() | st.sampled_from(BROKEN))
@settings(FUZZ, max_examples=5 * EXAMPLES)
@pytest.mark.fuzz
def test_any_answer_has_a_verdict(text: str, verifier: str, broken: Any) -> None:
    reference = SOUND[verifier] if broken is None else broken
    task = TaskRow(
        task_id="t",
        arm="a",
        domain="d",
        level=1.0,
        split="train",
        prompt="p",
        verifier=verifier,
        reference=json.dumps(reference),
        features="{}",
        content_hash="0" * 64,
        generator="g",
        seed=0,
    )
    for style in STYLES:
        verdict = verify(task, text, style)
        assert isinstance(verdict, Score | Abstain | Failed)
        assert isinstance(verdict, Score) or broken is not None
