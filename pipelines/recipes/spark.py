"""SPARK: Synergistic Policy And Reward Co-Evolving Framework (arXiv 2509.22624).

Scored attempts become verifiable prompts for the same update; a rule pays for every kind, the judge acts at test time only.
"""

from __future__ import annotations

from dataclasses import replace

from instar.components.curriculum.config import GeneratedDraw, UniformConfig
from instar.components.dataset_prep import ladders
from instar.components.dataset_prep.counting import counting
from instar.components.evaluate.config import judged
from instar.components.generated.rule import Rule
from instar.components.reward.config import RecycleConfig, VerifyConfig
from instar.components.rollout.config import BF16, SampleConfig
from instar.components.update.presets import preset
from instar.pipelines.recipe import Recipe, Scale


def spark(scale: Scale, model: str | None) -> Recipe:
    """SPARK: the policy also learns to judge and to correct its own answers (arXiv 2509.22624)."""
    return tiny() if scale == "tiny" else small(model) if scale == "small" else paper(model)


def tiny() -> Recipe:
    """Two CPU cores, minutes: count, judge counts and correct them, from a start that can do so on short rows."""
    recycle = RecycleConfig(wording="terse", rule=Rule(judges=24, reflections=8, pair_share=0.3, balance="arm"))
    return Recipe(
        name="spark", scale="tiny", paper="arXiv 2509.22624", clock="fused", iterations=10, inner_steps=30, threads=1,
        dataset_prep=counting(), curriculum=UniformConfig(prompts=48, group_size=8, generated=GeneratedDraw(prompts=32)),
        rollout=SampleConfig(max_new_tokens=4), reward=VerifyConfig(style="line", recycle=recycle),
        evaluate=judged("terse", 4), test=replace(judged("terse", 4), splits=("id",)),
        update=preset("spark", lr=2e-4, betas=(0.9, 0.98), warmup_steps=5, aggregate="seq_token_mean", entropy_coef=0.06),
    )  # fmt: skip


def small(model: str | None) -> Recipe:
    """Two CPU cores: number facts with SmolLM2-135M or `model`, judged and corrected in lines that continue text."""
    answers, rule = replace(judged("few_shot", 6), stop=("\n",), engine=BF16), Rule(judges=6, reflections=2)
    return Recipe(
        name="spark", scale="small", paper="arXiv 2509.22624", clock="fused", iterations=3, inner_steps=8, threads=2,
        dataset_prep=ladders.judged_facts(model), rollout=SampleConfig(max_new_tokens=6, stop=answers.stop, engine=BF16),
        curriculum=UniformConfig(prompts=8, group_size=8, generated=GeneratedDraw(prompts=8)),
        reward=VerifyConfig(style="line", recycle=RecycleConfig(wording="few_shot", rule=rule, remember=8)),
        evaluate=answers, test=replace(answers, splits=("ood", "id")), update=preset("spark", lr=1e-5, dtype="bfloat16"),
    )  # fmt: skip


def paper(model: str | None) -> Recipe:
    """SPARK-7B; sums stand in for SimpleRL-Zero 25k. 775 rounds, two passes over 25k: one step solves, the next tries
    generated tasks."""
    answers = replace(judged("words", 2048, mode="published"), engine=BF16)
    return Recipe(
        name="spark", scale="paper", paper="arXiv 2509.22624", clock="fused", iterations=31, inner_steps=50, device="h100-80g",
        dataset_prep=ladders.judged_sums(model), rollout=SampleConfig(max_new_tokens=768, engine=BF16),
        curriculum=UniformConfig(prompts=64, group_size=8, generated=GeneratedDraw(prompts=64, mode="alternate")),
        reward=VerifyConfig(recycle=RecycleConfig.published()), evaluate=answers, test=replace(answers, splits=("id", "ood")),
        update=preset("spark", dtype="bfloat16", processes=8),  # 8 GPUs, lr 5e-7, clip 0.2, k3 in the loss at 1e-3, one minibatch
    )  # fmt: skip
