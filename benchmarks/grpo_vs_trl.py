"""One GRPO iteration against TRL's `GRPOTrainer`, optimiser included, on few-shot arithmetic.

    python benchmarks/grpo_vs_trl.py --model FOLDER --iterations 14 --out benchmarks/results/grpo_vs_trl.json

Equal on both sides: weights, prompts and their order, group size, length limit, stop rule (a stop token or a line break),
reward function, loss (token mean, clip .2, group-scaled advantages, no KL), AdamW (fused, no weight decay, constant rate,
gradient norm 1), attention kernel (SDPA), threads, and precision: float32 weights and moments, bfloat16 arithmetic. The
samples differ, because the two draw differently; their number is equal. What can be compared is compared in the run: the
prompts of every step, token by token, and the greedy answers of the first policy to those of the first step. Equal losses,
gradients and updated weights on equal rollouts are a test (`tests/unit/update/test_against_trl.py`).

Each side is a process of its own, so that its peak memory is its own (`VmHWM` after the last step, examination excluded).
The parent lets them step in turns, ABBA, and the other one waits. A cost is CPU seconds of the process within the step;
ratios are medians of pairs; the first step, which fills caches and compiles, is left out of them. `rollout` is everything
from prompts to token ids and texts, `reward` the scoring, `update` the rest: for TRL the trainer's step after generation,
for instar the stage with its files.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from run import machine

HERE = Path(__file__).parent
SIDES = {
    "both": ("instar", "trl"),
    "all": ("instar", "trl", "trl-bf16"),
    "instar": ("instar",),
    "trl": ("trl",),
    "trl-bf16": ("trl-bf16",),
}
PARTS = ("rollout", "update", "whole")
BAR = 2.0


class Side:
    """A child process that steps when it is told to."""

    def __init__(self, name: str, settings: dict[str, Any], scratch: Path) -> None:
        scratch.mkdir(parents=True)
        threads = str(settings["threads"])
        env = os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, str(HERE / "grpo_vs_trl_child.py"), name, str(scratch), json.dumps(settings)]
        self.name = name
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.loaded = self.read()
        self.steps: list[dict[str, Any]] = []

    def read(self) -> dict[str, Any]:
        """Return the child's next record."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"side {self.name} ended with exit code {self._child.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def step(self) -> None:
        """Take one step and keep its record."""
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        self.steps.append(self.read())

    def stop(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.wait()


def measure(names: tuple[str, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the record of every side: memory after loading, steps, end."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=settings["scratch"] or None) as folder:
        sides: list[Side] = []
        try:
            sides += [Side(name, settings, Path(folder) / name) for name in names]
            agreed = agreement([side.loaded.pop("greedy_ids") for side in sides])
            for step in range(settings["iterations"]):
                for side in sides if step % 2 == 0 else sides[::-1]:
                    side.step()
                    print(step, side.name, json.dumps(_short(side.steps[-1])), flush=True)
                if any(s.steps[-1]["prompts"] != sides[0].steps[-1]["prompts"] for s in sides):
                    raise RuntimeError(f"step {step}: the sides were given different prompts")
            for side in sides:
                out[side.name] = {
                    "equal_greedy_share": agreed,
                    "loaded": side.loaded,
                    "steps": side.steps,
                    "end": side.read(),
                }
        finally:
            for side in sides:
                side.stop()
    for side in out.values():
        for step in side["steps"]:
            del step["prompts"]
    return out


def agreement(answers: list[list[list[int]]]) -> float:
    """Return the smallest share of greedy answers that a side has in common with the first.

    Less than 3/4 is an error: kernels round differently, and near a tie of two tokens another one may win, but rarely.
    """
    share = min(sum(a == b for a, b in zip(answers[0], other, strict=True)) / len(other) for other in answers)
    if share < 0.75:
        raise RuntimeError(f"the sides do not serve the same model: {share:.0%} of the greedy answers are equal")
    return share


def _short(step: dict[str, Any]) -> dict[str, Any]:
    parts = {name: round(value, 2) for name, value in step["cpu_s"].items()}
    return {"cpu_s": parts, "tokens": step["completion_tokens"], "reward": round(step["reward"], 3)}


def summary(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return per side medians of cost and speed, peak memory, and the reward of the last third of the steps."""
    out = {}
    for name, side in found.items():
        steps = side["steps"][1:] or side["steps"]
        last = side["steps"][-max(1, len(side["steps"]) // 3) :]
        speed = {"rollout": "completion_tokens", "update": "tokens", "whole": "tokens"}
        out[name] = {
            "cpu_s": {p: statistics.median(s["cpu_s"][p] for s in steps) for p in (*PARTS, "reward")},
            "tokens_per_cpu_s": {p: statistics.median(s[k] / s["cpu_s"][p] for s in steps) for p, k in speed.items()},
            "wall_s": statistics.median(s["wall_s"] for s in steps),
            "informative_share": statistics.mean(s["informative_share"] for s in steps),
            "peak_rss_mib": side["end"]["peak_rss_mib"],
            "loaded_rss_mib": side["loaded"]["rss_mib"],
            "reward_last_third": statistics.mean(s["reward"] for s in last),
            "greedy": side["end"]["greedy"],
        }
    return out


def ratios(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per peer: how many times the CPU seconds of instar it takes, by part, and the bar."""
    rows = []
    for peer in [name for name in found if name != "instar" and "instar" in found]:
        pairs = list(zip(found["instar"]["steps"], found[peer]["steps"], strict=True))
        pairs = pairs[1:] or pairs
        row: dict[str, Any] = {"row": f"instar against {peer}", "pairs": len(pairs)}
        for part in PARTS:
            each = sorted(p["cpu_s"][part] / i["cpu_s"][part] for i, p in pairs)
            row[f"ratio_cpu_{part}"] = statistics.median(each)
            row[f"range_cpu_{part}"] = [each[0], each[-1]]
        row["ratio_peak_memory"] = found[peer]["end"]["peak_rss_mib"] / found["instar"]["end"]["peak_rss_mib"]
        rows.append(row | {"bar": f"whole >= {BAR}", "met": row["ratio_cpu_whole"] >= BAR})
    return rows


def main() -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=os.environ.get("INSTAR_BENCH_MODEL"), help="folder of the model")
    parser.add_argument("--side", choices=SIDES, default="both")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "grpo_vs_trl.json")
    parser.add_argument("--scratch", help="folder for what the sides write")
    for name, value in (
        ("iterations", 14),
        ("prompts", 8),
        ("group", 8),
        ("max-new-tokens", 6),
        ("threads", 1),
        ("seed", 0),
        ("max-rows", 64),
        ("micro-batch-tokens", 4096),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--engine-dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--update-dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument(
        "--files", choices=("last", "every"), default="last", help="steps that write weights: as fused, or as rounds do"
    )
    parser.add_argument("--update", type=json.loads, default={}, help="more of instar's update configuration, as JSON")
    args = parser.parse_args()
    if args.model is None:
        parser.error("--model or INSTAR_BENCH_MODEL names the model's folder")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("side", "out")}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the sides end with their parent
    found = measure(SIDES[args.side], settings)
    settings["model"] = args.model.name
    result = {
        "machine": machine(),
        "settings": settings,
        "rows": ratios(found),
        "summary": summary(found),
        "sides": found,
        "trl": _version("trl"),
        "transformers": _version("transformers"),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"rows": result["rows"], "summary": result["summary"]}, indent=1))
    return 0 if all(row["met"] for row in result["rows"]) else 1


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


if __name__ == "__main__":
    sys.exit(main())
