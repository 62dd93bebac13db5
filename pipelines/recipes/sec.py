"""SEC: Self-Evolving Curriculum for LLM reasoning (arXiv 2505.14970).

A bandit over arms draws every prompt slot; its reward is the mean absolute advantage that the policy update saw in the arm."""

from __future__ import annotations

from instar.components.curriculum.config import SecConfig
from instar.components.dataset_prep import config as prep
from instar.components.dataset_prep.ladders import FACTS, facts, sorter
from instar.components.evaluate.config import AnswerConfig
from instar.components.reward.config import VerifyConfig
from instar.components.rollout.config import BF16, SampleConfig
from instar.components.update.presets import preset
from instar.pipelines.recipe import Recipe, Scale


def sec(scale: Scale, model: str | None) -> Recipe:
    """Self-Evolving Curriculum: a bandit over difficulty arms, paid in absolute advantage (arXiv 2505.14970)."""
    return tiny() if scale == "tiny" else small(model) if scale == "small" else published(scale, model)


def tiny() -> Recipe:
    """Two CPU cores, minutes: learn to sort 3 to 16 digits from a start that can sort 3 and 4."""
    arms = prep.sorting_arms(range(3, 17), ood=range(17, 19), train=2000, val=64, test=64)
    return Recipe(
        name="sec", scale="tiny", paper="arXiv 2505.14970", clock="fused", iterations=36, inner_steps=10, threads=1,
        dataset_prep=prep.TextConfig(pools=prep.PoolsConfig(arms=arms, template="terse"), initial=sorter(("sort-03", "sort-04"))),
        curriculum=SecConfig(mode="fixed", tau=0.1, prompts=64, group_size=8), reward=VerifyConfig(style="line"),
        rollout=SampleConfig(max_new_tokens=20), update=preset("sec", minibatches=1, lr=5e-4, betas=(0.9, 0.98), warmup_steps=5),
        evaluate=AnswerConfig(splits=("val",), style="line", tasks_per_arm=64, samples=0, greedy=True, max_new_tokens=20),
        test=AnswerConfig(splits=("id", "ood"), style="line", tasks_per_arm=64, samples=4, greedy=True, max_new_tokens=20),
    )  # fmt: skip


def small(model: str | None) -> Recipe:
    """Two CPU cores, minutes: number facts with SmolLM2-135M or `model`; sums of two digits and two are never trained on."""
    end = ("\n",)
    return Recipe(
        name="sec", scale="small", paper="arXiv 2505.14970", clock="fused", iterations=3, inner_steps=8, threads=2,
        dataset_prep=prep.TextConfig(pools=facts(*FACTS), initial=prep.pretrained(model)),
        curriculum=SecConfig(mode="fixed", prompts=8, group_size=8), rollout=SampleConfig(max_new_tokens=6, stop=end, engine=BF16),
        reward=VerifyConfig(style="line"), update=preset("sec", minibatches=1, lr=1e-5, dtype="bfloat16"),  # float32 masters
        evaluate=AnswerConfig(splits=("val",), style="line", samples=4, max_new_tokens=6, stop=end, engine=BF16),
        test=AnswerConfig(splits=("ood", "id"), style="line", samples=4, greedy=True, max_new_tokens=6, stop=end, engine=BF16),
    )  # fmt: skip


def published(scale: Scale, model: str | None) -> Recipe:
    """Countdown as in section 4, Table S2 and the scripts (4 minibatches, clip 0.2, no KL); `single` is shorter and smaller."""
    name, steps, n, length = ("Qwen2.5-3B", 240, 256, 4096) if scale == "paper" else ("Qwen2.5-0.5B", 60, 64, 1024)
    pools = prep.PoolsConfig(arms=prep.countdown_arms(), template="base_chat")
    return Recipe(
        name="sec", scale=scale, paper="arXiv 2505.14970", clock="fused", iterations=steps // 10, inner_steps=10, device="h100-80g",
        dataset_prep=prep.TextConfig(pools=pools, initial=prep.Checkpoint(path=model or f"Qwen/{name}")),
        curriculum=SecConfig(mode="faithful", alpha=0.5, tau=1.0, prompts=n, group_size=8), update=preset("sec", dtype="bfloat16"),
        rollout=SampleConfig(max_new_tokens=length, engine=BF16), reward=VerifyConfig(format_reward=0.1),
        evaluate=AnswerConfig(splits=("val",), tasks_per_arm=50, samples=8, max_new_tokens=length, engine=BF16),  # T = 1
        test=AnswerConfig(splits=("id", "ood"), tasks_per_arm=200, samples=8, max_new_tokens=length, engine=BF16),
    )  # fmt: skip
