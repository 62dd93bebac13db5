"""Configuration of dataset preparation: `TextConfig` for pools of text tasks, `OfflineConfig` for logged trajectories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from instar.components.dataset_prep.domains import DOMAINS
from instar.components.dataset_prep.imported_config import ImportedConfig, Sizes
from instar.components.dataset_prep.initial import Checkpoint, FromRun, FromScratch, Packaged
from instar.components.dataset_prep.offline.config import OfflineConfig
from instar.components.dataset_prep.templates import ANSWER_STYLE, TEMPLATES
from instar.components.generated.anchors import AnchorConfig
from instar.components.piece import Piece, RecipeView, Sections, TaskUnit
from instar.components.reward.scorer_config import scored_by
from instar.errors import ConfigError, nearest

if TYPE_CHECKING:
    from instar.components.dataset_prep.stage import Ins, Outs
    from instar.contract import Context, Metrics

__all__ = [
    "ArmConfig",
    "Checkpoint",
    "Config",
    "FromRun",
    "FromScratch",
    "ImportedConfig",
    "OfflineConfig",
    "Packaged",
    "PoolsConfig",
    "TextConfig",
]


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """One arm: a domain at one level, for example countdown with 4 numbers.

    `params` are the parameters of the domain's generator. `train`, `val` and `test` are numbers of tasks. An arm with `ood` is
    out of distribution: it is only tested.
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
        """Refuse unknown domains, names that do not fit into task ids, wrong sizes, and `ood` arms with training tasks."""
        where = f"arms.{self.name}"
        if self.domain not in DOMAINS:
            raise _wrong(f"a domain of {', '.join(DOMAINS)}", self.domain, where, nearest(self.domain, DOMAINS))
        if not self.name or "/" in self.name:
            raise _wrong(
                "a name without '/', because task ids are <arm>/<split>/<index>", self.name, where, "rename the arm"
            )
        if min(self.train, self.val, self.test) < 0 or self.train + self.val + self.test == 0:
            raise _wrong(
                "sizes >= 0 with a sum > 0", f"{self.train}/{self.val}/{self.test}", where, "correct the sizes"
            )
        if self.ood and self.train + self.val:
            raise _wrong(
                "train = val = 0 for an ood arm", f"{self.train}/{self.val}", where, "set ood = false or the sizes to 0"
            )

    def sizes(self) -> Sizes:
        """Return pool -> number of tasks."""
        return {
            "train": self.train,
            "val": self.val,
            "id": 0 if self.ood else self.test,
            "ood": self.test if self.ood else 0,
        }


@dataclass(frozen=True, kw_only=True)
class PoolsConfig:
    """All arms of a recipe, and their common prompt template. Generators make the tasks."""

    strategy: Literal["generated"] = "generated"
    arms: tuple[ArmConfig, ...]
    template: str = "plain"

    def __post_init__(self) -> None:
        """Refuse an unknown template, an empty list of arms, and two arms with one name."""
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

    def sizes(self) -> dict[str, Sizes]:
        """Return arm -> pool -> number of tasks."""
        return {arm.name: arm.sizes() for arm in self.arms}

    def check_style(self, style: str, name: str) -> None:
        """Raise `ConfigError` unless the piece `name` reads answers in the style that the template asks for."""
        asked = ANSWER_STYLE[self.template]
        if style != asked:
            raise ConfigError(
                expected=f"'{asked}', the style in which template '{self.template}' asks for answers",
                found=f"'{style}'",
                where=f"recipe.{name}.style",
                action=f"set {name}.style={asked}, or choose another dataset_prep.pools.template",
            )


@dataclass(frozen=True, kw_only=True)
class TextConfig(Piece):
    """Pools of text tasks, and the initial language model."""

    PROVIDES: ClassVar[frozenset[str]] = frozenset({"tasks.prompt", "tasks.reference"})
    UNIT: ClassVar[TaskUnit] = "prompt"

    strategy: Literal["text"] = "text"
    pools: PoolsConfig | ImportedConfig
    initial: FromScratch | Packaged | Checkpoint | FromRun
    anchors: AnchorConfig | None = None
    """Judge tasks with known verdicts, on which evaluation measures the policy as a judge. None makes no such tasks."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs on request: the champion that the evolution starts from, imported rows, and what scores a probe."""
        champion = ("initial",) if isinstance(self.initial, FromRun) else ()
        if not isinstance(self.pools, ImportedConfig):
            return champion
        return (*champion, "imported", *(scored_by(self.pools.probe) if self.pools.probe is not None else ()))

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Build the task pools, and make or fetch the initial policy."""
        from instar.components.dataset_prep.text import prepare

        return prepare(ins, outs, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse settings that do not fit imported rows. They differ from generated ones in what is known of their prompts."""
        if isinstance(self.pools, ImportedConfig):
            from instar.components.dataset_prep.imported_checks import check

            check(self, self.pools, recipe, name)

    def explain(self, recipe: RecipeView) -> Sections:
        """State which rows a user brought, and where their levels come from."""
        del recipe
        return {"data": self.pools.explain()} if isinstance(self.pools, ImportedConfig) else {}

    def check_style(self, style: str, name: str) -> None:
        """Raise `ConfigError` unless the piece `name` reads answers in a style in which the prompts ask for them."""
        self.pools.check_style(style, name)

    def splits(self) -> set[str]:
        """Return the pools that evaluation can be asked for."""
        sizes = self.pools.sizes().values()
        return {pool for pool in ("val", "id", "ood") if any(size[pool] for size in sizes)}

    def validation_sizes(self) -> dict[str, int]:
        """Return arm -> number of validation tasks, for the arms that have any."""
        return {arm: size["val"] for arm, size in self.pools.sizes().items() if size["val"]}


Config: TypeAlias = TextConfig | OfflineConfig


def _wrong(expected: str, found: object, where: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=repr(found), where=f"dataset_prep.{where}", action=action)
