"""An exported policy is an ordinary Hugging Face folder: a process without instar loads it, and its card is true."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from instar import config as configs
from instar.cli.commands import evolve_in
from instar.cli.export import export
from instar.cli.resolve import resolve
from instar.errors import ConfigError, LedgerError
from instar.manifest import manifest_of
from instar.status import policies, status
from instar.workspace import create_workspace, open_workspace
from support.micro import micro
from support.micro_continuous import micro_continuous

if TYPE_CHECKING:
    from tests.seaweed import Seaweed

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer("21=", return_tensors="pt").input_ids
assert model(ids).logits.isfinite().all()
assert not any(name.startswith("instar") for name in sys.modules)
print(sum(float(p.double().sum()) for p in model.parameters()))
"""
PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/base"), sys.argv[1])
print(sum(float(p.double().sum()) for p in model.merge_and_unload().parameters()))
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("text")
    evolve_in(micro(), directory, tracking="off")
    return directory


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lora")
    evolve_in(configs.merge(micro(iterations=1), {"update": {"lora": {"r": 2}}}), directory, tracking="off")
    return directory


def plain(code: str, folder: Path) -> float:
    """Return what `code` prints about `folder`, in a process that is not instar's and reaches no network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_every_policy_of_a_run_can_be_exported_and_loaded(text: Path, tmp_path: Path) -> None:
    workspace = open_workspace(text)
    known, summary = policies(workspace.ledger.entries), status(workspace)
    names = {"champion": summary["champion"], "last": known[2], "0": known[0], "1": known[1]}
    sums = {}
    for name, digest in names.items():
        folder = tmp_path / name
        export(str(text), folder, name, False, None)
        card = (folder / "README.md").read_text()
        assert digest in card
        (folder / "README.md").unlink()
        assert manifest_of(folder, "Policy").digest == digest, "the files are the stored ones"
        sums[name] = plain(LOAD, folder)
    assert sums["champion"] == sums["0"] != sums["1"] != sums["last"]
    weights = tmp_path / "last" / "model.safetensors"
    weights.write_bytes(b"mine now")
    workspace.cas.verify(names["last"])


def test_the_card_says_what_the_ledger_says(text: Path, tmp_path: Path) -> None:
    export(str(text), tmp_path / "out", "2", False, None)
    card = (tmp_path / "out" / "README.md").read_text()
    workspace = open_workspace(text)
    gates = list(workspace.ledger.of("gate"))
    tested = [e for e in workspace.ledger.of("stage") if e.body["stage"] == "evaluate" and e.body["iteration"] == 2]
    score = tested[0].body["metrics"]["val/accuracy"]
    for line in (
        f"| val | accuracy | {score:.3f} | [",
        "| sorting | train | 120 |",
        f"| 2 (this policy) | {gates[2].body['decision']['action']} | ",
        f"Head of the ledger: `{workspace.ledger.head}`",
        "none, because the run made its own model",
        '"style": "line"',
        f"instar export {text} -o {tmp_path}/out --policy 2",
    ):
        assert line in card


def test_the_command_on_the_card_makes_the_same_recipe() -> None:
    from instar.pipelines.export.command import run_command

    sets = ["update.lr=1e-3", "iterations=5", "curriculum.strategy=thompson", 'rollout.stop=["\\n"]', "update.lora.r=4"]
    for name, wanted in (("sec", sets), ("decision_mamba", ["update.lr=0.01"]), ("spark", [])):
        recipe = resolve(name, "tiny", None, None, wanted)
        (line,) = run_command(configs.to_dict(recipe), 7)
        words = shlex.split(line)
        assert words[:7] == ["instar", "run", name, "--scale", "tiny", "--seed", "7"]
        assert resolve(name, "tiny", None, None, words[8::2]) == recipe
    *_, note = run_command(configs.to_dict(micro()), 0)
    assert note.startswith("# with settings of its own")


@pytest.mark.slow  # every policy of a run is exported and loaded above; tests/unit/update/test_lora.py merges adapters
def test_an_adapter_is_exported_alone_or_merged(adapted: Path, tmp_path: Path) -> None:
    export(str(adapted), tmp_path / "adapter", "last", False, None)
    export(str(adapted), tmp_path / "merged", "last", True, None)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert not (tmp_path / "merged" / "adapter").exists()
    assert "from peft import PeftModel" in (tmp_path / "adapter" / "README.md").read_text()
    assert plain(PEFT, tmp_path / "adapter") == pytest.approx(plain(LOAD, tmp_path / "merged"), abs=1e-4)
    with pytest.raises(ConfigError, match=r"expected a policy with an adapter.*iteration 0"):
        export(str(adapted), tmp_path / "base", "0", True, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "merged"]


def test_a_policy_for_continuous_control_says_how_to_load_it(tmp_path: Path) -> None:
    evolve_in(micro_continuous(iterations=1), tmp_path / "run", tracking="off")
    export(str(tmp_path / "run"), tmp_path / "out", "last", False, None)
    card = (tmp_path / "out" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(tmp_path / "out"))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert type(names["policy"]).__name__ == "DecisionMamba"
    assert "Digest of the logged trajectories" in card
    assert "library_name" not in card


@pytest.mark.slow  # a run in a directory is exported above; tests/e2e/test_s3_store.py reads policies from a bucket
def test_a_run_in_a_bucket_is_exported_by_directory_and_by_uri(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in seaweed.environment().items():
        monkeypatch.setenv(key, value)
    store = "s3://instar-test/exported"
    evolve_in(micro(iterations=1), tmp_path / "run", store=store, tracking="off")
    shutil.rmtree(tmp_path / "run" / "cache")
    export(str(tmp_path / "run"), tmp_path / "a", "last", False, None)
    export(f"{store}/evolutions/sec-tiny-seed0", tmp_path / "b", "last", False, None)
    assert plain(LOAD, tmp_path / "a") == plain(LOAD, tmp_path / "b")


@pytest.mark.parametrize(
    ("policy", "merge", "occupied", "words"),
    [
        ("7", False, False, "expected champion, last, or an iteration from 0 to 2; found '7'.*iterations 0, 1, 2"),
        ("best", False, False, "found 'best'"),
        ("-1", False, False, "found '-1'"),
        ("last", True, False, "expected a policy with an adapter"),
        ("last", False, True, "expected a new or empty folder; found 1 files"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    policy: str, merge: bool, occupied: bool, words: str, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if occupied:
        (out / "mine.txt").write_text("mine")
    before = sorted(out.iterdir())
    with pytest.raises(ConfigError, match=words):
        export(str(text), out, policy, merge, None)
    assert (sorted(out.iterdir()), sorted(tmp_path.iterdir())) == (before, [out])


def test_the_registered_version_says_how_to_get_its_weights(tmp_path: Path) -> None:
    """What the registry knows is enough: the store, and the command with its placeholders filled in."""
    from instar.tracking_server import EXPORT, POLICY, STORE, _client

    uri = f"sqlite:///{tmp_path}/registry.db"
    recipe = configs.merge(micro(iterations=1), {"gate": {"select": "last"}})
    evolve_in(recipe, tmp_path / "run", tracking=uri)
    version = _client(uri).get_model_version_by_alias("instar-sec", "candidate")
    assert version.tags[EXPORT] in version.description
    command = version.tags[EXPORT].replace("STORE", version.tags[STORE]).replace("FOLDER", str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out" / "README.md").unlink()
    assert manifest_of(tmp_path / "out", "Policy").digest == version.tags[POLICY]


def test_a_run_without_a_policy_is_refused(tmp_path: Path) -> None:
    create_workspace(tmp_path / "run", "empty")
    with pytest.raises(LedgerError, match="found a ledger of 0 entries without a gate"):
        export(str(tmp_path / "run"), tmp_path / "out", "champion", False, None)
    with pytest.raises(LedgerError, match=r"evolution.json"):
        export(str(tmp_path / "nothing"), tmp_path / "out", "champion", False, None)


def test_a_kill_leaves_no_half_folder(text: Path, tmp_path: Path) -> None:
    """The process dies when every file is written and the folder has not got its name yet."""
    code = (
        "import os, signal, sys; from pathlib import Path; from instar.pipelines.export import folder\n"
        "folder.card = lambda *facts: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from instar.cli.export import export\n"
        "export(sys.argv[1], Path(sys.argv[2]), 'last', False, None)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(text), str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    export(str(text), tmp_path / "out", "last", False, None)
    assert plain(LOAD, tmp_path / "out")


def test_a_hub_that_cannot_be_reached_keeps_the_folder_and_tells_no_token(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_this_is_a_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = "import sys; from instar.__main__ import main; main()"
    words = ["export", str(text), "-o", str(tmp_path / "out"), "--push", "me/sorter"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    assert "a hub that this machine can reach" in done.stderr
    assert "hf upload me/sorter" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert "secret" not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.md"))
    with pytest.raises(ConfigError, match=r"expected the name of a repository: OWNER/NAME; found 'a/b/c'"):
        export(str(text), tmp_path / "other", "last", False, "a/b/c")
    assert not (tmp_path / "other").exists()
