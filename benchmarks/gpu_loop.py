"""Inner steps of one segment on a GPU, rollout and update, on each engine and with each place of the optimiser's state.

The policy is a Llama with random weights in a shape of Qwen2.5, so that every answer has the full length. Rewards are drawn.
A side runs in a process of its own: a few inner steps whose outputs are not written, as inside a fused segment, the first
of which warms up. Per step: seconds of both stages, sampled tokens in a second, device memory at its peak against the
update's prediction, and what the ledger would say of the engine. Sides differ in one setting each:

* `vllm` (weights handed over in memory, moments on the device), the same with moments in host memory, with kernels that are
  batch invariant, and with model runner V1, which draws seeded samples one by one;
* `transformers`, the engine without vLLM;
* `every device`, the update in one process for each device, where there are several.

`handover` gives the engine another policy a few times, from memory and from files. `python benchmarks/gpu_loop.py --side NAME
--out FILE` runs one side; `gpu_run.py` runs all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIDE_S = 1800


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A model's shape and a batch."""

    hidden: int = 1536
    layers: int = 28
    intermediate: int = 8960
    heads: int = 12
    kv_heads: int = 2
    vocabulary: int = 151_936
    prompts: int = 64
    group: int = 8
    new_tokens: int = 256
    budget: int = 16_384
    steps: int = 4


@dataclass(frozen=True, kw_only=True)
class Side:
    """What differs: fields of the engine and of the update, and the environment."""

    engine: dict[str, Any]
    update: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


_VLLM = {"name": "vllm", "dtype": "bfloat16", "memory_share": 0.4}
SIDES: dict[str, Side] = {
    "vllm": Side(engine=_VLLM),
    "vllm, moments in host memory": Side(engine=_VLLM, update={"moments": "host"}),
    "vllm, batch invariant": Side(engine={**_VLLM, "batch_invariant": True}),
    "vllm, runner V1": Side(engine=_VLLM, environment={"VLLM_USE_V2_MODEL_RUNNER": "0"}),
    "transformers": Side(engine={"name": "transformers", "dtype": "bfloat16", "max_rows": 128}),
    "every device": Side(engine=_VLLM, update={"processes": "auto"}),
}
SMALL = Sizes(hidden=896, layers=24, intermediate=4864, heads=14, kv_heads=2)
"""For devices of less than 40 GiB."""
ALPHABET = "0123456789+-= abcdefghijklmnop\n"


def run() -> list[dict[str, Any]]:
    """Return a row a side, and one of the handover; a side that fails says why and hides no other."""
    import torch

    sides = [name for name in SIDES if name != "every device" or torch.cuda.device_count() > 1]
    return [_child(name) for name in [*sides, "handover"]]


def _child(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--side", name, "--out", str(out)]
        env = {**os.environ, **(SIDES[name].environment if name in SIDES else {})}
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SIDE_S, check=False)
        except subprocess.TimeoutExpired:
            return {"row": name, "error": f"no end after {SIDE_S} s", "met": False}
        if done.returncode or not out.is_file():
            return {"row": name, "error": done.stderr[-2000:], "met": False}
        return {"row": name, **json.loads(out.read_text())}


def measure(name: str, sizes: Sizes, root: Path) -> dict[str, Any]:
    """Return the medians over all steps but the first of one side."""
    found = steps(SIDES[name], sizes, root)
    medians = {key: statistics.median(step[key] for step in found[1:]) for key in found[-1]}
    return {**dataclasses.asdict(sizes), **medians}


def steps(side: Side, sizes: Sizes, root: Path) -> list[dict[str, float]]:
    """Return what each inner step took; all but the last write nothing that outlives the process."""
    from instar.components.rollout.config import EngineConfig, SampleConfig
    from instar.components.rollout.sample import sample
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.stage import STAGE
    from instar.contract import Context
    from instar.pipelines.execute import execute
    from instar.resident import Resident

    engine = SampleConfig(max_new_tokens=sizes.new_tokens, engine=EngineConfig(**side.engine))
    update: dict[str, Any] = {"lr": 1e-6, "dtype": "bfloat16", "micro_batch_tokens": sizes.budget, **side.update}
    state: dict[str, Any] = {"policy": write_policy(root / "policy", sizes), "trainer": None, "reference": None}
    tasks, slots = write_tasks(root / "tasks", sizes)
    resident = Resident()
    out = []
    for step in range(sizes.steps):
        folder = root / f"step{step}"
        last = step == sizes.steps - 1
        ctx = Context(evolution="bench", step=step, stage="update", scratch=root, resident=resident, durable=last)
        rows = table("Rollouts", folder / "rollouts", f"r{step}")
        with timed() as rollout:
            said = sample(
                state["policy"], {"tasks": tasks}, slots, rows, engine, dataclasses.replace(ctx, stage="rollout")
            )
        inputs = {**state, "rollouts": rows, **verdicts(folder, slots, rows)}
        with timed() as update_time:
            result = execute(STAGE, inputs, PolicyGradientConfig(**update), ctx, folder / "update")
        outs: Any = result.outs
        state |= {"policy": outs.policy, "trainer": outs.trainer}
        out.append(
            {
                "rollout_s": rollout[0],
                "update_s": update_time[0],
                "tokens_per_s": said["perf/tokens_per_s"],
                "rollout_peak_gib": rollout[1],
                "update_peak_gib": update_time[1],
                "update_predicted_gib": result.perf["perf/predicted_peak_bytes"] / 2**30,
                **{key: said[key] for key in ("seeds_in_kernel", "batch_invariant") if key in said},
            }
        )
    return out


def handover(sizes: Sizes, root: Path, engine: dict[str, Any], repeats: int = 5) -> dict[str, Any]:
    """Return the seconds in which a running engine takes another policy, from memory and from files, in turns."""
    from instar.artifact import Policy
    from instar.components.policy_io import MODEL, load_model
    from instar.components.rollout.config import EngineConfig
    from instar.components.rollout.engines import open_engine
    from instar.contract import Context

    first = write_policy(root / "policy", sizes)
    ctx = Context(evolution="bench", step=0, stage="rollout", scratch=root)
    open_engine(EngineConfig(**engine), first, ctx)
    seconds: dict[str, list[float]] = {"memory": [], "files": []}
    for number in range(1, 2 * repeats + 1):
        way = "memory" if number % 2 else "files"
        policy = Policy(first.path, f"policy{number}")
        if way == "memory":
            held: Any = load_model(policy, ctx)
            ctx.resident.put(MODEL, policy, held.to("cuda" if cuda() else "cpu"))
        with timed() as took:
            open_engine(EngineConfig(**engine), policy, ctx)
        ctx.resident.take(MODEL, policy.digest)
        seconds[way].append(took[0])
    stored = sum(file.stat().st_size for file in first.path.glob("*.safetensors"))
    return {
        **{f"{way}_s": round(statistics.median(found), 3) for way, found in seconds.items()},
        "gib": round(stored / 2**30, 2),
    }


class timed:
    """Seconds of a block and the device memory at its peak, in GiB: `with timed() as found` fills `found`."""

    def __enter__(self) -> list[float]:
        import torch

        self.found: list[float] = []
        if cuda():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.began = time.perf_counter()
        return self.found

    def __exit__(self, *error: object) -> None:
        import torch

        if cuda():
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda() else 0.0
        self.found += [time.perf_counter() - self.began, peak]


def cuda() -> bool:
    """Whether there is a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def write_policy(folder: Path, sizes: Sizes) -> Any:
    """Write a Llama with random weights in bfloat16, and a character tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from instar.artifact import Policy
    from instar.components.dataset_prep.charlm import CharModelConfig, build_tokenizer

    shape = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(shape)
    model.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if p.ndim > 1:
            p.data.copy_(0.02 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(folder)
    build_tokenizer(CharModelConfig(alphabet=ALPHABET)).save_pretrained(folder)
    return Policy(folder, "policy0")


def table(kind: str, folder: Path, digest: str) -> Any:
    """Return an empty table artifact in a folder of its own."""
    from instar import artifact

    folder.mkdir(parents=True)
    return getattr(artifact, kind)(folder, digest)


def write_tasks(folder: Path, sizes: Sizes) -> tuple[Any, list[Any]]:
    """Write one task a prompt and return them with the slots that draw each once."""
    from instar.rows import BatchRow, TaskRow

    tasks = table("Tasks", folder, "tasks")
    rows = [
        TaskRow(
            task_id=f"t{i}",
            arm="a",
            domain="d",
            level=1.0,
            split="train",
            prompt=f"{i:06d}=" * 16,
            verifier="number",
            reference="{}",
            features="{}",
            content_hash=f"{i:064d}",
            generator="g",
            seed=0,
        )
        for i in range(sizes.prompts)
    ]
    tasks.write(rows)
    slots = [
        BatchRow(slot=i, task_id=f"t{i}", arm="a", probability=1.0, group_id=f"g{i}", group_size=sizes.group)
        for i in range(sizes.prompts)
    ]
    return tasks, slots


def verdicts(folder: Path, slots: list[Any], rollouts: Any) -> dict[str, Any]:
    """Write the batch and a verdict on every rollout, right and wrong in turns."""
    from instar.rows import ScoreRow

    batch, scores = table("Batch", folder / "batch", "b"), table("Scores", folder / "scores", "s")
    batch.write(slots)
    scores.write(
        [
            ScoreRow(
                rollout_id=row.rollout_id,
                correct=float(i % 2),
                format_ok=1.0,
                reward=float(i % 2),
                components={},
                status="scored",
                reason="",
                scorer="drawn",
            )
            for i, row in enumerate(rollouts.read())
        ]
    )
    return {"batch": batch, "scores": scores}


def main() -> int:
    """Run one side and write its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=[*SIDES, "handover"], required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    if not cuda():
        print("no CUDA device: gpu_loop.py measures one and has nothing to run here", file=sys.stderr)
        return 77
    import torch

    sizes = Sizes() if torch.cuda.mem_get_info()[1] >= 40 * 2**30 else SMALL
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = handover(sizes, root, _VLLM) if args.side == "handover" else measure(args.side, sizes, root)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
