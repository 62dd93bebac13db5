"""What every configuration of a strategy is: its columns, its checks against the rest of the recipe, and its lines of `explain`.

A strategy is two files: its configuration, which derives from `Piece`, and its implementation, which the configuration imports
when it is run. Columns are named `artifact.column`: the vocabulary in which a recipe either closes or is refused
(`instar.pipelines.composition`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from instar.components.curriculum.config import Config as CurriculumConfig
    from instar.components.dataset_prep.config import Config as DatasetPrepConfig
    from instar.components.evaluate.config import Config as EvaluateConfig
    from instar.components.reward.config import Config as RewardConfig
    from instar.components.rollout.config import Config as RolloutConfig
    from instar.components.update.config import Config as UpdateConfig

Sections: TypeAlias = dict[str, list[str]]
"""Title of a section of `instar explain` -> its texts, for example `{"filter": ["all groups are trained on"]}`."""
TaskUnit: TypeAlias = Literal["prompt", "slice"]
"""What one training task is: a prompt to answer, or a slice of a logged episode."""

COUNTS = frozenset(
    {
        "stats.arm",
        "stats.num_prompts",
        "stats.num_rollouts",
        "stats.num_invalid",
        "stats.num_zero_variance",
        "stats.num_all_right",
        "stats.num_all_wrong",
        "stats.num_kept",
        "stats.num_truncated",
    }
)
"""Columns of the arm statistics that every update fills."""


class GateView(Protocol):
    """What a piece may see of the gate."""

    @property
    def select(self) -> Literal["best", "last"]: ...


class RecipeView(Protocol):
    """What a piece may see of the recipe that it is part of."""

    @property
    def dataset_prep(self) -> DatasetPrepConfig: ...
    @property
    def curriculum(self) -> CurriculumConfig: ...
    @property
    def rollout(self) -> RolloutConfig: ...
    @property
    def reward(self) -> RewardConfig: ...
    @property
    def update(self) -> UpdateConfig: ...
    @property
    def evaluate(self) -> EvaluateConfig: ...
    @property
    def test(self) -> EvaluateConfig: ...
    @property
    def gate(self) -> GateView: ...
    @property
    def clock(self) -> Literal["rounds", "fused"]: ...
    @property
    def reference(self) -> Literal["initial", "iteration"]: ...
    @property
    def iterations(self) -> int: ...
    @property
    def inner_steps(self) -> int: ...


class Piece:
    """A strategy's configuration. A column counts as provided only when it carries information, not when it merely exists."""

    __slots__ = ()
    REQUIRES: ClassVar[frozenset[str]] = frozenset()
    """Columns that every configuration of the class reads."""
    PROVIDES: ClassVar[frozenset[str]] = frozenset()
    """Columns that some configuration of the class fills; a recipe that lacks one of them is told of the class."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs on request that this configuration asks for (`instar.contract.ON_REQUEST`)."""
        return ()

    @property
    def writes(self) -> tuple[str, ...]:
        """The outputs on request that this configuration asks for."""
        return ()

    def requires(self) -> frozenset[str]:
        """Return the columns this configuration reads."""
        return self.REQUIRES

    def provides(self) -> frozenset[str]:
        """Return the columns this configuration fills."""
        return self.PROVIDES

    def check(self, recipe: RecipeView, name: str) -> None:
        """Raise `ConfigError` where the rest of the recipe would make this piece fail, or change nothing, without a word.

        `name` is the field of the recipe that holds the piece: `evaluate` and `test` hold the same classes.
        """

    def explain(self, recipe: RecipeView) -> Sections:
        """Return what `instar explain` says of this piece, by section."""
        del recipe
        return {}
