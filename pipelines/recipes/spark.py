"""SPARK: Synergistic Policy And Reward Co-Evolving Framework (arXiv 2509.22624).

Scored attempts become verifiable prompts for the same update. A rule scores prompts of every kind. The judge acts at test time
only.

Where the numbers of `paper` come from, as the comments beside them say:
`paper`: its text; `scripts`: `XC/scripts/spark_training` of InternLM/Spark, which train SPARK-VL-7B (what the paper does not
publish for SPARK-7B, the model of this recipe, is taken from there); `code`: the trainer in `Lmm_XC/openrlhf/trainer` and
`Evaluation/evaluation_tts.py` of the same release; `ours`: our own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from instar.components.curriculum.config import GeneratedDraw, UniformConfig
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
from instar.components.dataset_prep.warm_generated import GeneratedWarmStart
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.judge_config import JudgeConfig, ReflectConfig
from instar.components.generated.anchors import AnchorConfig
from instar.components.generated.rule import Rule
from instar.components.generated.templates import Wording
from instar.components.reward.config import RecycleConfig, VerifyConfig
from instar.components.rollout.config import EngineConfig, SampleConfig
from instar.components.update.config import Kl, Mismatch, PolicyGradientConfig
from instar.pipelines.method import Method
from instar.pipelines.recipe import Recipe

PAPER = "arXiv 2509.22624"


def paper() -> Recipe:
    """SPARK-7B; sums stand in for SimpleRL-Zero 25k, which no package ships. One step solves, the next tries generated tasks."""
    engine = EngineConfig(
        dtype="bfloat16",  # as in the update: its float32 weights are another policy than the rounded ones
    )
    evaluate = AnswerConfig(
        splits=("val",),  # ours
        style="boxed",  # code
        samples=0,  # code: greedy answers alone
        greedy=True,  # code
        max_new_tokens=2048,  # code
        judge=JudgeConfig(wording="words"),
        reflect=ReflectConfig(
            mode="published",  # code: whatever is not Yes asks for a new answer
            rounds=2,  # code
        ),
        engine=engine,
    )
    return Recipe(
        name="spark",
        scale="paper",
        paper=PAPER,
        clock="fused",
        iterations=31,  # scripts: 2 episodes; 1,550 updates are 775 rounds of two, and 775 x 64 is two passes over 25k
        inner_steps=50,  # scripts: a checkpoint every 50 steps
        device="h100-80g",  # ours; `--device` names another
        dataset_prep=TextConfig(
            pools=PoolsConfig(
                arms=sums(train=5000),  # ours: 25,000 in all, as SimpleRL-Zero has
                template="chat",
            ),
            initial=Checkpoint(path="Qwen/Qwen2.5-7B-Instruct"),  # paper
            anchors=AnchorConfig(
                wording="words",
                questions=64,  # ours
            ),
        ),
        curriculum=UniformConfig(
            prompts=64,  # scripts
            group_size=8,  # scripts
            generated=GeneratedDraw(
                prompts=64,  # code
                mode="alternate",  # code: an update of their own once so many wait
            ),
        ),
        rollout=SampleConfig(
            max_new_tokens=768,  # scripts
            temperature=1.0,  # scripts
            engine=engine,
        ),
        reward=VerifyConfig(
            style="boxed",  # paper
            recycle=published(),
        ),
        update=PolicyGradientConfig(
            preset="spark",
            baseline="group",  # paper, section of the objective: A = (r - mean) / std over the group
            scale="group_std",
            eps=1e-4,  # ours; code: 1e-9, which explodes where rewards are nearly equal
            clip_low=0.2,  # code
            clip_high=0.2,  # code
            mismatch=Mismatch(kind="off"),  # code: plain GRPO has no such term
            kl=Kl(place="loss", kind="k3", coef=0.001),  # scripts
            epochs=1,  # scripts: 1 epoch per batch
            minibatches=1,  # scripts: a train batch of 64
            lr=5e-7,  # scripts
            dtype="bfloat16",  # ours; weights and moments are float32
            processes=8,  # scripts: 8 GPUs
        ),
        evaluate=evaluate,
        test=replace(evaluate, splits=("id", "ood")),
    )


def published(wording: Wording = "words") -> RecycleConfig:
    """Return the rule as released: labels follow the policy, truncated attempts count as wrong, no age, no size, repeats."""
    return RecycleConfig(
        wording=wording,
        rule=Rule(
            judges=32,  # code: half of 64
            reflections=32,  # code: half of 64
            pair_share=0.7,  # code: of mixed groups
            balance="none",  # code
            confirm_share=0.0,  # code: wrong attempts only
            known_wrong_share=1 / 3,  # code: of the templates for reflection
        ),
        max_age=0,  # code: no limit
        max_size=0,  # code: no limit
        remember=0,  # code: repeats are allowed
        keep_truncated=True,  # code
    )


def small() -> Recipe:
    """Two CPU cores: number facts with SmolLM2-135M, judged and corrected in lines that continue text."""
    engine = EngineConfig(dtype="bfloat16")  # as the update
    stop = ("\n",)  # an answer is one line
    evaluate = AnswerConfig(
        splits=("val",),
        style="line",
        samples=0,
        greedy=True,
        max_new_tokens=6,
        stop=stop,
        judge=JudgeConfig(wording="few_shot"),
        reflect=ReflectConfig(mode="gated"),  # a base that guesses would lose points to its own verdicts
        engine=engine,
    )
    return Recipe(
        name="spark",
        scale="small",
        paper=PAPER,
        clock="fused",
        iterations=3,
        inner_steps=8,  # 24 updates: about five minutes
        threads=2,
        dataset_prep=TextConfig(
            pools=facts(
                one_digit=(16, 12, 14),  # all 42 facts beside the three that are shown
                wider=(500, 48, 64),
            ),
            initial=Packaged(),
            anchors=AnchorConfig(
                wording="few_shot",
                questions=24,  # of either kind: 48 of the 72 validation tasks
            ),
        ),
        curriculum=UniformConfig(
            prompts=8,
            group_size=8,  # as published
            generated=GeneratedDraw(prompts=8),  # as many as solved, as published, but in the same batch
        ),
        rollout=SampleConfig(
            max_new_tokens=6,  # a sum has three digits at most, and a line break ends it
            stop=stop,
            engine=engine,
        ),
        reward=VerifyConfig(
            style="line",
            recycle=RecycleConfig(
                wording="few_shot",
                rule=Rule(
                    judges=6,
                    reflections=2,  # with the judge tasks as many as are drawn
                ),
                remember=8,  # the usual 32 steps are more than the run has
            ),
        ),
        update=PolicyGradientConfig(
            preset="spark",
            clip_high=0.2,  # as published
            mismatch=Mismatch(kind="off"),
            kl=Kl(place="loss", kind="k3", coef=0.001),  # as published
            lr=1e-5,  # twenty times the published rate: 24 updates instead of 1,550
            dtype="bfloat16",  # weights and moments are float32
        ),
        evaluate=evaluate,
        test=replace(evaluate, splits=("ood", "id")),
    )


def tiny() -> Recipe:
    """Two CPU cores, minutes: count, judge counts and correct them, from a start that can do so on short rows."""
    evaluate = AnswerConfig(
        splits=("val",),
        style="line",
        samples=0,
        greedy=True,
        max_new_tokens=4,
        judge=JudgeConfig(wording="terse"),
        reflect=ReflectConfig(mode="gated"),  # the second answer is often worse (docs/recipes/spark.md)
    )
    return Recipe(
        name="spark",
        scale="tiny",
        paper=PAPER,
        clock="fused",
        iterations=10,
        inner_steps=30,  # 300 updates: about two minutes
        threads=1,  # results are the same for equal counts only, and every machine has one
        dataset_prep=counting(),
        curriculum=UniformConfig(
            prompts=48,
            group_size=8,  # as published
            generated=GeneratedDraw(prompts=32),  # in the same batch: one update a round instead of two
        ),
        rollout=SampleConfig(
            max_new_tokens=4,  # a count has two digits at most
        ),
        reward=VerifyConfig(
            style="line",
            recycle=RecycleConfig(
                wording="terse",
                rule=Rule(
                    judges=24,
                    reflections=8,  # with the judge tasks as many as are drawn
                    pair_share=0.3,  # single answers are what reflection asks about
                    balance="arm",  # so that the length of a row says nothing about the label
                ),
            ),
        ),
        update=PolicyGradientConfig(
            preset="spark",
            clip_high=0.2,  # as published
            mismatch=Mismatch(kind="off"),
            kl=Kl(place="loss", kind="k3", coef=0.001),  # as published
            aggregate="seq_token_mean",  # a verdict of one letter weighs as much as a longer answer
            entropy_coef=0.06,  # without it the judge ends at a constant verdict (docs/recipes/spark.md)
            lr=2e-4,  # at 5e-4 the judge of the warm start fell from .77 to .58 in forty updates
            betas=(0.9, 0.98),  # as the warm start
            warmup_steps=5,  # Adam's moments begin at 0
        ),
        evaluate=evaluate,
        test=replace(evaluate, splits=("id",)),
    )


def sums(train: int = 10_000, val: int = 200, test: int = 200) -> tuple[ArmConfig, ...]:
    """Return sums of 2 to 6 two-digit terms, out of distribution 7. Ours: an offline stand-in for MATH levels 1 to 5."""
    return ladder("arithmetic", [(k - 1, {"terms": k, "digits": 2}) for k in (2, 3, 4, 5, 6, 7)], train, val, test)


TAUGHT = range(6, 11)
"""Lengths of the rows that the start of `tiny` has learned."""
LENGTHS = range(6, 17)
"""Lengths of the rows that `tiny` trains on."""
LEAST = 18
"""Fewest validation rows in the arms of the shortest rows."""


def counting(lengths: Sequence[int] = LENGTHS, least: int = 0, most: int = 64) -> TextConfig:
    """Return the world of the tiny scale: rows of 6 to 16 digits, of which the start has learned those of 6 to 10.

    The start is never taught a row with ten ones. So it hardly ever answers with a number of two digits. Such answers are never
    rewarded, and the policy never learns them. Long rows with one to nine ones have no such ceiling.
    """
    return TextConfig(
        pools=rows(lengths, train=1000, val=48, test=64, least=least, most=most),
        initial=counter(TAUGHT, steps=700),
        anchors=AnchorConfig(
            wording="terse",
            questions=96,  # spread evenly over the lengths
        ),
    )


def rows(lengths: Sequence[int], train: int, val: int, test: int, least: int = 0, most: int = 64) -> PoolsConfig:
    """Return one arm per row length. At most a half of the 2^n rows is for training, a sixth for validation and a sixth for the
    test.

    Validation has at least `LEAST` rows of each of the shortest lengths. With fewer rows in an arm, equal answers everywhere
    could still hide a loss of two points. Then a policy that judges better and solves as much would never become champion.
    """
    limits = {} if (least, most) == (0, 64) else {"least": least, "most": most}
    arms = tuple(
        ArmConfig(
            name=arm(n),
            domain="ones",
            level=float(n),
            params={"length": n, **limits},
            train=min(train, 2**n // 2),
            val=min(val, max(LEAST, 2**n // 6)),
            test=min(test, 2**n // 6),
        )
        for n in lengths
    )
    return PoolsConfig(arms=arms, template="terse")


def counter(lengths: Sequence[int], steps: int) -> FromScratch:
    """Return a Llama of 124,608 parameters, taught for `steps` batches of 64 to count, judge and correct rows of `lengths`."""
    return FromScratch(
        model=CharModelConfig(
            alphabet="0123456789=?|!ynab",
            hidden=64,
            layers=3,
            heads=4,
            intermediate=128,
        ),
        warm_start=WarmStartConfig(
            arms=tuple(map(arm, lengths)),
            steps=steps,
            batch=64,
            generated=GeneratedWarmStart(
                point=2.0,
                pair=1.0,
                reflect=0.5,
            ),
            weight="example",  # a verdict of one letter weighs as much as a longer answer
        ),
    )


def arm(length: int) -> str:
    """Return the name of the arm of one row length."""
    return f"ones-{length:02d}"


SPARK = Method(
    name="spark",
    paper=PAPER,
    summary="SPARK: the policy also learns to judge and to correct its own answers",
    scales={"tiny": tiny, "small": small, "paper": paper},
)
