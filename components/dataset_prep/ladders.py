"""The two small ladders of Self-Evolving Curriculum: number facts for a pretrained model, digits for one that is made here."""

from __future__ import annotations

from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import (
    ArmConfig,
    Checkpoint,
    FromScratch,
    PoolsConfig,
    TextConfig,
    arithmetic_arms,
    pretrained,
)
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.generated.anchors import AnchorConfig

FACTS = (16, 12, 14), (500, 48, 64)
"""Train, val and test of `facts`: all 42 facts of one digit beside the three that are shown, and as many others as they need."""


def facts(one_digit: tuple[int, int, int], wider: tuple[int, int, int]) -> PoolsConfig:
    """Return few-shot pools of sums and products of one digit and sums of two digits and one; two and two are only tested.

    Sizes are train, val and test; `wider` are those of the sums with two digits. An arm of one digit has 45 tasks in all.
    """
    levels = [
        ("add-1-1", {"left": 1, "right": 1}, one_digit),
        ("times-1-1", {"times": 1, "left": 1, "right": 1}, one_digit),
        ("add-2-1", {"left": 2, "right": 1}, wider),
        ("add-2-2", {"left": 2, "right": 2}, (0, 0, wider[2])),
    ]
    arms = tuple(
        ArmConfig(
            name=name, domain="facts", level=float(n), params=params, train=train, val=val, test=test, ood=train == 0
        )
        for n, (name, params, (train, val, test)) in enumerate(levels, 1)
    )
    return PoolsConfig(arms=arms, template="few_shot")


def sorter(arms: tuple[str, ...], steps: int = 300) -> FromScratch:
    """Return a Llama of 124,160 parameters over digits, warm-started for `steps` batches of 64 on `arms`."""
    return FromScratch(
        model=CharModelConfig(alphabet="0123456789=", hidden=64, layers=3, heads=4, intermediate=128),
        warm_start=WarmStartConfig(arms=arms, steps=steps, batch=64),
    )


def judged_facts(model: str | None) -> TextConfig:
    """Return number facts with anchors to judge, for a pretrained model that continues text."""
    anchors = AnchorConfig(wording="few_shot", questions=24)
    return TextConfig(pools=facts(*FACTS), initial=pretrained(model), anchors=anchors)


def judged_sums(model: str | None) -> TextConfig:
    """Return sums of 2 to 6 terms inside a chat template, with anchors to judge, for Qwen2.5-7B-Instruct or `model`."""
    pools = PoolsConfig(arms=arithmetic_arms(train=5000), template="chat")
    return TextConfig(pools=pools, initial=Checkpoint(path=model or "Qwen/Qwen2.5-7B-Instruct"), anchors=AnchorConfig())
