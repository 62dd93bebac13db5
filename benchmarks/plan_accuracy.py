"""Predicted over measured: the memory and the seconds of sampling and of an update, on SmolLM2-135M and this machine's CPU.

Every case runs in a process of its own. Peak is the growth of the largest resident set over what the process held after its
imports and the probe. Seconds are CPU seconds with one thread; the prediction comes from the probe of `instar plan --device
cpu`, in the same process. A sample never ends early here, so that lengths are known. The model is the packaged
SmolLM2-135M-Instruct. `python benchmarks/run.py --only plan_accuracy --out F`.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BAR = 0.15
"""Largest relative error of a predicted peak."""
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rollout", {"groups": 4, "size": 8, "prompt": 64, "new": 64}),
    ("rollout", {"groups": 4, "size": 16, "prompt": 256, "new": 32}),
    ("rollout", {"groups": 8, "size": 16, "prompt": 32, "new": 32}),
    ("update", {"groups": 8, "size": 8, "prompt": 34, "new": 16, "budget": 1024}),
    ("update", {"groups": 4, "size": 2, "prompt": 64, "new": 192, "budget": 1024}),
    ("update", {"groups": 4, "size": 2, "prompt": 64, "new": 192, "budget": 2048}),
    ("update", {"groups": 4, "size": 2, "prompt": 64, "new": 192, "budget": 2048, "checkpointing": "on"}),
)
"""Rows, columns and passes that differ; together about five CPU minutes."""
REPEATS = 1


def run() -> list[dict[str, Any]]:
    """Return a row per case."""
    return [row(kind, case) for kind, case in CASES]


def row(kind: str, case: dict[str, Any]) -> dict[str, Any]:
    """Measure one case in fresh processes."""
    found = [child(kind, case) for _ in range(REPEATS)]
    ratio = {k: statistics.median(f[f"predicted_{k}"] / f[f"measured_{k}"] for f in found) for k in ("gib", "s")}
    name = ", ".join(f"{k} {v}" for k, v in case.items())
    return {
        "row": f"{kind}: {name}",
        **{k: round(statistics.median(f[k] for f in found), 3) for k in found[0] if k.endswith(("gib", "_s"))},
        "ratio_gib": round(ratio["gib"], 3),
        "ratio_s": round(ratio["s"], 3),
        "parts": found[0]["parts"],
        "met": abs(ratio["gib"] - 1) <= BAR,
    }


def child(kind: str, case: dict[str, Any]) -> dict[str, Any]:
    """Return what a process that runs the case prints."""
    words = [sys.executable, __file__, kind, json.dumps(case)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(load: Callable[[], Any], call: Callable[[Any], object]) -> dict[str, float]:
    """Return the growth of the peak resident set in GiB over loading and calling, and the CPU seconds of the call alone."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    loaded = load()
    began = time.process_time()
    call(loaded)
    return {"measured_s": time.process_time() - began, "measured_gib": (resident("VmHWM") - before) / 2**20}


def resident(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def rollout(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Sample groups of answers that have all tokens they may."""
    import torch

    from instar.components.policy_io import load_model
    from instar.components.rollout import footprint
    from instar.components.rollout.engine import Request
    from instar.components.rollout.transformers_engine import TransformersEngine, precision
    from instar.pipelines.fit import probe, seconds

    policy, ctx = base(), context("rollout", folder)
    model, count = architecture(), case["groups"] * case["size"]
    dtype = precision("bfloat16", torch.bfloat16, "cpu")
    device = probe.cpu(model, str(dtype).removeprefix("torch."), count, 1)
    generator = torch.Generator().manual_seed(0)
    requests = [
        Request(
            request_id=str(g),
            prompt_ids=torch.randint(100, 40_000, (case["prompt"],), generator=generator).tolist(),
            seeds=[g * 1000 + i for i in range(case["size"])],
        )
        for g in range(case["groups"])
    ]

    def load() -> Any:
        loaded = load_model(policy, ctx)
        return TransformersEngine(loaded, digest="base", eos_ids=[], max_rows=512, dtype=dtype, device="cpu")

    work = footprint.Sampling(rows=count, samples=count, groups=case["groups"], prompt=case["prompt"], new=case["new"])
    plan = footprint.transformers(model, work, 2, dtype.itemsize, 4)
    asked = seconds.Answers(
        samples=count, groups=case["groups"], prompt=case["prompt"], mean=case["new"], longest=case["new"], rows=count
    )
    parts = {
        "read_s": seconds.read_s(model, device, asked),
        "decode_s": seconds.decode_s(model, device, asked, dtype.itemsize),
    }
    return {
        **measured(load, lambda engine: engine.sample(requests, max_new_tokens=case["new"], temperature=1.0)),
        "predicted_gib": plan.peak_bytes / 2**30,
        "predicted_s": sum(parts.values()),
        "parts": rounded(parts) | gib(plan),
    }


def update(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Update once on groups of answers of which half are right."""
    from instar.components.policy_io import load_model
    from instar.components.update import memory
    from instar.components.update.batching import shapes
    from instar.components.update.config import Mismatch, PolicyGradientConfig
    from instar.components.update.stage import STAGE
    from instar.components.update.update_batch import join
    from instar.pipelines.fit import probe, seconds

    config = PolicyGradientConfig(
        mismatch=Mismatch(kind="off", alarm_mean=100.0, alarm_gap=100.0),
        micro_batch_tokens=case["budget"],
        dtype=case.get("dtype", "float32"),
        gradient_checkpointing=case.get("checkpointing", "off"),
        lr=1e-6,
        packing="none",
        device="cpu",
    )
    model, ctx = architecture(), context("update", folder)
    device = probe.cpu(model, config.dtype, 64, 1)
    ins, outs = artifacts(case, folder)
    data = join(ins.batch.table(), ins.rollouts.table(), ins.scores.table(), 2)
    every = data.valid.nonzero()[0]
    passes = shapes(data, every, config.micro_batch_tokens, config.packing)
    positions = sum(rows * width for rows, width in passes)
    batch = seconds.Batch(
        positions=positions, width=max(w for _, w in passes), tokens=len(data.behaviour), passes=len(passes), steps=1
    )
    on = config.gradient_checkpointing == "on"
    parts = {
        "passes_s": seconds.update_s(model, device, batch, config, on),
        "optimizer_s": seconds.optimizer_s(model, device, config, 1, 1.0),
        "first_check_s": first_check_s(model, device, min(3, passes[-1][0]), batch),
    }
    plan = memory.plan(ins.policy, config, data, False, on)
    del data
    return {
        **measured(lambda: load_model(ins.policy, ctx), lambda _: STAGE(ins, outs, config, ctx)),
        "predicted_gib": plan.peak_bytes / 2**30,
        "predicted_s": sum(parts.values()),
        "parts": rounded(parts) | gib(plan),
    }


def first_check_s(model: Any, device: Any, rows: int, batch: Any) -> float:
    """Return what comparing a few rows with the model's own logits takes, once in a process: two forward passes, whole logits."""
    from instar.pipelines.fit import seconds

    asked = seconds.Answers(samples=0, groups=2 * rows, prompt=batch.width, mean=0, longest=0, rows=rows)
    head = 2 * rows * batch.width * model.head_parameters / device.rates.head
    return seconds.read_s(model, device, asked) + 2 * head


def artifacts(case: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """Return inputs and outputs of an update on rollouts of random tokens, `size` for each of `groups` prompts."""
    import numpy as np

    from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, TrainerState
    from instar.components.update.stage import Ins, Outs
    from instar.rows import BatchRow, RolloutRow, ScoreRow, Step

    def new(kind: Any, name: str) -> Any:
        (folder / name).mkdir()
        return kind(folder / name, name)

    random, prompt, new_tokens = np.random.default_rng(0), case["prompt"], case["new"]
    batch, rollouts, scores = new(Batch, "batch"), new(Rollouts, "rollouts"), new(Scores, "scores")
    groups = [(f"g{g}", random.integers(100, 40_000, prompt).tolist()) for g in range(case["groups"])]
    batch.write(
        BatchRow(slot=i, task_id=name, arm="a", probability=1.0, group_id=name, group_size=case["size"])
        for i, (name, _) in enumerate(groups)
    )
    names = [(f"{name}/{i}", name, ids, i) for name, ids in groups for i in range(case["size"])]
    rollouts.write(
        RolloutRow(
            rollout_id=rollout,
            task_id=name,
            arm="a",
            kind="text",
            group_id=name,
            policy="base",
            truncated=True,
            seed=0,
            token_ids=[*ids, *random.integers(100, 40_000, new_tokens).tolist()],
            behaviour_logprobs=[-1.0] * new_tokens,
            steps=[
                Step(role="prompt", start=0, end=prompt),
                Step(role="action", start=prompt, end=prompt + new_tokens),
            ],
        )
        for rollout, name, ids, _ in names
    )
    scores.write(
        ScoreRow(
            rollout_id=rollout,
            correct=float(i % 2),
            format_ok=1.0,
            reward=float(i % 2),
            components={},
            status="scored",
            reason="",
            scorer="alternate",
        )
        for rollout, _, _, i in names
    )
    ins = Ins(policy=base(), trainer=None, batch=batch, rollouts=rollouts, scores=scores, reference=None)
    outs = Outs(policy=new(Policy, "policy"), trainer=new(TrainerState, "trainer"), stats=new(ArmStats, "stats"))
    return ins, outs


def base() -> Any:
    """Return the packaged model."""
    from instar.artifact import Policy
    from instar.components.dataset_prep import packaged

    return Policy(packaged.fetch("smollm2-135m-instruct"), "base")


def architecture() -> Any:
    """Return its sizes."""
    from instar.components.architecture import of_model

    return of_model("smollm2-135m-instruct")


def context(stage: str, folder: Path) -> Any:
    """Return where a stage of this benchmark stands: nothing is written down."""
    from instar.contract import Context

    return Context(evolution="plan", step=0, stage=stage, scratch=folder, durable=False)


def gib(plan: Any) -> dict[str, float]:
    """Return the parts of a plan in GiB."""
    return {k: round(v / 2**30, 3) for k, v in vars(plan).items() if k.endswith("_bytes")}


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return values with three digits."""
    return {k: round(v, 3 - math.floor(math.log10(max(v, 1e-9))) if v < 1 else 2) for k, v in values.items()}


def main() -> None:
    """Run one case: `plan_accuracy.py rollout|update JSON`."""
    import torch

    torch.set_num_threads(1)
    kinds: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {"rollout": rollout, "update": update}
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(kinds[sys.argv[1]](json.loads(sys.argv[2]), Path(folder))))


if __name__ == "__main__":
    main()
