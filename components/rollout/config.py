"""Configuration of the rollout stage and of the engine that samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from instar.components.piece import Piece, RecipeView
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.rollout.stage import Ins, Outs
    from instar.contract import Context, Metrics


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How samples are computed. No setting changes the distribution that is sampled from, except by rounding."""

    name: Literal["transformers", "vllm"] = "transformers"
    max_rows: int = 512
    """How many samples are decoded at once. The key-value cache grows with this number."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """`auto` keeps the precision in which the policy is stored. A CPU without bfloat16 instructions computes bfloat16 in
    float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is a CUDA device."""
    forward: Literal["auto", "stock"] = "auto"
    """`auto` decodes the Llama family with code of this package, and other models with transformers. `stock` always takes
    transformers."""
    memory_share: float = 0.5
    """Share of the device's memory that `vllm` takes while it is awake, for weights, keys and values."""
    lora_rank: int = 0
    """Rank of the adapters that `vllm` serves on top of the base weights. 0 loads the merged weights of every policy."""
    batch_invariant: bool = False
    """Make `vllm` round a row in the same way whatever its neighbours are. Equal seeds then give equal samples, bit for bit. It is
    slower.

    Without it the neighbours of a sample can change it by rounding only. All engines of a process share one mode.
    """

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise out_of_range("rollout.engine.max_rows", ">= 1", self.max_rows)
        if not 0 < self.memory_share <= 1:
            raise out_of_range("rollout.engine.memory_share", "a share in (0, 1]", self.memory_share)
        if self.lora_rank < 0:
            raise out_of_range("rollout.engine.lora_rank", ">= 0", self.lora_rank)

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting that would give it one."""
        if self.name == "vllm":
            return {"forward": "engine.name=transformers"}
        return dict.fromkeys(("memory_share", "lora_rank", "batch_invariant"), "engine.name=vllm")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Piece):
    """Text sampled for training.

    There is no top-p and no top-k. Both would sample from another distribution than the one that the trainer scores.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"tasks.prompt"})
    PROVIDES: ClassVar[frozenset[str]] = frozenset(
        {"rollouts.token_ids", "rollouts.behaviour_logprobs", "rollouts.steps"}
    )

    strategy: Literal["sample"] = "sample"
    max_new_tokens: int
    """Most action tokens of a sample, the stop token included. A longer answer is cut and marked truncated."""
    temperature: float = 1.0
    """Temperature of the samples. The recorded log-probabilities are those at this temperature."""
    allow_tempered: bool = False
    """Accept a temperature other than 1, although the trainer scores the same tokens at temperature 1."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer. It ends with the first token after which its text contains one of them; that token stays."""
    shards: int = 1
    """Number of parts of a batch. On a cluster each part is sampled by a pod of its own."""
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise out_of_range("rollout.shards", ">= 1", self.shards)
        if self.max_new_tokens < 1:
            raise out_of_range("rollout.max_new_tokens", ">= 1", self.max_new_tokens)
        if not all(self.stop):
            raise _wrong("strings with at least one character", self.stop, "rollout.stop", "remove the empty string")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise _wrong(
                "a positive number",
                self.temperature,
                "rollout.temperature",
                "set it to 1; for greedy answers use evaluate.greedy",
            )
        if self.temperature != 1.0 and not self.allow_tempered:
            raise _wrong(
                "1, the temperature at which the trainer scores tokens",
                self.temperature,
                "rollout.temperature",
                "set it to 1, or set rollout.allow_tempered and correct for the mismatch in the update",
            )

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Sample answers to the prompts of this shard."""
        from instar.components.rollout.sample import sample
        from instar.components.task_table import pools_of

        return sample(ins.policy, pools_of(ins), ins.slots(ctx.shard), outs.rollouts, self, ctx)


@dataclass(frozen=True, kw_only=True)
class ProposeConfig(Piece):
    """Windows of logged trajectories, with the action that the policy would have taken at each step.

    The policy is the one at the end of the iteration before. Decision Mamba calls it the past policy of its self-evolution.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset(
        {"tasks.features", "data.observations", "data.actions", "data.rewards"}
    )
    PROVIDES: ClassVar[frozenset[str]] = frozenset({"rollouts.offset", "rollouts.actions"})

    strategy: Literal["propose"] = "propose"
    delayed: bool = False
    """Condition every step on the whole return of its episode, as `reward.delayed` does."""
    act: bool = True
    """Record the policy's own actions. Without them the update cannot blend them into its targets."""
    max_windows: int = 128
    """Most windows in one forward pass."""
    shards: int = 1
    """Number of parts of a batch. On a cluster each part is worked on by a pod of its own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("shards", "max_windows"):
            if getattr(self, name) < 1:
                raise out_of_range(f"rollout.{name}", ">= 1", getattr(self, name))

    def provides(self) -> frozenset[str]:
        """Return the columns that are filled. Without `act` the column of actions stays empty."""
        return self.PROVIDES if self.act else self.PROVIDES - {"rollouts.actions"}

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting that would give it one."""
        return {} if self.act else {"max_windows": "rollout.act=true"}

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Cut one window per slot of this shard, and let the policy act in them."""
        from instar.components.rollout.propose import propose

        return propose(ins.policy, ins.tasks, ins.slots(ctx.shard), ins.data, outs.rollouts, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse several rollouts of one task. The policy is deterministic, so all of them would be the same."""
        del name
        if recipe.curriculum.group_size != 1:
            raise ConfigError(
                expected="one rollout per task, because a deterministic policy acts the same way each time",
                found=f"group_size {recipe.curriculum.group_size}",
                where="recipe.curriculum.group_size",
                action="set curriculum.group_size=1 and draw more tasks instead",
            )


Config: TypeAlias = SampleConfig | ProposeConfig


def _wrong(expected: str, found: object, where: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=str(found), where=where, action=action)
