"""SEC: Self-Evolving Curriculum for LLM reasoning (arXiv 2505.14970).

A bandit draws an arm for every prompt slot. Its reward is the mean absolute advantage that the policy update saw in that arm.

Where the numbers of `paper` come from, as the comments beside them say:
`scripts`: the example scripts and the README of ServiceNow/sec, `code`: its source, `data`: counted in its data files (all three
read in the copy at Vincent-La/cofa, folder `sec`); `section 4`, `Table S2`: of the paper; `ours`: our own choice.
"""

from __future__ import annotations

from instar import config as configs
from instar.components.curriculum.config import SecConfig
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import (
    ArmConfig,
    Checkpoint,
    FromScratch,
    Packaged,
    PoolsConfig,
    TextConfig,
)
from instar.components.dataset_prep.ladders import facts, ladder
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.evaluate.config import AnswerConfig
from instar.components.reward.config import VerifyConfig
from instar.components.rollout.config import EngineConfig, SampleConfig
from instar.components.update.config import Mismatch, PolicyGradientConfig
from instar.pipelines.gate import GateConfig
from instar.pipelines.method import Method
from instar.pipelines.recipe import Recipe

PAPER = "arXiv 2505.14970"


def paper() -> Recipe:
    """Countdown with Qwen2.5-3B, the published run of one domain."""
    engine = EngineConfig(
        dtype="bfloat16",  # as in the update: its float32 weights are another policy than the rounded ones
    )
    return Recipe(
        name="sec",
        scale="paper",
        paper=PAPER,
        clock="fused",
        iterations=24,  # scripts: 240 RL steps, about two passes over 30,000 prompts
        inner_steps=10,  # scripts: validation every 10 steps
        device="h100-80g",  # ours; `--device` names another
        dataset_prep=TextConfig(
            pools=PoolsConfig(
                arms=countdown(),
                template="base_chat",  # data: a conversation between User and Assistant as plain text, no chat template
            ),
            initial=Checkpoint(path="Qwen/Qwen2.5-3B"),  # scripts
        ),
        curriculum=SecConfig(
            mode="faithful",  # code: mean absolute advantage of the reward, absent arms decay, first Q 0, no floor
            method="boltzmann",  # section 3
            alpha=0.5,  # scripts
            tau=1.0,  # scripts and Table S2: Countdown at 3B
            prompts=256,  # scripts
            group_size=8,  # scripts
        ),
        rollout=SampleConfig(
            max_new_tokens=4096,  # scripts
            temperature=1.0,  # scripts
            engine=engine,
        ),
        reward=VerifyConfig(
            style="boxed",  # code
            format_reward=0.1,  # scripts: for a boxed answer that is wrong
        ),
        update=PolicyGradientConfig(
            preset="sec",
            baseline="group",  # scripts: GRPO
            scale="group_std",  # code: the unbiased deviation
            eps=1e-4,  # ours; code: 1e-6, which matters in groups that are nearly constant
            clip_low=0.2,  # scripts
            clip_high=0.2,  # scripts
            mismatch=Mismatch(kind="off"),  # scripts: plain GRPO has no such term
            entropy_coef=0.0,  # scripts; the KL penalty is 0 as well
            epochs=1,  # scripts
            minibatches=4,  # scripts: minibatches of 64 prompts
            lr=1e-6,  # scripts
            warmup_steps=0,  # scripts
            dtype="bfloat16",  # ours; weights and moments are float32
        ),
        evaluate=AnswerConfig(
            splits=("val",),  # ours: no checkpoint is chosen on test prompts
            tasks_per_arm=50,  # ours: a quarter of the pool, so that watching costs less than learning
            samples=8,  # scripts
            temperature=1.0,  # scripts
            max_new_tokens=4096,  # scripts
            engine=engine,
        ),
        test=AnswerConfig(
            splits=("id", "ood"),
            tasks_per_arm=200,  # data: the whole pool
            samples=8,  # scripts
            temperature=1.0,  # scripts
            max_new_tokens=4096,  # scripts
            engine=engine,
        ),
        gate=GateConfig(select="best"),  # the paper reports the best checkpoint; here validation tasks choose it
    )


def single() -> Recipe:
    """One GPU: a quarter of the steps and prompts of `paper`, shorter answers, Qwen2.5-0.5B. All of it is our own choice."""
    return configs.merge(
        paper(),
        {
            "scale": "single",
            "dataset_prep": {"initial": {"path": "Qwen/Qwen2.5-0.5B"}},
            "iterations": 6,  # 60 steps
            "curriculum": {"prompts": 64},
            "rollout": {"max_new_tokens": 1024},
            "evaluate": {"max_new_tokens": 1024},
            "test": {"max_new_tokens": 1024},
        },
    )


def small() -> Recipe:
    """Two CPU cores, minutes: number facts with SmolLM2-135M. Sums of two two-digit numbers are never trained on."""
    engine = EngineConfig(dtype="bfloat16")  # as the update
    stop = ("\n",)  # an answer is one line
    return Recipe(
        name="sec",
        scale="small",
        paper=PAPER,
        clock="fused",
        iterations=3,
        inner_steps=8,  # 24 updates: under three minutes
        threads=2,
        dataset_prep=TextConfig(
            pools=facts(
                one_digit=(16, 12, 14),  # all 42 facts beside the three that are shown
                wider=(500, 48, 64),
            ),
            initial=Packaged(),
        ),
        curriculum=SecConfig(
            mode="fixed",
            alpha=0.5,  # as published
            tau=0.2,  # not swept; a solved half gives a signal of 0.87, and so up to 80 times the draws of an arm without one
            prompts=8,
            group_size=8,  # as published; tau depends on it
        ),
        rollout=SampleConfig(
            max_new_tokens=6,  # a sum has three digits at most, and a line break ends it
            stop=stop,
            engine=engine,
        ),
        reward=VerifyConfig(style="line"),
        update=PolicyGradientConfig(
            preset="sec",
            clip_high=0.2,  # as published
            mismatch=Mismatch(kind="off"),
            minibatches=1,  # 64 answers are too few to split
            lr=1e-5,  # ten times the published rate: 24 updates instead of 960
            dtype="bfloat16",  # weights and moments are float32
        ),
        evaluate=AnswerConfig(
            splits=("val",),
            style="line",
            samples=4,  # one greedy answer to fewer tasks could not tell .812 from .667 (docs/recipes/sec.md)
            max_new_tokens=6,
            stop=stop,
            engine=engine,
        ),
        test=AnswerConfig(
            splits=("ood", "id"),
            style="line",
            samples=4,
            greedy=True,
            max_new_tokens=6,
            stop=stop,
            engine=engine,
        ),
    )


def tiny() -> Recipe:
    """Two CPU cores, minutes: learn to sort 3 to 16 digits from a start that can sort 3 and 4."""
    return Recipe(
        name="sec",
        scale="tiny",
        paper=PAPER,
        clock="fused",
        iterations=36,  # 360 updates: two minutes of learning, after which the longest rows are sorted as well
        inner_steps=10,  # as published
        threads=1,  # results are the same for equal counts only, and every machine has one
        dataset_prep=TextConfig(
            pools=PoolsConfig(
                arms=sorting(
                    lengths=range(3, 17),
                    ood=range(17, 19),
                    train=2000,
                    val=64,
                    test=64,
                ),
                template="terse",
            ),
            initial=FromScratch(
                model=CharModelConfig(  # 124,160 parameters
                    alphabet="0123456789=",
                    hidden=64,
                    layers=3,
                    heads=4,
                    intermediate=128,
                ),
                warm_start=WarmStartConfig(
                    arms=("sort-03", "sort-04"),  # 5 is then solved now and then, which is all that RL needs
                    steps=300,
                    batch=64,
                ),
            ),
        ),
        curriculum=SecConfig(
            mode="fixed",
            alpha=0.5,  # as published
            tau=0.1,  # not swept; of fourteen arms few have a signal at a time, and the draws go to them
            prompts=64,
            group_size=8,  # as published; tau depends on it
        ),
        rollout=SampleConfig(
            max_new_tokens=20,  # 18 digits and the end
        ),
        reward=VerifyConfig(style="line"),
        update=PolicyGradientConfig(
            preset="sec",
            clip_high=0.2,  # as published
            mismatch=Mismatch(kind="off"),
            minibatches=1,
            lr=5e-4,  # the highest accuracy after 80 updates in the sweep of docs/recipes/sec.md
            betas=(0.9, 0.98),  # as the warm start
            warmup_steps=5,  # Adam's moments begin at 0
        ),
        evaluate=AnswerConfig(
            splits=("val",),
            style="line",
            tasks_per_arm=64,  # all
            samples=0,
            greedy=True,
            max_new_tokens=20,
        ),
        test=AnswerConfig(
            splits=("id", "ood"),
            style="line",
            tasks_per_arm=64,  # all
            samples=4,
            greedy=True,
            max_new_tokens=20,
        ),
    )


TRAIN = 10_000
"""Training prompts of an arm (data)."""
VAL = 200
"""Validation prompts of an arm. Ours: the paper has no such pool, and here no checkpoint is chosen on test prompts."""
TEST = 200
"""Test prompts of an arm (data)."""


def countdown(train: int = TRAIN, val: int = VAL, test: int = TEST) -> tuple[ArmConfig, ...]:
    """Return the Countdown arms (data): 3, 4, 5 numbers, and 6 numbers out of distribution."""
    return ladder("countdown", [(k, {"numbers": k}) for k in (3, 4, 5, 6)], train, val, test)


def zebra(train: int = TRAIN, val: int = VAL, test: int = TEST) -> tuple[ArmConfig, ...]:
    """Return the Zebra arms (data): 3x3, 4x4, 5x5 houses x characteristics, and 6x6 out of distribution."""
    return ladder("zebra", [(k, {"people": k, "characteristics": k}) for k in (3, 4, 5, 6)], train, val, test)


def arc1d(train: int = TRAIN, val: int = VAL, test: int = TEST) -> tuple[ArmConfig, ...]:
    """Return the ARC-1D arms (data): strings of length 10, 20, 30 with three examples, and 40 out of distribution."""
    return ladder("arc1d", [(k, {"size": k, "examples": 3}) for k in (10, 20, 30, 40)], train, val, test)


def sorting(lengths: range, ood: range, train: int, val: int, test: int) -> tuple[ArmConfig, ...]:
    """Return one arm per list length: `lengths` are trained, `ood` only tested.

    Three digits make 1,000 lists in all, of which at most 16 in 25 are trained on.
    """
    return tuple(
        ArmConfig(
            name=f"sort-{n:02d}",
            domain="sorting",
            level=float(n),
            params={"length": n},
            train=0 if n in ood else min(train, 10**n * 16 // 25),
            val=0 if n in ood else val,
            test=test,
            ood=n in ood,
        )
        for n in (*lengths, *ood)
    )


SEC = Method(
    name="sec",
    paper=PAPER,
    summary="Self-Evolving Curriculum: a bandit over difficulty arms, paid in absolute advantage",
    scales={"tiny": tiny, "small": small, "single": single, "paper": paper},
)
