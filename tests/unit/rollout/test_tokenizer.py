"""Prompts are encoded whole, and stop ids come from the policy folder. Runs in about one second."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from instar.artifact import Policy
from instar.components.tokenizer import load_tokenizer
from instar.errors import ArtifactError


def template(text: str) -> Any:
    return TemplateProcessing(single=text, special_tokens=[("<pad>", 0), ("<eos>", 1)])


def test_round_trip_and_ids(tiny: Any, folder: Any) -> None:
    tokenizer = load_tokenizer(folder(tiny("llama"), "p1"))
    assert tokenizer.encode("1+2= ") == [3, 12, 4, 14, 15]
    assert tokenizer.decode([3, 12, 4, 1]).replace(" ", "") == "1+2"
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.vocab_size) == (frozenset({1}), 0, 32)


def test_saved_truncation_and_padding_are_switched_off(tiny: Any, folder: Any) -> None:
    def cut(tokenizer: Any) -> None:
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=8)

    assert load_tokenizer(folder(tiny("llama"), "p2", cut)).encode("12345") == [3, 4, 5, 6, 7]


def test_the_post_processor_of_the_file_is_used(tiny: Any, folder: Any) -> None:
    def start(tokenizer: Any) -> None:
        tokenizer.post_processor = template("<pad> $A")

    assert load_tokenizer(folder(tiny("llama"), "p3", start)).encode("12") == [0, 3, 4]


def test_a_post_processor_that_ends_the_prompt_is_refused(tiny: Any, folder: Any) -> None:
    def end(tokenizer: Any) -> None:
        tokenizer.post_processor = template("$A <eos>")

    with pytest.raises(ArtifactError, match="appends stop id 1"):
        load_tokenizer(folder(tiny("llama"), "p4", end))


def test_generation_config_comes_first(tiny: Any, folder: Any) -> None:
    policy: Policy = folder(tiny("llama"), "p5", eos_token_id=9)
    (policy.path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    assert load_tokenizer(policy).eos_ids == frozenset({1, 5})


def test_stop_token_by_name_and_none_at_all(tiny: Any, folder: Any) -> None:
    policy: Policy = folder(tiny("llama"), "p6", eos_token_id=None)
    (policy.path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<eos>"}}))
    assert load_tokenizer(policy).eos_ids == frozenset({1})
    with pytest.raises(ArtifactError, match="a stop token"):
        load_tokenizer(folder(tiny("llama"), "p7", eos_token_id=None))


def test_a_missing_or_broken_file_is_named(tiny: Any, folder: Any) -> None:
    policy: Policy = folder(tiny("llama"), "p8")
    (policy.path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        load_tokenizer(policy)
    (policy.path / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        load_tokenizer(policy)
