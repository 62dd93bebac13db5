"""Does SPARK do what its paper says? The tiny scale against GRPO with equal solve prompts and against GRPO with equal rollouts.

    python benchmarks/spark_claims.py run --workers 2     resumes from benchmarks/results/spark_claims.jsonl; prints the tables
    python benchmarks/spark_claims.py table               Markdown
    ... --rows long                                       rows of up to 28 digits with 1 to 9 ones, where solving has no ceiling

A run is one evolution of the tiny scale without a gate: every arm makes the same number of updates, and the policy after the last
one is tested. Arms of one seed share tasks, anchors and the warm-started policy; differences are paired by seed. All arms, and the
policy before the first update, get the same reflection at test time. Accuracy is greedy, on tasks that chose nothing (`id`);
"reflected" is behind the gate of the recipe, "always" lets every verdict count as published. Long rows are those that the warm
start did not teach. With `--rows long` a fourth arm weighs the generated tasks with .3 in the loss. CPU seconds are those of
learning, one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from instar import config as configs
from instar.artifact import Evaluation, Policy, Tasks
from instar.components.catalog import EVALUATE
from instar.components.dataset_prep.config import FromScratch, TextConfig
from instar.components.generated.templates import KINDS
from instar.contract import Context
from instar.pipelines.evolution import evolve
from instar.pipelines.execute import execute
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import spark
from instar.workspace import Workspace, create_workspace

RESULTS = Path(__file__).parent / "results"
FILES = {"recipe": RESULTS / "spark_claims.jsonl", "long": RESULTS / "spark_claims_long.jsonl"}
Job = tuple[str, int]
GRPO: dict[str, Any] = {"curriculum": {"generated": None}, "reward": {"recycle": None}}
LIGHT = "SPARK, generated tasks at .3"
LONG = (*spark.TAUGHT, 12, 15, 18, 21, 24, 28)
"""Lengths of the rows of `--rows long`."""
ARMS = ("SPARK", LIGHT, "GRPO, same solve prompts", "GRPO, as many rollouts")
MEASURES = {
    "plain": "plain accuracy",
    "reflected": "reflected",
    "always": "reflected, always",
    "anchors": "anchors, balanced accuracy",
    "anchors_untaught": "anchors on long rows",
    "own_f1": "own answers, F1",
    "own_balanced": "own answers, balanced accuracy",
}


def recipe_of(arm: str, steps: int, rows: str) -> Recipe:
    """Return the tiny recipe of one arm with `steps` updates (0: as many as the recipe has), evaluated once at the end."""
    base = spark.tiny()
    if rows == "long":
        base = dataclasses.replace(base, dataset_prep=spark.counting(LONG, least=1, most=9))
    total = steps or base.iterations * base.inner_steps
    changes: dict[str, Any] = {
        "iterations": 1,
        "inner_steps": total,
        "gate": {"select": "last"},
    }  # what got worse stays
    if arm == LIGHT:
        changes["update"] = {"arm_weights": dict.fromkeys(KINDS, 0.3)}
    elif arm != "SPARK":
        changes |= GRPO
    recipe = configs.merge(base, changes)
    generated = base.curriculum.generated
    if arm == "GRPO, as many rollouts" and generated is not None:
        prompts = base.curriculum.prompts + generated.prompts
        if generated.mode == "alternate":  # every second update has generated prompts alone
            prompts = (base.curriculum.prompts + generated.prompts + 1) // 2
        recipe = configs.merge(recipe, {"curriculum": {"prompts": prompts}})
    return recipe


def learn(job: Job, steps: int, rows: str) -> dict[str, Any]:
    """Run one job; return what the policies before and after it can do, rollouts and CPU seconds."""
    import torch

    torch.set_num_threads(1)
    arm, seed = job
    recipe = recipe_of(arm, steps, rows)
    with tempfile.TemporaryDirectory() as temporary:
        workspace = create_workspace(Path(temporary), f"spark-claims-{seed}", None)
        open_evolution(workspace, recipe, seed)
        outcome = evolve(LocalRunner(workspace, threads=1), recipe)
        fused = [e for e in workspace.ledger.of("stage") if e.body["stage"] == "fused"]
        rollouts = sum(e.body["metrics"]["reward/num_rollouts"] * recipe.inner_steps for e in fused)
        before, after = (
            tested(workspace, recipe, seed, state.policy, outcome.state.tasks)
            for state in (dataclasses.replace(outcome.state, policy=outcome.state.reference), outcome.state)
        )
        cpu = sum(float(e.time["perf/cpu_s"]) for e in fused)
    return {
        "arm": arm,
        "seed": seed,
        "steps": recipe.inner_steps,
        "rollouts": rollouts,
        "cpu_s": cpu,
        "before": before,
        "after": after,
    }


def tested(workspace: Workspace, recipe: Recipe, seed: int, policy: Policy, tasks: Tasks) -> dict[str, Any]:
    """Return the measures of one policy on pool `id`, once behind the gate of the reflection and once without it."""
    out: dict[str, Any] = {}
    for mode in ("gated", "published"):
        config = configs.merge(recipe.test, {"reflect": {"mode": mode}})
        with tempfile.TemporaryDirectory() as temporary:
            ctx = Context(evolution=f"spark-claims-{seed}", step=0, stage=EVALUATE.name, scratch=Path(temporary))
            inputs = {
                "tasks": Tasks(workspace.cas.get(tasks.digest), tasks.digest),
                "policy": Policy(workspace.cas.get(policy.digest), policy.digest),
                "baseline": None,
            }
            made = execute(EVALUATE, inputs, config, ctx, Path(temporary)).outs.evaluation
            found = made.read_json("summary.json")
            out["anchors_untaught"] = untaught(made, Tasks(workspace.cas.get(tasks.digest), tasks.digest), recipe)
        split, judge = found["splits"]["id"], found["judge"]
        reflected, own = split["reflected"], split["own"]
        name = "reflected" if mode == "gated" else "always"
        out |= {name: reflected["score"], f"{name}_calls": reflected["calls_mean"]}
        out |= {
            f"{name}_wrong_to_right": reflected["wrong_to_right"],
            f"{name}_right_to_wrong": reflected["right_to_wrong"],
        }
        if mode == "gated":
            out |= {"plain": split["score"], "gate_open": bool(reflected["gate"]["open"]), "own_f1": own["f1"]}
            out |= {"own_balanced": own["balanced_accuracy"], "anchors": judge["balanced_accuracy"]}
            out |= {kind: values["balanced_accuracy"] for kind, values in judge["kinds"].items()}
            out["levels"] = {arm: values["score"] for arm, values in sorted(split["arms"].items())}
    return out


def untaught(made: Evaluation, tasks: Tasks, recipe: Recipe) -> float:
    """Return the balanced accuracy on anchors of levels that the warm start never saw: the mean, since units hold both labels."""
    assert isinstance(recipe.dataset_prep, TextConfig) and isinstance(recipe.dataset_prep.initial, FromScratch)
    taught = recipe.dataset_prep.initial.warm_start.arms
    rows = tasks.read()
    easy = {row.level for row in rows if row.arm in taught}
    level = {row.task_id: row.level for row in rows if row.split == "anchor"}
    return float(
        np.mean([row.score or 0.0 for row in made.read() if row.split == "anchor" and level[row.task_id] not in easy])
    )


def run(results: Path, workers: int, seeds: int, steps: int, rows: str) -> None:
    """Run what is missing."""
    results.parent.mkdir(parents=True, exist_ok=True)
    arms = [arm for arm in ARMS if arm != LIGHT or rows == "long"]
    length = {arm: recipe_of(arm, steps, rows).inner_steps for arm in arms}
    done = {(r["arm"], r["seed"]) for r in load(results) if r["steps"] == length[r["arm"]]}
    todo = [(arm, seed) for seed in range(seeds) for arm in arms if (arm, seed) not in done]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, results.open("a") as log:
        futures = [pool.submit(learn, job, steps, rows) for job in todo]
        for number, future in enumerate(as_completed(futures), 1):
            if future.exception() is not None:  # else the pool would finish every other run before it says so
                pool.shutdown(wait=False, cancel_futures=True)
            found = future.result()
            log.write(json.dumps(found, sort_keys=True) + "\n")
            log.flush()
            after = found["after"]
            sys.stdout.write(
                f"{number}/{len(todo)} {found['arm']}, seed {found['seed']}: plain {after['plain']:.3f}, reflected "
                f"{after['reflected']:.3f}, anchors {after['anchors']:.3f} in {found['cpu_s']:.0f} CPU s\n"
            )
            sys.stdout.flush()


def load(results: Path) -> list[dict[str, Any]]:
    """Return all finished runs."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval over seeds: Student's t with n - 1 degrees of freedom."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return f"{array.mean():.3f}"
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}[len(array)]
    half = quantile * float(array.std(ddof=1)) / len(array) ** 0.5
    return f"{array.mean():+.3f} [{array.mean() - half:+.3f}, {array.mean() + half:+.3f}]"


def table(results: Path) -> str:
    """Return two Markdown tables: what every arm reaches, and SPARK minus the others, paired by seed."""
    runs = {(r["arm"], r["seed"]): r for r in load(results)}
    if not runs:
        return "no runs yet\n"
    arms = [a for a in ARMS if any(a == arm for arm, _ in runs)]
    head = ["arm", "seeds", *MEASURES.values(), "calls, reflected", "rollouts", "CPU s"]
    lines = [_row(head), _row(["---"] * len(head))]
    base = [r["before"] for r in runs.values() if r["arm"] == arms[0]]
    lines.append(_row(["before the first update", len(base), *_means(base), "", ""]))
    for arm in arms:
        mine = [r for (name, _), r in sorted(runs.items()) if name == arm]
        costs = [f"{np.mean([r['rollouts'] for r in mine]):,.0f}", f"{np.mean([r['cpu_s'] for r in mine]):.0f}"]
        lines.append(_row([arm, len(mine), *_means([r["after"] for r in mine]), *costs]))
    head = ["SPARK minus", *MEASURES.values()]
    lines += ["", _row(head), _row(["---"] * len(head)), _row(["before the first update", *_gaps(runs, None)])]
    lines += [_row([arm, *_gaps(runs, arm)]) for arm in arms if arm != "SPARK"]
    return "\n".join(lines) + "\n"


def _gaps(runs: dict[Job, dict[str, Any]], other: str | None) -> list[str]:
    """Return the paired differences of every measure to another arm, or to the policy that SPARK started from."""
    pairs = []
    for (arm, seed), found in sorted(runs.items()):
        against = found["before"] if other is None else runs.get((other, seed), {}).get("after")
        if arm == "SPARK" and against is not None:
            pairs.append((found["after"], against))
    both = {name: [(a[name], b[name]) for a, b in pairs if None not in (a[name], b[name])] for name in MEASURES}
    return [interval([a - b for a, b in values]) if values else "" for values in both.values()]


def _means(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the mean of every measure, and of the calls per question behind the gate."""
    cells = []
    for name in (*MEASURES, "reflected_calls"):
        values = [f[name] for f in found if f[name] is not None]
        cells.append(f"{np.mean(values):.3f}" if values else "")
    return cells


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--results", type=Path, help="default: the committed file of these rows")
    parser.add_argument("--rows", choices=sorted(FILES), default="recipe")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="updates per run; 0 takes the recipe's")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = args.results or FILES[args.rows]
    if args.what == "run":
        run(results, args.workers, args.seeds, args.steps, args.rows)
    sys.stdout.write(table(results))


if __name__ == "__main__":
    main()
