"""The state of a recording job: its settings, the log of its training, the best policy so far, and the tiers that it has
written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instar import seeds
from instar.components.dataset_prep.offline.episodes import Episodes, Singles
from instar.components.dataset_prep.offline.minari import write_minari
from instar.components.dataset_prep.offline.simulate import Log, play
from instar.components.dataset_prep.offline.table import write_parquet
from instar.components.dataset_prep.offline.tasks import ENVIRONMENTS, find_simulator
from instar.components.dataset_prep.offline.validate import validate
from instar.components.environments import open_environment
from instar.errors import ConfigError
from instar.store_files import storage_errors

if TYPE_CHECKING:
    from instar.components.dataset_prep.offline.sac import Sac

Act = Callable[[Singles], Singles]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to record.

    `medium_return` None means one third of the way from the random to the expert reference. `expert_return` None means nine tenths
    of it. Both stay unknown for an environment without published references. Training ends when the policy reaches the expert
    return, after `steps`, or after `seconds` of wall time.
    """

    env: str
    steps: int = 300_000
    seed: int = 0
    medium_return: float | None = None
    expert_return: float | None = None
    tier_steps: int = 50_000
    evaluate_every: int = 5_000
    evaluate_episodes: int = 8
    seconds: float | None = None
    sac: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers below 1, and a time that is not positive."""
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(
                expected="seconds > 0", found=str(self.seconds), where="seconds", action="leave it out for no limit"
            )
        for name in ("steps", "tier_steps", "evaluate_every", "evaluate_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    expected=f"{name} >= 1", found=str(getattr(self, name)), where=name, action="choose a larger number"
                )

    def key(self, item: str) -> int:
        """Return the seed for one use of random numbers in this job."""
        return seeds.seed(f"make-data/{self.env}", 0, str(self.seed), item)


class Run:
    """State of one job. `best` is (mean return, step, actor weights) of the best evaluation."""

    def __init__(self, job: Job, out: Path, say: Callable[[str], None], learner: Sac) -> None:
        self.job, self.out, self.say, self.learner = job, out, say, learner
        self.began, self.cpu = time.monotonic(), time.process_time()
        self.log = Log(job.env)
        self.space = open_environment(job.env).action_space
        self.tiers: dict[str, Episodes] = {}
        self.notes: dict[str, str] = {}
        self.curve: list[dict[str, float]] = []
        self.best: tuple[float, int, list[Any]] = (float("-inf"), 0, [])

    def sampled(self, item: str) -> Act:
        """Return the policy with its exploration noise. Its actions are in the units of the environment."""
        rng = np.random.default_rng(self.job.key(item))
        return lambda state: scaled(self.learner.act(state, rng), self.space.low, self.space.high)

    def play(self, act: Act, tier: str, behaviour: str) -> Episodes:
        """Return whole episodes of at least `tier_steps` steps."""
        starts = (self.job.key(f"{tier}/{k}") for k in range(self.job.tier_steps))
        return play(self.job.env, act, starts, tier=tier, behaviour=behaviour, steps=self.job.tier_steps)

    def evaluate(self, step: int) -> float:
        """Return the mean return of a few episodes, report it, and keep the weights if they are the best so far."""
        count = self.job.evaluate_episodes
        starts = (self.job.key(f"evaluate/{step}/{k}") for k in range(count))
        returns = play(self.job.env, self.sampled(f"{step}"), starts, tier="-", behaviour="-", episodes=count).returns
        score = float(returns.mean())
        if score > self.best[0]:
            self.best = (score, step, [w.detach().clone() for w in self.learner.actor])
        seconds = time.monotonic() - self.began
        self.curve.append({"step": step, "return": score, "cpu_seconds": time.process_time() - self.cpu})
        left = (self.job.steps - step) * seconds / step
        self.say(
            f"{self.job.env} step {step}/{self.job.steps}, {self.log.num_episodes} episodes, return {score:.0f} "
            f"+- {returns.std():.0f}, {step / seconds:.0f} steps/s, {left / 60:.0f} min left"
        )
        return score

    def record_medium(self, why: str) -> None:
        """Write the training run so far, and the medium tier, which the present weights play."""
        self.save("medium-replay", self.log.episodes())
        self.save("medium", self.play(self.sampled("medium"), "medium", f"sac@{self.log.num_steps}"))
        self.notes["medium"] = why

    def restore(self) -> None:
        """Give the learner the weights of the best evaluation. If there was no evaluation, it keeps its own."""
        for weight, best in zip(self.learner.actor, self.best[2], strict=False):
            weight.detach().copy_(best)

    def save(self, tier: str, episodes: Episodes) -> None:
        """Check and write one tier. Its file appears whole or not at all."""
        validate(episodes, max_steps=find_simulator(self.job.env).max_steps, where=tier)
        path = self.out / f"{tier}.parquet"
        with storage_errors(path):
            try:
                write_parquet(episodes, path.with_suffix(".tmp"))
                path.with_suffix(".tmp").replace(path)
            finally:
                path.with_suffix(".tmp").unlink(missing_ok=True)
        self.tiers[tier] = episodes

    def references(self) -> tuple[float, float]:
        """Return the published references, or else the mean returns of the random tier and of the best tier."""
        published = ENVIRONMENTS.get(self.job.env)
        if published is not None:
            return published.random, published.expert
        means = {tier: float(episodes.returns.mean()) for tier, episodes in self.tiers.items()}
        return means["random"], max(means.values())

    def summary(self) -> dict[str, Any]:
        """Write the Minari folders and `data.json`. Return the content of `data.json`."""
        references = self.references()
        content: dict[str, Any] = {"job": asdict(self.job), "curve": self.curve, "notes": self.notes, "tiers": {}}
        for tier, episodes in self.tiers.items():
            name = f"{self.job.env.split('-')[0].lower()}/{tier}-v0"
            write_minari(episodes, self.out / "minari", name, references=references, algorithm="soft actor-critic")
            content["tiers"][tier] = {
                "episodes": episodes.num_episodes,
                "steps": episodes.num_steps,
                "mean_return": float(episodes.returns.mean()),
                "std_return": float(episodes.returns.std()),
            }
        content |= {"cpu_seconds": time.process_time() - self.cpu, "seconds": time.monotonic() - self.began}
        with storage_errors(self.out):
            (self.out / "data.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        return content


def scaled(action: Singles, low: Singles, high: Singles) -> Singles:
    """Map an action from [-1, 1] to the action box."""
    return np.clip(low + (action + 1.0) * 0.5 * (high - low), low, high).astype(np.float32)
