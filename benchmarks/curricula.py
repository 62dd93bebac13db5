"""Does any curriculum beat a well-tuned uniform one at equal compute? The tiny scale of SEC, every strategy at its own best rate.

    python benchmarks/curricula.py run --work runs/curricula --workers 2     about 65 CPU minutes; resumes
    python benchmarks/curricula.py table --work runs/curricula               Markdown

Phase `sweep`: every strategy at every learning rate, on two bases. Phase `final`: every strategy at the rate with the
best mean area under the curve in its sweep, on three other bases with two other seeds each, so that no run that chose a
rate is reported. A base is a warm-started policy with its own pools; seeds of one base share it. Accuracy is greedy, on
held-out tasks (split `id`), the mean over the levels. CPU time is that of the learning stages, one thread; evaluation is
not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from instar import config as configs
from instar.artifact import Policy, Rollouts, Tasks
from instar.components.catalog import DATASET_PREP, EVALUATE
from instar.contract import Context
from instar.manifest import manifest_of
from instar.pipelines.evolution import FUSED
from instar.pipelines.execute import execute
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.resident import Resident

STEPS, EVERY = 80, 20
RATES = (1e-4, 2e-4, 5e-4, 8e-4)
SWEEP = [(0, 0), (1, 1)]
FINAL = [(base, seed) for base in (2, 3, 4) for seed in (2, 3)]
STRATEGIES: dict[str, list[str]] = {
    "uniform": ["curriculum.strategy=uniform"],
    "ordered": ["curriculum.strategy=ordered", f"curriculum.steps={STEPS}"],
    "sec faithful": ["curriculum.mode=faithful", "curriculum.tau=0.2"],
    "sec fixed": ["curriculum.mode=fixed", "curriculum.tau=0.1"],
    "proximal": ["curriculum.strategy=proximal"],
    "learnability": ["curriculum.strategy=learnability"],
    "thompson": ["curriculum.strategy=thompson"],
}
Job = tuple[str, float, int, int]


def recipe_of(strategy: str, rate: float) -> Recipe:
    """Return the tiny recipe with one strategy and learning rate."""
    base = build("sec", "tiny")
    sets = [*STRATEGIES[strategy], f"update.lr={rate}", f"inner_steps={EVERY}"]
    return configs.merge(base, configs.parse_set(sets))


def prepare(work: Path, base: int) -> None:
    """Make the pools and the warm-started policy of a base, once."""
    folder = work / f"base-{base}"
    if (folder / "done").exists():
        return
    recipe = build("sec", "tiny")
    ctx = Context(evolution=f"curricula-base{base}", step=0, stage=DATASET_PREP.name, scratch=folder)
    execute(DATASET_PREP, {}, recipe.dataset_prep, ctx, folder)
    (folder / "done").touch()


def learn(work: Path, job: Job) -> dict[str, Any]:
    """Run one job; return its curve: (inner steps, rollouts, CPU seconds, accuracy per level)."""
    import torch

    torch.set_num_threads(1)
    strategy, rate, base, seed = job
    recipe, folder = recipe_of(strategy, rate), work / f"base-{base}"
    state: dict[str, Any] = {
        "tasks": Tasks(folder / "tasks"),
        "data": Rollouts(folder / "data"),
        "policy": Policy(folder / "policy"),
    }
    for artifact in state.values():
        artifact.digest = manifest_of(artifact.path, type(artifact).__name__).digest
    state |= {"reference": state["policy"], "trainer": None, "curriculum": None, "stats": None}
    resident = Resident()
    cpu, curve = 0.0, [_point(recipe, state, seed, 0, 0.0, resident)]
    with tempfile.TemporaryDirectory() as temporary:
        for step in range(0, STEPS, EVERY):
            scratch = Path(temporary) / f"{step}"
            ctx = Context(
                evolution=f"curricula-seed{seed}", step=step, stage=FUSED.name, scratch=scratch, resident=resident
            )
            done = execute(FUSED, state, recipe.fused(), ctx, scratch)
            cpu += done.perf["perf/cpu_s"]
            state |= {n: getattr(done.outs, n) for n in ("policy", "trainer", "curriculum", "stats")}
            curve.append(_point(recipe, state, seed, step + EVERY, cpu, resident))
    return {"strategy": strategy, "rate": rate, "base": base, "seed": seed, "curve": curve}


def _point(
    recipe: Recipe, state: dict[str, Any], seed: int, step: int, cpu: float, resident: Resident
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        ctx = Context(
            evolution=f"curricula-seed{seed}", step=0, stage=EVALUATE.name, scratch=Path(temporary), resident=resident
        )
        inputs = {"tasks": state["tasks"], "policy": state["policy"], "baseline": None}
        config = dataclasses.replace(recipe.evaluate, splits=("id",))
        found = execute(EVALUATE, inputs, config, ctx, Path(temporary)).outs.evaluation.read_json("summary.json")
    split = found["splits"]["id"]
    levels = {arm: values["score"] for arm, values in sorted(split["arms"].items())}
    rollouts = step * recipe.curriculum.slots * recipe.curriculum.group_size
    return {"steps": step, "rollouts": rollouts, "cpu_s": cpu, "accuracy": split["score"], "levels": levels}


def run(work: Path, workers: int) -> None:
    """Run what is missing of both phases."""
    work.mkdir(parents=True, exist_ok=True)
    for base in sorted({base for base, _ in SWEEP + FINAL}):
        prepare(work, base)
    _run_jobs(work, [(s, r, b, k) for b, k in SWEEP for s in STRATEGIES for r in RATES], workers)
    best = best_rates(load(work))
    _run_jobs(work, [(s, best[s], b, k) for b, k in FINAL for s in STRATEGIES], workers)


def _run_jobs(work: Path, jobs: Iterable[Job], workers: int) -> None:
    done = {(r["strategy"], r["rate"], r["base"], r["seed"]) for r in load(work)}
    todo = [job for job in jobs if job not in done]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, (work / "runs.jsonl").open("a") as log:
        for number, future in enumerate(as_completed([pool.submit(learn, work, job) for job in todo]), 1):
            result = future.result()
            log.write(json.dumps(result) + "\n")
            log.flush()
            last = result["curve"][-1]
            name = f"{result['strategy']} {result['rate']:g} base {result['base']} seed {result['seed']}"
            sys.stdout.write(f"{number}/{len(todo)} {name}: {last['accuracy']:.3f} in {last['cpu_s']:.0f} CPU s\n")
            sys.stdout.flush()


def load(work: Path) -> list[dict[str, Any]]:
    """Return all finished runs."""
    path = work / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def area(run: dict[str, Any]) -> float:
    """Mean accuracy over steps (trapezoids)."""
    points = run["curve"]
    return float(np.trapezoid([p["accuracy"] for p in points], [p["steps"] for p in points]) / points[-1]["steps"])


def best_rates(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the learning rate with the best mean area of each strategy's sweep."""
    out = {}
    for strategy in STRATEGIES:
        scores = {rate: np.mean([area(r) for r in _pick(runs, strategy, rate, SWEEP)]) for rate in RATES}
        out[strategy] = max(scores, key=lambda rate: scores[rate])
    return out


def _pick(
    runs: Sequence[dict[str, Any]], strategy: str, rate: float, pairs: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    found = {(r["base"], r["seed"]): r for r in runs if r["strategy"] == strategy and r["rate"] == rate}
    return [found[pair] for pair in pairs]


def at_cpu(run: dict[str, Any], seconds: float) -> float:
    """Accuracy at a CPU time, linear between evaluations."""
    points = run["curve"]
    return float(np.interp(seconds, [p["cpu_s"] for p in points], [p["accuracy"] for p in points]))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval over paired runs: Student's t with n - 1 degrees of freedom."""
    array = np.asarray(values)
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}[len(array)]
    half = quantile * float(array.std(ddof=1)) / len(array) ** 0.5
    return float(array.mean()), float(array.mean()) - half, float(array.mean()) + half


def table(work: Path) -> str:
    """Return the Markdown tables of both phases."""
    runs = load(work)
    best = best_rates(runs)
    lines = ["| strategy | " + " | ".join(f"lr {r:g}" for r in RATES) + " |", "|---|" + "---|" * len(RATES)]
    for name in STRATEGIES:
        cells = []
        for rate in RATES:
            found = _pick(runs, name, rate, SWEEP)
            text = (
                f"{np.mean([area(r) for r in found]):.3f} / {np.mean([r['curve'][-1]['accuracy'] for r in found]):.3f}"
            )
            cells.append(f"**{text}**" if rate == best[name] else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    finals = {name: _pick(runs, name, best[name], FINAL) for name in STRATEGIES}
    budget = min(r["curve"][-1]["cpu_s"] for rs in finals.values() for r in rs)
    half = STEPS // 2 // EVERY
    rollouts = finals["uniform"][0]["curve"][-1]["rollouts"]
    lines += [
        "",
        f"Equal steps and rollouts: {STEPS} steps, {rollouts:,} rollouts. Equal CPU: {budget:.1f} s, the fastest run's total.",
        "",
        f"| strategy | lr | accuracy, step {half * EVERY} | accuracy, step {STEPS} | minus uniform, equal steps | "
        "minus uniform, equal CPU | area minus uniform | CPU s per run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    uniform = finals["uniform"]
    for name, found in finals.items():
        ends = [r["curve"][-1]["accuracy"] for r in found]
        gaps = [
            [a["curve"][-1]["accuracy"] - u["curve"][-1]["accuracy"] for a, u in zip(found, uniform, strict=True)],
            [at_cpu(a, budget) - at_cpu(u, budget) for a, u in zip(found, uniform, strict=True)],
            [area(a) - area(u) for a, u in zip(found, uniform, strict=True)],
        ]
        shown = ["" if name == "uniform" else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(g)) for g in gaps]
        middle = np.mean([r["curve"][half]["accuracy"] for r in found])
        mean, low, high = interval(ends)
        cpu = np.mean([r["curve"][-1]["cpu_s"] for r in found])
        lines.append(
            f"| {name} | {best[name]:g} | {middle:.3f} | {mean:.3f} [{low:.3f}, {high:.3f}] | {' | '.join(shown)} | {cpu:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--work", type=Path, default=Path("runs/curricula"))
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.what == "run":
        run(args.work, args.workers)
    sys.stdout.write(table(args.work))


if __name__ == "__main__":
    main()
