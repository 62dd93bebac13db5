"""Configuration of dataset preparation; of text: one `ArmConfig` per pool, and the arms of Self-Evolving Curriculum.

SEC (arXiv 2505.14970) trains on three levels per puzzle with 10,000 prompts each and tests 200 prompts per level, one
harder level being out of distribution. It keeps no validation pool; here every trained arm has one, so that no checkpoint is
chosen on test items.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from instar.components.columns import Piece
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.domains import DOMAINS
from instar.components.dataset_prep.offline.config import OfflineConfig
from instar.components.dataset_prep.packages import package
from instar.components.dataset_prep.templates import TEMPLATES
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.generated.anchors import AnchorConfig
from instar.errors import ConfigError, nearest

SEC_TRAIN, SEC_VAL, SEC_TEST = 10_000, 200, 200


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """One arm: a domain at one level.

    `params` go to the domain's generator; an `ood` arm is tested, never trained on.
    """

    name: str
    domain: str
    level: float
    params: dict[str, int] = field(default_factory=dict)
    train: int
    val: int
    test: int
    ood: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown domains, names that break task ids, negative sizes and `ood` arms with training items."""
        where = f"arms.{self.name}"
        if self.domain not in DOMAINS:
            raise _wrong(f"a domain of {', '.join(DOMAINS)}", self.domain, where, nearest(self.domain, DOMAINS))
        if not self.name or "/" in self.name:
            raise _wrong("a name without '/'", self.name, where, "task ids are <arm>/<split>/<index>")
        if min(self.train, self.val, self.test) < 0 or self.train + self.val + self.test == 0:
            raise _wrong(
                "sizes >= 0 with a sum > 0", f"{self.train}/{self.val}/{self.test}", where, "correct the sizes"
            )
        if self.ood and self.train + self.val:
            raise _wrong(
                "train = val = 0 for an ood arm", f"{self.train}/{self.val}", where, "set ood = false or the sizes to 0"
            )


@dataclass(frozen=True, kw_only=True)
class PoolsConfig:
    """All arms of a recipe and the prompt template they share."""

    arms: tuple[ArmConfig, ...]
    template: str = "plain"

    def __post_init__(self) -> None:
        """Refuse an unknown template, no arms at all and two arms of one name."""
        if self.template not in TEMPLATES:
            raise _wrong(f"one of {', '.join(TEMPLATES)}", self.template, "template", nearest(self.template, TEMPLATES))
        names = [arm.name for arm in self.arms]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if not names or repeated:
            raise _wrong(
                "arms with different names",
                f"repeated {repeated}" if names else "no arms",
                "arms",
                "rename or add arms",
            )


@dataclass(frozen=True, kw_only=True)
class FromScratch:
    """A character model trained here, warm-started on easy arms."""

    strategy: Literal["from_scratch"] = "from_scratch"
    model: CharModelConfig
    warm_start: WarmStartConfig


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A pretrained model that a registry package ships, converted once and cached (`packages.PACKAGES`)."""

    strategy: Literal["packaged"] = "packaged"
    name: str = "smollm2-135m-instruct"

    def __post_init__(self) -> None:
        """Refuse a model that no known package ships."""
        package(self.name)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A transformers checkpoint: a folder, or a hub id that transformers can reach."""

    strategy: Literal["checkpoint"] = "checkpoint"
    path: str


def pretrained(model: str | None) -> Packaged | Checkpoint:
    """Return the model that `--model` names, or the packaged one."""
    return Checkpoint(path=model) if model else Packaged()


@dataclass(frozen=True, kw_only=True)
class TextConfig(Piece):
    """Task pools and initial policy."""

    PROVIDES: ClassVar[frozenset[str]] = frozenset({"tasks.prompt", "tasks.reference"})

    strategy: Literal["text"] = "text"
    pools: PoolsConfig
    initial: FromScratch | Packaged | Checkpoint
    anchors: AnchorConfig | None = None
    """Questions about given answers, by which evaluation measures the policy as a judge."""


Config: TypeAlias = TextConfig | OfflineConfig


def countdown_arms(train: int = SEC_TRAIN, val: int = SEC_VAL, test: int = SEC_TEST) -> tuple[ArmConfig, ...]:
    """Return SEC's Countdown arms: 3, 4, 5 numbers, and 6 numbers out of distribution."""
    return _ladder("countdown", [(k, {"numbers": k}) for k in (3, 4, 5, 6)], train, val, test)


def zebra_arms(train: int = SEC_TRAIN, val: int = SEC_VAL, test: int = SEC_TEST) -> tuple[ArmConfig, ...]:
    """Return SEC's Zebra arms: 3x3, 4x4, 5x5 houses x characteristics, and 6x6 out of distribution."""
    return _ladder("zebra", [(k, {"people": k, "characteristics": k}) for k in (3, 4, 5, 6)], train, val, test)


def arc1d_arms(train: int = SEC_TRAIN, val: int = SEC_VAL, test: int = SEC_TEST) -> tuple[ArmConfig, ...]:
    """Return SEC's ARC-1D arms: strings of length 10, 20, 30 with three examples, and 40 out of distribution."""
    return _ladder("arc1d", [(k, {"size": k, "examples": 3}) for k in (10, 20, 30, 40)], train, val, test)


def arithmetic_arms(train: int = SEC_TRAIN, val: int = SEC_VAL, test: int = SEC_TEST) -> tuple[ArmConfig, ...]:
    """Return sums of 2 to 6 two-digit terms, out of distribution 7: an offline stand-in for MATH levels 1 to 5."""
    return _ladder("arithmetic", [(k - 1, {"terms": k, "digits": 2}) for k in (2, 3, 4, 5, 6, 7)], train, val, test)


def sorting_arms(levels: range, ood: range, train: int, val: int, test: int) -> tuple[ArmConfig, ...]:
    """Return one arm per list length: `levels` are trained, `ood` only tested. Three digits make 1,000 tasks in all."""
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
        for n in (*levels, *ood)
    )


def _ladder(
    domain: str, levels: list[tuple[int, dict[str, int]]], train: int, val: int, test: int
) -> tuple[ArmConfig, ...]:
    """Return one arm per level; the last is out of distribution."""
    last = levels[-1][0]
    return tuple(
        ArmConfig(
            name=f"{domain}-{level}",
            domain=domain,
            level=float(level),
            params=params,
            train=0 if level == last else train,
            val=0 if level == last else val,
            test=test,
            ood=level == last,
        )
        for level, params in levels
    )


def _wrong(expected: str, found: object, where: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=repr(found), where=f"dataset_prep.{where}", action=action)
