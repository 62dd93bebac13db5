"""Does Decision Mamba do what its paper says? Arms with equal data, seeds and updates, on several qualities of data.

    python benchmarks/offline_claims.py run --work runs/claims --workers 2      resumes; prints the tables
    python benchmarks/offline_claims.py run --work runs/claims --hopper DIR     adds Hopper-v5, from `instar data`
    python benchmarks/offline_claims.py table --work runs/claims                Markdown

A run is one evolution of the tiny scale: six iterations of 100 updates of 64 windows. Arms of one condition and seed share
data, start states and, where the architecture is the same, first weights; differences are paired by seed. The score is that
of the last policy on start states that chose nothing, 0 a random policy and 100 the expert. CPU seconds are those of the
rollout and update stages, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from instar import config as configs
from instar.artifact import Evaluation
from instar.pipelines.evolution import evolve
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.workspace import create_workspace

Changes = dict[str, Any]
BC: Changes = {"dataset_prep": {"arch": {"strategy": "bc"}}, "reward": {"schedule": "none"}, "rollout": {"act": False}}
DT: Changes = {**BC, "dataset_prep": {"arch": {"strategy": "decision_transformer"}}}
LINEAR: Changes = {
    **BC,
    "dataset_prep": {"arch": {"strategy": "decision_transformer", "encoder": "linear", "head": "linear"}},
}
PLAIN: Changes = {"reward": {"schedule": "none"}, "rollout": {"act": False}}
MORE = 2
"""How many times the updates of Decision Mamba the arm `DT, more updates` makes: about its CPU time."""


def arch(**changes: Any) -> Changes:
    """Return Decision Mamba without self-evolution and with other switches."""
    return {**PLAIN, "dataset_prep": {"arch": changes}}


ARMS: dict[str, Changes] = {
    "DM": {},
    "DM, steep weight": {"reward": {"stages": 6}},
    "DM, fixed weight": {"reward": {"schedule": "fixed"}},
    "DM, no self-evolution": PLAIN,
    "DM, no fine scan": arch(fine=False),
    "DM, no auxiliary heads": arch(auxiliary=False),
    "DM, shared gate": arch(fusion="shared_gate"),
    "DM, released grouping": arch(grouping="released"),
    "DM, bandit": {
        **PLAIN,
        "curriculum": {"strategy": "sec", "mode": "fixed", "signal": "loss_change", "tau": 0.02, "q0": 0.1},
    },
    "DT": DT,
    "DT, linear encoders": LINEAR,
    "DT, more updates": {**DT, "curriculum": {"prompts": MORE * 6400}, "update": {"warmup_steps": 50}},
    "BC": BC,
    "BC, filtered": {**BC, "curriculum": {"strategy": "best", "share": 0.3}},
}
MAIN = ("DM", "DM, no self-evolution", "DT", "DT, linear encoders", "BC")
SWING: dict[str, Sequence[float]] = {"poor": (1.0, 0.8), "mixed": (1.0, 0.7, 0.4), "good": (0.4, 0.2)}
NOISE = {"noise 30 %": (0.3, 1.0), "noise 60 %": (0.6, 1.0)}
HOPPER = {"random": ("random",), "random + replay": ("random", "medium-replay"), "replay": ("medium-replay",)}
Job = tuple[str, str, int]


def conditions(hopper: str) -> dict[str, tuple[Changes, Sequence[str]]]:
    """Return name -> (changes that make the data, arms that run on it)."""
    found: dict[str, tuple[Changes, Sequence[str]]] = {}
    for name, rates in SWING.items():
        source = {"strategy": "pendulum", "rates": list(rates), "episodes": 300 // len(rates)}
        found[f"Pendulum-v1 {name}"] = ({"dataset_prep": {"source": source}}, tuple(ARMS) if name == "mixed" else MAIN)
    for name, (share, std) in NOISE.items():
        noise = {"noise": {"share": share, "std": std}}
        found[f"Pendulum-v1 mixed, {name}"] = (
            {"dataset_prep": noise},
            ("DM", "DM, fixed weight", "DM, no self-evolution"),
        )
    for name, tiers in HOPPER.items() if hopper else ():
        source = {"strategy": "episodes", "path": hopper, "tiers": list(tiers)}
        found[f"Hopper-v5 {name}"] = ({"dataset_prep": {"source": source, "arch": {"window": 20}}}, MAIN)
    return found


def recipe_of(arm: str, changes: Changes) -> Recipe:
    """Return the tiny recipe of one arm on one condition; what is not reported is evaluated on two episodes."""
    recipe = configs.merge(build("decision_mamba", "tiny"), changes)
    recipe = configs.merge(recipe, ARMS[arm])
    return configs.merge(recipe, {"dataset_prep": {"val_episodes": 2}, "evaluate": {"probes": False, "min_pairs": 2}})


def learn(hopper: str, job: Job) -> dict[str, Any]:
    """Run one job; return its scores and CPU seconds."""
    import torch

    torch.set_num_threads(1)
    condition, arm, seed = job
    recipe = recipe_of(arm, conditions(hopper)[condition][0])
    with tempfile.TemporaryDirectory() as temporary:
        workspace = create_workspace(Path(temporary), f"claims-seed{seed}", None)
        open_evolution(workspace, recipe, seed)
        outcome = evolve(LocalRunner(workspace, threads=1), recipe)
        tested = Evaluation(workspace.cas.get(outcome.champion_test.digest)).read_json("summary.json")
        spent = [
            float(e.time["perf/cpu_s"])
            for e in workspace.ledger.of("stage")
            if e.body["stage"] in ("rollout", "update")
        ]
        updates = sum(e.body["metrics"].get("updates", 0.0) for e in workspace.ledger.of("stage"))
    score, probe = tested["splits"]["id"]["score"], tested["probes"]["probe"]["score"]
    return {
        "condition": condition,
        "arm": arm,
        "seed": seed,
        "score": 100 * score,
        "probe": 100 * probe,
        "cpu_s": sum(spent),
        "updates": updates,
    }


def jobs(hopper: str, seeds: int) -> Iterator[Job]:
    """Yield all jobs, first seeds first."""
    for seed in range(seeds):
        for condition, (_, arms) in conditions(hopper).items():
            for arm in arms:
                yield condition, arm, seed


def run(work: Path, workers: int, seeds: int, hopper: str) -> None:
    """Run what is missing."""
    work.mkdir(parents=True, exist_ok=True)
    done = {(r["condition"], r["arm"], r["seed"]) for r in load(work)}
    todo = [job for job in jobs(hopper, seeds) if job not in done]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, (work / "runs.jsonl").open("a") as log:
        for number, future in enumerate(as_completed([pool.submit(learn, hopper, job) for job in todo]), 1):
            found = future.result()
            log.write(json.dumps(found) + "\n")
            log.flush()
            name = f"{found['condition']}, {found['arm']}, seed {found['seed']}"
            sys.stdout.write(f"{number}/{len(todo)} {name}: {found['score']:.1f} in {found['cpu_s']:.0f} CPU s\n")
            sys.stdout.flush()


def load(work: Path) -> list[dict[str, Any]]:
    """Return all finished runs."""
    path = work / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval over seeds: Student's t with n - 1 degrees of freedom."""
    array = np.asarray(values)
    if len(array) < 2:
        return f"{array.mean():.1f}"
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}[len(array)]
    half = quantile * float(array.std(ddof=1)) / len(array) ** 0.5
    return f"{array.mean():.1f} [{array.mean() - half:.1f}, {array.mean() + half:.1f}]"


HEAD = "| arm | seeds | score at the target | minus DM | minus DM without self-evolution | score at the probe | updates | CPU s |"


def table(work: Path) -> str:
    """Return one Markdown table per condition: scores, paired differences, and cost."""
    runs, lines = load(work), list[str]()
    for condition in dict.fromkeys(r["condition"] for r in runs):
        found = {(r["arm"], r["seed"]): r for r in runs if r["condition"] == condition}
        lines += ["", f"**{condition}**", "", HEAD, "|---" * HEAD.count(" | ") + "|---|"]
        for arm in (a for a in ARMS if any(a == other for other, _ in found)):
            mine = [r for (name, _), r in sorted(found.items()) if name == arm]
            gaps = [_gap(found, reference, arm) for reference in ("DM", "DM, no self-evolution")]
            shown = [interval([r[key] for r in mine]) for key in ("score", "probe")]
            cpu = np.mean([r["cpu_s"] for r in mine])
            cells = [arm, str(len(mine)), shown[0], *gaps, shown[1], f"{mine[0]['updates']:.0f}", f"{cpu:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).strip() + "\n"


def _gap(found: dict[tuple[str, int], dict[str, Any]], reference: str, arm: str) -> str:
    pairs = [
        run["score"] - found[reference, seed]["score"]
        for (name, seed), run in found.items()
        if name == arm and (reference, seed) in found
    ]
    return "" if arm == reference or not pairs else interval(pairs)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--work", type=Path, default=Path("runs/claims"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hopper", default="", help="folder that `instar data Hopper-v5` made")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.what == "run":
        run(args.work, args.workers, args.seeds, args.hopper)
    sys.stdout.write(table(args.work))


if __name__ == "__main__":
    main()
