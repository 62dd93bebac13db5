"""A checkpoint that is not there, or whose weights are cut short, is named as that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instar.components.dataset_prep.config import Checkpoint
from instar.components.dataset_prep.text import _checkpoint
from instar.errors import ArtifactError, ConfigError


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(
        ArtifactError, match=r"header within the file's 10 bytes; found a header of 16; at .*model\.safetensors:header"
    ):
        _checkpoint(Checkpoint(path=str(tmp_path)), tmp_path / "out")


def test_a_path_with_nothing_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, found in (("absent", "nothing"), ("file", "a file")):
        with pytest.raises(ConfigError, match=f"found {found}; at dataset_prep.initial.path={tmp_path}/{path}"):
            _checkpoint(Checkpoint(path=f"{tmp_path}/{path}"), tmp_path / "out")
