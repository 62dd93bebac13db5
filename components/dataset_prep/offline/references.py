"""The two returns whose scores are 0 and 1, and the return that a policy is asked for, where none are published.

| setting | where it is from |
|---|---|
| score 0 | `random_return`, else the published one, else measured: the mean return of 20 episodes of uniformly random actions |
| score 1 | `expert_return`, else the published one, else the mean return of the best data (`best_return`) |
| asked return | the published one, else the mean return of the best data |
| probe | the published one, else half way between the random return and the asked one |
| return scale | the published one, else the largest absolute return in the data |

The label of a score says which ones were taken, for example `MountainCarContinuous-v0, 0 random actions (measured, 20 episodes), 1
the best tenth of the data`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from instar.components.dataset_prep.offline.episodes import Episodes
from instar.components.dataset_prep.offline.simulate import play
from instar.components.dataset_prep.offline.sources import FilesSource
from instar.components.dataset_prep.offline.tasks import ENVIRONMENTS, Environment, Simulator
from instar.components.environments import open_environment
from instar.errors import ConfigError

RANDOM_EPISODES = 20
Seeds = Callable[[str], int]


def with_references(simulator: Simulator, episodes: Episodes, source: Any, seeds: Seeds) -> Environment:
    """Return the environment with references from the settings of `source`, from the published table, or from the data.

    Raises `ConfigError` when the expert's return is not above the random one, because a score would then mean nothing.
    """
    given_random, given_expert = _given(source)
    published = ENVIRONMENTS.get(simulator.id)
    if published is not None and (given_random, given_expert) == (None, None):
        return published
    best, best_label = best_return(episodes)
    random, random_label = _random(simulator, given_random, published, seeds)
    expert, expert_label = _expert(given_expert, published, (best, best_label))
    if not expert > random:
        raise ConfigError(
            expected="an expert return above the random return, because their scores are 1 and 0",
            found=f"{expert:g} ({expert_label}) and {random:g} ({random_label})",
            where="dataset_prep.source",
            action="set dataset_prep.source.random_return and dataset_prep.source.expert_return",
        )
    references = f"0 {random_label}, 1 {expert_label}"
    if published is not None:
        return dataclasses.replace(published, random=random, expert=expert, references=references)
    return Environment(
        **dataclasses.asdict(simulator),
        random=random,
        expert=expert,
        references=references,
        scale=float(np.abs(episodes.returns).max()) or 1.0,
        targets=(best,),
        probes=((random + best) / 2,),
    )


def best_return(episodes: Episodes) -> tuple[float, str]:
    """Return the mean return of the best data, and what that is.

    It is the best tier where the data have several, and otherwise the best tenth of the episodes, at least one.
    """
    returns, tiers = episodes.returns, dict.fromkeys(episodes.tier.tolist())
    if len(tiers) > 1:
        means = {tier: float(returns[episodes.tier == tier].mean()) for tier in tiers}
        tier = max(means, key=means.__getitem__)
        return means[tier], f"the best tier of the data ({tier})"
    count = max(1, len(returns) // 10)
    return float(np.sort(returns)[-count:].mean()), "the best tenth of the data"


def random_episodes(env: str, seeds: Seeds, episodes: int = RANDOM_EPISODES) -> Episodes:
    """Return episodes of uniformly random actions in the simulator."""
    space = open_environment(env).action_space
    generator = np.random.default_rng(seeds("random actions"))
    starts = (seeds(f"random/{number}") % 2**31 for number in range(episodes))
    return play(
        env,
        lambda _: generator.uniform(space.low, space.high).astype(np.float32),
        starts,
        tier="random",
        behaviour="random",
        episodes=episodes,
    )


def _given(source: Any) -> tuple[float | None, float | None]:
    return (source.random_return, source.expert_return) if isinstance(source, FilesSource) else (None, None)


def _random(
    simulator: Simulator, given: float | None, published: Environment | None, seeds: Seeds
) -> tuple[float, str]:
    if given is not None:
        return given, "random_return"
    if published is not None:
        return published.random, f"as published ({published.references})"
    measured = float(random_episodes(simulator.id, seeds).returns.mean())
    return measured, f"random actions (measured, {RANDOM_EPISODES} episodes)"


def _expert(given: float | None, published: Environment | None, best: tuple[float, str]) -> tuple[float, str]:
    if given is not None:
        return given, "expert_return"
    return (published.expert, f"as published ({published.references})") if published is not None else best
