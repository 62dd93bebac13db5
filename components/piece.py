"""What every configuration of a strategy has: its columns, its checks against the rest of the recipe, and its `explain`.

A strategy is two files. The configuration derives from `Piece`. The implementation is imported by the configuration when it runs.

Columns are named `artifact.column`, for example `rollouts.token_ids`. A recipe is refused when a strategy requires a column that no
other strategy provides (`instar.pipelines.composition`).
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
"""Title of a section of `instar explain` -> its lines, for example `{"filter": ["all groups are trained on"]}`."""
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
    """The configuration of a strategy. It provides a column only if that column has values; an empty column does not count."""

    __slots__ = ()
    REQUIRES: ClassVar[frozenset[str]] = frozenset()
    """Columns that every configuration of the class reads."""
    PROVIDES: ClassVar[frozenset[str]] = frozenset()
    """Columns that some configurations of the class fill. A recipe that lacks one of them is told about the class."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs on request that this configuration asks for (`instar.contract.ON_REQUEST`)."""
        return ()

    @property
    def writes(self) -> tuple[str, ...]:
        """The outputs on request that this configuration asks for."""
        return ()

    def requires(self) -> frozenset[str]:
        """Return the columns that this configuration reads."""
        return self.REQUIRES

    def provides(self) -> frozenset[str]:
        """Return the columns that this configuration fills."""
        return self.PROVIDES

    def check(self, recipe: RecipeView, name: str) -> None:
        """Raise `ConfigError` where the rest of the recipe would make this piece fail, or silently have no effect.

        `name` is the field of the recipe that holds the piece. It is needed because `evaluate` and `test` hold the same classes.
        """

    def outlook(self, recipe: RecipeView) -> str:
        """Return a sentence on where a plan of this piece and the length of the run differ. It is empty where they do not."""
        del recipe
        return ""

    def explain(self, recipe: RecipeView) -> Sections:
        """Return what `instar explain` says about this piece, by section."""
        del recipe
        return {}
