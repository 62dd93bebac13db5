"""SEC: Self-Evolving Curriculum for LLM reasoning (arXiv 2505.14970).

A bandit over arms draws every prompt slot; its reward is the mean absolute advantage that the policy update saw in the arm.
`tiny` sorts digits with a character model made here; `single` and `paper` train Qwen2.5 on Countdown as published.
"""

from __future__ import annotations

from instar.components.control.gate import GateConfig
from instar.components.curriculum.config import SecConfig
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import ArmConfig, PoolsConfig, countdown_arms
from instar.components.dataset_prep.stage import Checkpoint, Config, FromScratch
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.evaluate.config import Config as EvaluateConfig
from instar.components.reward.config import Config as RewardConfig
from instar.components.rollout.config import Config as RolloutConfig
from instar.components.update.presets import preset
from instar.pipelines.recipe import Recipe, Scale

PAPER = "arXiv 2505.14970"
TINY_LEVELS = range(3, 17)


def sec(scale: Scale, model: str | None) -> Recipe:
    """Self-Evolving Curriculum: a bandit over difficulty arms, paid in absolute advantage (arXiv 2505.14970)."""
    return tiny() if scale == "tiny" else published(scale, model)


def tiny() -> Recipe:
    """Two CPU cores, minutes: learn to sort 3 to 16 digits from a start that can sort 3 and 4."""
    levels = [(n, n > TINY_LEVELS[-1]) for n in (*TINY_LEVELS, 17, 18)]
    arms = tuple(
        ArmConfig(name=f"sort-{n:02d}", domain="sorting", level=float(n), params={"length": n},
                  train=0 if ood else 640 if n == 3 else 2000, val=0 if ood else 64, test=64, ood=ood)
        for n, ood in levels
    )  # fmt: skip
    scratch = FromScratch(
        model=CharModelConfig(alphabet="0123456789=", hidden=64, layers=3, heads=4, intermediate=128),
        warm_start=WarmStartConfig(arms=("sort-03", "sort-04"), steps=300, batch=64),
    )
    watch = EvaluateConfig(splits=("val",), style="line", tasks_per_arm=64, samples=0, greedy=True, max_new_tokens=20)
    return Recipe(
        name="sec", scale="tiny", paper=PAPER, clock="fused", iterations=20, inner_steps=10, threads=1,
        dataset_prep=Config(pools=PoolsConfig(arms=arms, template="terse"), initial=scratch),
        curriculum=SecConfig(mode="fixed", tau=0.1, prompts=64, group_size=8),
        rollout=RolloutConfig(max_new_tokens=20),
        reward=RewardConfig(style="line"),
        update=preset("sec", minibatches=1, lr=5e-4, betas=(0.9, 0.98), warmup_steps=5),
        evaluate=watch,
        test=EvaluateConfig(splits=("id", "ood"), style="line", tasks_per_arm=64, samples=4, greedy=True, max_new_tokens=20),
        gate=GateConfig(),
    )  # fmt: skip


def published(scale: Scale, model: str | None) -> Recipe:
    """Countdown with the published settings: `paper` Qwen2.5-3B, section 4 and the released scripts; `single` fewer steps."""
    paper = scale == "paper"
    base = model or ("Qwen/Qwen2.5-3B" if paper else "Qwen/Qwen2.5-0.5B")
    steps = 240 if paper else 60  # 240 steps x 256 prompts, about two passes over 30k (released scripts)
    watch = EvaluateConfig(
        splits=("val",), style="boxed", tasks_per_arm=50, samples=8, max_new_tokens=4096 if paper else 1024
    )
    return Recipe(
        name="sec", scale=scale, paper=PAPER, clock="fused", iterations=steps // 10, inner_steps=10,  # validated every 10 steps
        dataset_prep=Config(pools=PoolsConfig(arms=countdown_arms(), template="base_chat"), initial=Checkpoint(path=base)),
        curriculum=SecConfig(mode="faithful", alpha=0.5, tau=1.0, prompts=256 if paper else 64, group_size=8),  # Table S2
        rollout=RolloutConfig(max_new_tokens=4096 if paper else 1024),
        reward=RewardConfig(format_reward=0.1, style="boxed"),  # 1 correct, 0.1 formatted, 0 otherwise
        update=preset("sec", dtype="bfloat16"),  # 4 minibatches of 64, lr 1e-6, clip 0.2, no KL
        evaluate=watch,
        test=EvaluateConfig(splits=("id", "ood"), style="boxed", tasks_per_arm=200, samples=8, max_new_tokens=watch.max_new_tokens),
        gate=GateConfig(),
    )  # fmt: skip
