"""A recipe: the configurations of six stages, the shape of the loop and the gate, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from instar.components.continuous.config import BcArch, DecisionMambaArch
from instar.components.curriculum.config import Config as CurriculumConfig
from instar.components.dataset_prep.config import Config as DatasetPrepConfig
from instar.components.dataset_prep.offline.config import OfflineConfig
from instar.components.evaluate.config import Config as EvaluateConfig
from instar.components.reward.config import Config as RewardConfig
from instar.components.rollout.config import Config as RolloutConfig
from instar.components.update.config import Config as UpdateConfig
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.sequence.config import SequenceConfig
from instar.config import out_of_range
from instar.pipelines import composition
from instar.pipelines.gate import GateConfig
from instar.pipelines.step import FusedConfig, StepConfig

Scale = Literal["tiny", "small", "single", "paper"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One method at one scale. `clock` says how often the ledger is written; it never changes what is learned.

    `evaluate` runs after every iteration, and the gate reads its result. `test` runs on the base and on the champion only. So no
    checkpoint is chosen on the tasks that are reported.
    """

    name: str
    scale: Scale
    paper: str
    dataset_prep: DatasetPrepConfig
    curriculum: CurriculumConfig
    rollout: RolloutConfig
    reward: RewardConfig
    update: UpdateConfig
    evaluate: EvaluateConfig
    test: EvaluateConfig
    gate: GateConfig = field(default_factory=GateConfig)
    sources: tuple[str, ...] = ()
    """Evolutions to learn from, by URI (`instar.sources`). Opening an evolution pins them."""
    reference: Literal["initial", "iteration"] = "initial"
    """What a KL term compares the policy with: the policy that the evolution began with, or the one that began the iteration."""
    clock: Literal["rounds", "fused"] = "rounds"
    iterations: int
    inner_steps: int = 1
    device: str = ""
    """GPU that engine, slots, micro-batches and memory were planned for (`pipelines.fit`). Empty means that nothing was planned."""
    threads: int = 0
    """Threads of one tensor operation; 0 means the machine's default. Only runs with equal counts give bit-identical results."""

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("inner_steps", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise out_of_range(name, f">= {least}", getattr(self, name))
        composition.check(self)  # pyright: ignore[reportArgumentType] (one class under two module names)

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect because of other pieces, each with what would give it an effect."""
        prep, ineffective = self.dataset_prep, dict[str, str]()
        if isinstance(prep, OfflineConfig) and isinstance(self.update, SequenceConfig):
            if isinstance(prep.arch, BcArch) or not prep.arch.auxiliary:
                ineffective["update.weights"] = "a policy with dataset_prep.arch.auxiliary=true"
            if not isinstance(prep.arch, DecisionMambaArch):
                ineffective["update.decay_ssm_params"] = "dataset_prep.arch.strategy=decision_mamba"
        if not isinstance(self.update, PolicyGradientConfig) or self.update.kl.place == "none":
            ineffective["reference"] = "update.kl.place=loss or reward"
        return ineffective

    def inner(self) -> StepConfig:
        """Return the configuration of one inner step."""
        return StepConfig(curriculum=self.curriculum, rollout=self.rollout, reward=self.reward, update=self.update)

    def fused(self) -> FusedConfig:
        """Return the configuration of a fused segment of `inner_steps` inner steps."""
        return FusedConfig(steps=self.inner_steps, inner=self.inner())
