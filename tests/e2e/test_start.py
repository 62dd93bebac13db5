"""What an evolution starts from: a checkpoint of one's own at the tiny scale, or the champion of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instar import config as configs
from instar.artifact import Policy
from instar.cli import commands
from instar.cli.commands import evolve_in
from instar.cli.export import export
from instar.cli.own import Own, bring
from instar.cli.resolve import resolve
from instar.errors import ConfigError, InstarError
from instar.status import policies, status
from instar.workspace import open_workspace
from support.micro import micro
from support.micro_continuous import micro_continuous

FEW = ["iterations=0", "evaluate.tasks_per_arm=2", "test.tasks_per_arm=2", "test.samples=1"]
RUN: dict[str, Any] = {"store": None, "mode": "inprocess", "tracking": "off", "file": None}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose champion is not its base: the gate takes the last policy."""
    directory = tmp_path_factory.mktemp("first")
    evolve_in(configs.merge(micro(iterations=1), {"gate": {"select": "last"}}), directory, tracking="off")
    return directory


def weights(folder: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def llama(folder: Path, alphabet: str) -> Path:
    """Write a random Llama with a tokenizer of single characters, all of it by transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["<pad>", "<end>", *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "vocab_size": len(vocabulary),
    }
    LlamaForCausalLM(LlamaConfig(num_attention_heads=2, eos_token_id=1, pad_token_id=0, **settings)).save_pretrained(
        folder
    )
    fast.save_pretrained(folder)
    return folder


def test_a_checkpoint_takes_the_place_of_the_tiny_model(tmp_path: Path) -> None:
    model = llama(tmp_path / "model", "0123456789=")
    commands.run("sec", "tiny", 0, tmp_path / "run", model=str(model), sets=FEW, **RUN)
    workspace = open_workspace(tmp_path / "run")
    base = workspace.cas.get(policies(workspace.ledger.entries)[0])
    assert weights(base) == weights(model)
    prepared = next(workspace.ledger.of("stage"))
    assert prepared.body["metrics"]["num_tasks"] > 28_000, "the tasks of the scale stay"


def test_a_tokenizer_that_cannot_spell_the_tasks_is_refused(tmp_path: Path) -> None:
    model = llama(tmp_path / "model", "abc=")
    with pytest.raises(InstarError, match="tokenizer that knows its characters"):
        commands.run("sec", "tiny", 0, tmp_path / "run", model=str(model), sets=FEW, **RUN)


def test_an_exported_policy_comes_back_as_a_model(champion: Path, tmp_path: Path) -> None:
    export(str(champion), tmp_path / "model", "champion", False, None)
    commands.run("sec", "tiny", 0, tmp_path / "run", model=str(tmp_path / "model"), sets=FEW, **RUN)
    workspace = open_workspace(tmp_path / "run")
    assert weights(workspace.cas.get(status(workspace)["champion"])) == weights(tmp_path / "model")


def test_a_run_starts_from_the_champion_of_another_one(champion: Path, tmp_path: Path) -> None:
    first = open_workspace(champion)
    digest = status(first)["champion"]
    assert digest != policies(first.ledger.entries)[0]
    commands.run("sec", "tiny", 0, tmp_path / "run", model=None, sets=FEW, own=Own(start=str(champion)), **RUN)
    workspace = open_workspace(tmp_path / "run")
    opened = next(workspace.ledger.of("open"))
    assert opened.body["brought"] == {"initial": digest}
    assert policies(workspace.ledger.entries) == {0: digest}
    assert str(champion) not in configs.dumps(opened.body)
    workspace.cas.verify(digest)

    head = workspace.ledger.head
    by_uri = f"{champion}/store/evolutions/{first.evolution}"
    commands.run("sec", "tiny", 0, tmp_path / "run", model=None, sets=FEW, own=Own(start=by_uri), **RUN)
    assert open_workspace(tmp_path / "run").ledger.head == head, "a directory and its URI name the same champion"


def test_a_champion_that_has_changed_is_noticed(champion: Path, tmp_path: Path) -> None:
    """The digest in the opening entry decides. A run that went on has another champion."""
    other = tmp_path / "other"
    evolve_in(
        configs.merge(micro(iterations=1), {"gate": {"select": "last"}, "update": {"lr": 1e-3}}), other, tracking="off"
    )
    commands.run("sec", "tiny", 0, tmp_path / "run", model=None, sets=FEW, own=Own(start=str(champion)), **RUN)
    with pytest.raises(ConfigError, match=r"expected initial sha256:.*for the change choose another --out"):
        commands.run("sec", "tiny", 0, tmp_path / "run", model=None, sets=FEW, own=Own(start=str(other)), **RUN)


def test_training_goes_on_from_a_champion(champion: Path, tmp_path: Path) -> None:
    outcome = evolve_in(micro(iterations=1), tmp_path / "second", tracking="off", start=champion)
    known = policies(open_workspace(tmp_path / "second").ledger.entries)
    assert known[0] == status(open_workspace(champion))["champion"]
    assert known[1] != known[0]
    assert Policy(outcome.champion.model_path).read_json("config.json")["model_type"] == "llama"


@pytest.mark.parametrize(
    ("recipe", "model", "words"),
    [
        ("sec", "some/model", "expected --model or --from"),
        ("decision_mamba", None, "no --from: decision_mamba makes its own policy"),
    ],
)
def test_what_cannot_start_from_a_run_is_refused(recipe: str, model: str | None, words: str, champion: Path) -> None:
    with bring(Own(start=str(champion))) as brought, pytest.raises(ConfigError, match=words):
        resolve(recipe, "tiny", model, None, [], None, brought)


def test_a_champion_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    evolve_in(micro_continuous(iterations=0), tmp_path / "run", tracking="off")
    own = Own(start=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="a run whose champion is a language model"), bring(own):
        pass
