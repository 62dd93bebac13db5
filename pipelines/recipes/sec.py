"""SEC: Self-Evolving Curriculum for LLM reasoning (arXiv 2505.14970).

A bandit over arms draws every prompt slot; its reward is the mean absolute advantage that the policy update saw in the arm.
`tiny` sorts digits with a character model made here; `single` and `paper` train Qwen2.5 on Countdown as published.
"""

from __future__ import annotations

from instar.components.curriculum.config import SecConfig
from instar.components.dataset_prep import config as prep
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.evaluate.config import AnswerConfig
from instar.components.reward.config import VerifyConfig
from instar.components.rollout.config import SampleConfig
from instar.components.update.presets import preset
from instar.pipelines.recipe import Recipe, Scale


def sec(scale: Scale, model: str | None) -> Recipe:
    """Self-Evolving Curriculum: a bandit over difficulty arms, paid in absolute advantage (arXiv 2505.14970)."""
    return tiny() if scale == "tiny" else published(scale, model)


def tiny() -> Recipe:
    """Two CPU cores, minutes: learn to sort 3 to 16 digits from a start that can sort 3 and 4."""
    scratch = prep.FromScratch(
        model=CharModelConfig(alphabet="0123456789=", hidden=64, layers=3, heads=4, intermediate=128),
        warm_start=WarmStartConfig(arms=("sort-03", "sort-04"), steps=300, batch=64),
    )
    arms = prep.sorting_arms(range(3, 17), ood=range(17, 19), train=2000, val=64, test=64)
    answers = AnswerConfig(splits=("val",), style="line", tasks_per_arm=64, samples=0, greedy=True, max_new_tokens=20)
    tests = AnswerConfig(
        splits=("id", "ood"), style="line", tasks_per_arm=64, samples=4, greedy=True, max_new_tokens=20
    )
    return Recipe(
        name="sec", scale="tiny", paper="arXiv 2505.14970", clock="fused", iterations=36, inner_steps=10, threads=1,
        dataset_prep=prep.TextConfig(pools=prep.PoolsConfig(arms=arms, template="terse"), initial=scratch),
        curriculum=SecConfig(mode="fixed", tau=0.1, prompts=64, group_size=8),
        rollout=SampleConfig(max_new_tokens=20), reward=VerifyConfig(style="line"), evaluate=answers, test=tests,
        update=preset("sec", minibatches=1, lr=5e-4, betas=(0.9, 0.98), warmup_steps=5),
    )  # fmt: skip


def published(scale: Scale, model: str | None) -> Recipe:
    """Countdown with the settings of section 4 and the released scripts; `single` is shorter and smaller."""
    base, steps, prompts, length = (
        ("Qwen/Qwen2.5-3B", 240, 256, 4096) if scale == "paper" else ("Qwen/Qwen2.5-0.5B", 60, 64, 1024)
    )
    pools = prep.PoolsConfig(arms=prep.countdown_arms(), template="base_chat")
    return Recipe(
        name="sec", scale=scale, paper="arXiv 2505.14970", clock="fused", iterations=steps // 10, inner_steps=10,
        dataset_prep=prep.TextConfig(pools=pools, initial=prep.Checkpoint(path=model or base)),
        curriculum=SecConfig(mode="faithful", alpha=0.5, tau=1.0, prompts=prompts, group_size=8),  # Table S2
        rollout=SampleConfig(max_new_tokens=length), reward=VerifyConfig(format_reward=0.1),  # 1 right, 0.1 formatted, 0 otherwise
        update=preset("sec", dtype="bfloat16"),  # 4 minibatches, lr 1e-6, clip 0.2, no KL
        evaluate=AnswerConfig(splits=("val",), tasks_per_arm=50, samples=8, max_new_tokens=length),  # every 10 steps, T = 1
        test=AnswerConfig(splits=("id", "ood"), tasks_per_arm=200, samples=8, max_new_tokens=length),
    )  # fmt: skip
