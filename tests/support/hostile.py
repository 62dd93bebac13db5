"""Policy folders that are broken or hostile: a whole one made here, and what is done to it, one fault each."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

ALPHABET = "0123456789+=?! "
CHAT = "<eos>{{ messages[0].content }}<eos>"


def whole(folder: Path) -> Path:
    """Write a complete policy: a Llama of two layers, a character tokenizer, a chat template."""
    from instar.components.dataset_prep import charlm

    config = charlm.CharModelConfig(alphabet=ALPHABET, hidden=8, layers=2, heads=2, intermediate=8, max_length=128)
    folder.mkdir(parents=True, exist_ok=True)
    charlm.save(charlm.build_model(config, 0), charlm.build_tokenizer(config), folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def control(folder: Path) -> Path:
    """Write a complete continuous-control policy: Decision Mamba for a pendulum."""
    from instar.components.continuous.build import build
    from instar.components.continuous.config import ContinuousTask, DecisionMambaArch

    task = ContinuousTask(
        env="Pendulum-v1",
        state_dim=3,
        action_dim=1,
        action_low=(-2.0,),
        action_high=(2.0,),
        state_mean=(0.0,) * 3,
        state_std=(1.0,) * 3,
    )
    folder.mkdir(parents=True, exist_ok=True)
    build(DecisionMambaArch(width=8, layers=1, window=2, max_timestep=8), task, 0).save_pretrained(folder)
    return folder


Fault = Callable[[Path], Any]


def text(name: str, value: str | bytes) -> Fault:
    """Write a file."""
    return lambda folder: (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode())


def put(name: str, *path: str | int, value: Any) -> Fault:
    """Set a field of a JSON file."""

    def change(folder: Path) -> None:
        file = folder / name
        record = json.loads(file.read_text()) if file.is_file() else {}
        inner = record
        for key in path[:-1]:
            inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
        inner[path[-1]] = value
        file.write_text(json.dumps(record))

    return change


def weights(change: Callable[[bytes], bytes]) -> Fault:
    """Change the bytes of the weight file."""
    return lambda folder: (folder / "model.safetensors").write_bytes(
        change((folder / "model.safetensors").read_bytes())
    )


def header(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Change the header of the weight file, its length with it."""

    def changed(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        record = json.loads(data[8 : 8 + length])
        change(record)
        made = json.dumps(record).encode()
        return struct.pack("<Q", len(made)) + made + data[8 + length :]

    return weights(changed)


def instead(name: str, make: Callable[[Path], Any]) -> Fault:
    """Put something else where a file is."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def drop(name: str) -> Fault:
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


def several(*faults: Fault) -> Fault:
    """Do one after another."""
    return lambda folder: [fault(folder) for fault in faults]


def _first(record: dict[str, Any]) -> dict[str, Any]:
    name = next(key for key in record if key != "__metadata__")
    found: dict[str, Any] = record[name]
    return found


CODE = "import os\nos.makedirs('/tmp/instar-was-here', exist_ok=True)\nclass Evil: pass\n"
DEEP = "[" * 50_000 + "]" * 50_000
LM = "model.safetensors"

FAULTS: dict[str, Fault] = {
    "weights/cut": weights(lambda data: data[:-64]),
    "weights/longer": weights(lambda data: data + b"\0" * 64),
    "weights/empty": weights(lambda data: b""),
    "weights/7 bytes": weights(lambda data: data[:7]),
    "weights/header cut": weights(lambda data: data[:100]),
    "weights/length 2^62": weights(lambda data: struct.pack("<Q", 1 << 62) + data[8:]),
    "weights/length 2^64-1": weights(lambda data: b"\xff" * 8 + data[8:]),
    "weights/length 0": weights(lambda data: b"\0" * 8 + data[8:]),
    "weights/header a list": weights(lambda data: struct.pack("<Q", 2) + b"[]"),
    "weights/header no JSON": weights(lambda data: data[:8] + b"{" * (len(data) - 8)),
    "weights/header deep": weights(lambda data: struct.pack("<Q", len(DEEP)) + DEEP.encode()),
    "weights/no tensors": weights(lambda data: struct.pack("<Q", 2) + b"{}"),
    "weights/pickle": text(LM, b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94."),
    "weights/offsets text": header(lambda record: _first(record).update(data_offsets=["a", "b"])),
    "weights/offsets beyond": header(lambda record: _first(record).update(data_offsets=[0, 1 << 60])),
    "weights/offsets negative": header(lambda record: _first(record).update(data_offsets=[-8, 0])),
    "weights/shape huge": header(lambda record: _first(record).update(shape=[1 << 40, 1 << 20])),
    "weights/shape another": header(lambda record: _first(record).update(shape=[1, 136])),
    "weights/dtype unknown": header(lambda record: _first(record).update(dtype="Q7")),
    "weights/tensor a list": header(lambda record: record.update({"more": [1, 2]})),
    "weights/tensor missing": header(lambda record: record.pop("model.norm.weight")),
    "weights/folder": instead(LM, lambda path: path.mkdir()),
    "weights/none": drop(LM),
    "weights/index outside": several(
        put("model.safetensors.index.json", "weight_map", value={"model.norm.weight": "../../etc/passwd"}),
        lambda folder: (folder / LM).rename(folder / "model-00001-of-00001.safetensors"),
    ),
    "weights/index no map": several(
        text("model.safetensors.index.json", "[]"),
        lambda folder: (folder / LM).rename(folder / "model-00001-of-00001.safetensors"),
    ),
    "config/empty": text("config.json", ""),
    "config/list": text("config.json", "[]"),
    "config/null": text("config.json", "null"),
    "config/cut": text("config.json", '{"model_type": "llama", '),
    "config/bytes": text("config.json", b"\xff\xfe\x00"),
    "config/deep": text("config.json", '{"model_type": "llama", "a": ' + DEEP + "}"),
    "config/deep 800": put("config.json", "a", value=json.loads("[" * 800 + "]" * 800)),
    "config/none": drop("config.json"),
    "config/folder": instead("config.json", lambda path: path.mkdir()),
    "config/link to nothing": instead("config.json", lambda path: path.symlink_to("nowhere")),
    "config/pipe": instead("config.json", lambda path: os.mkfifo(path)),
    "config/unknown model_type": put("config.json", "model_type", value="warp_drive"),
    "config/model_type a list": put("config.json", "model_type", value=["llama"]),
    "config/model_type a path": put("config.json", "model_type", value="../../llama"),
    "config/model of pictures": put("config.json", "model_type", value="vit"),
    "config/custom code": several(
        put("config.json", "model_type", value="evil"),
        put("config.json", "auto_map", value={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}),
        text("evil.py", CODE),
    ),
    "config/10^7 layers": put("config.json", "num_hidden_layers", value=10**7),
    "config/10^12 layers": put("config.json", "num_hidden_layers", value=10**12),
    "config/-1 layers": put("config.json", "num_hidden_layers", value=-1),
    "config/layers text": put("config.json", "num_hidden_layers", value="many"),
    "config/3 layers": put("config.json", "num_hidden_layers", value=3),
    "config/10^6 wide": put("config.json", "hidden_size", value=10**6),
    "config/10^15 wide": put("config.json", "hidden_size", value=10**15),
    "config/0 heads": put("config.json", "num_attention_heads", value=0),
    "config/10^9 heads": put("config.json", "num_attention_heads", value=10**9),
    "config/10^9 labels": put("config.json", "num_labels", value=10**9),
    "config/10^9 words": put("config.json", "vocab_size", value=10**9),
    "config/10^30 positions": put("config.json", "max_position_embeddings", value=10**30),
    "config/dtype unknown": put("config.json", "dtype", value="evil"),
    "config/dtype a function": put("config.json", "dtype", value="load"),
    "config/rope unknown": put("config.json", "rope_parameters", value={"rope_type": "evil"}),
    "config/rope a list": put("config.json", "rope_parameters", value=[1]),
    "config/activation": put("config.json", "hidden_act", value="evil"),
    "config/attention from elsewhere": put("config.json", "attn_implementation", value="evil/kernel"),
    "config/quantised": put("config.json", "quantization_config", value={"quant_method": "evil"}),
    "config/adapter": text("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "/etc"}'),
    "config/weights elsewhere": put("config.json", "transformers_weights", value="../../x.safetensors"),
    "generation/empty": text("generation_config.json", ""),
    "generation/list": text("generation_config.json", "[]"),
    "generation/stop a text": put("generation_config.json", "eos_token_id", value="<eos>"),
    "generation/stop a list of texts": put("generation_config.json", "eos_token_id", value=["<eos>"]),
    "generation/stop true": put("generation_config.json", "eos_token_id", value=True),
    "generation/stop -5": put("generation_config.json", "eos_token_id", value=-5),
    "generation/stop 2^70": put("generation_config.json", "eos_token_id", value=1 << 70),
    "generation/stop an object": put("generation_config.json", "eos_token_id", value={"a": 1}),
    "generation/padding a text": put("generation_config.json", "pad_token_id", value="x"),
    "tokenizer/none": drop("tokenizer.json"),
    "tokenizer/empty": text("tokenizer.json", ""),
    "tokenizer/list": text("tokenizer.json", "[]"),
    "tokenizer/no model": put("tokenizer.json", "model", value=None),
    "tokenizer/unknown model": put("tokenizer.json", "model", "type", value="Evil"),
    "tokenizer/no unknown word": put("tokenizer.json", "model", "unk_token", value="nothing"),
    "tokenizer/two of one id": put("tokenizer.json", "model", "vocab", "7", value=3),
    "tokenizer/id 2^40": put("tokenizer.json", "model", "vocab", "7", value=1 << 40),
    "tokenizer/added without content": put("tokenizer.json", "added_tokens", 0, value={"id": 0}),
    "tokenizer/added far away": put("tokenizer.json", "added_tokens", 0, "id", value=10**9),
    "tokenizer/pattern": put("tokenizer.json", "pre_tokenizer", "pattern", value={"Regex": "(((("}),
    "tokenizer/folder": instead("tokenizer.json", lambda path: path.mkdir()),
    "tokenizer/settings empty": text("tokenizer_config.json", ""),
    "tokenizer/settings list": text("tokenizer_config.json", "[1]"),
    "tokenizer/class unknown": put("tokenizer_config.json", "tokenizer_class", value="EvilTokenizer"),
    "tokenizer/class a list": put("tokenizer_config.json", "tokenizer_class", value=["x"]),
    "tokenizer/custom code": put("tokenizer_config.json", "auto_map", value={"AutoTokenizer": ["evil.E", "evil.E"]}),
    "tokenizer/map a list": text("special_tokens_map.json", "[]"),
    "template/list": several(drop("chat_template.jinja"), put("tokenizer_config.json", "chat_template", value=[1, 2])),
    "template/list of names": several(
        drop("chat_template.jinja"), put("tokenizer_config.json", "chat_template", value=[{"name": "default"}])
    ),
    "template/bytes": text("chat_template.jinja", b"\xff\xfe"),
    "template/syntax": text("chat_template.jinja", "{% for %}"),
    "template/endless": text("chat_template.jinja", "{{ 'x' * 10 ** 11 }}"),
    "template/folder": instead("chat_template.jinja", lambda path: path.mkdir()),
    "template/9 MiB": text("chat_template.jinja", "x" * (9 << 20)),
}
"""What is done to a whole policy, by name: each makes one that must be refused, or read as if nothing were wrong."""

CONTROL_FAULTS: dict[str, Fault] = {
    "control/cut": weights(lambda data: data[:-64]),
    "control/length 2^62": weights(lambda data: struct.pack("<Q", 1 << 62) + data[8:]),
    "control/10^7 layers": put("config.json", "arch", "layers", value=10**7),
    "control/10^6 wide": put("config.json", "arch", "width", value=10**6),
    "control/10^12 steps": put("config.json", "arch", "max_timestep", value=10**12),
    "control/arch a list": put("config.json", "arch", value=[]),
    "control/task a text": put("config.json", "task", value="x"),
    "control/10^9 states": put("config.json", "task", "state_dim", value=10**9),
    "control/unknown arch": put("config.json", "model_type", value="instar_evil"),
}
