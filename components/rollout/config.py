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
    """How samples are computed. None of these settings changes the distribution sampled from, up to rounding."""

    name: Literal["transformers", "vllm"] = "transformers"
    max_rows: int = 512
    """Samples decoded at once; the key-value cache grows with it."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """`auto` keeps the precision the policy was stored in; bfloat16 on a CPU without it is computed in float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA when there is one."""
    forward: Literal["auto", "stock"] = "auto"
    """`auto` decodes the Llama family on a path of its own, the rest by transformers; `stock` takes transformers always."""
    memory_share: float = 0.5
    """Share of the device's memory that `vllm` takes for weights, keys and values while it is awake."""
    lora_rank: int = 0
    """Rank of adapters that `vllm` serves beside the base weights it holds; 0 loads the merged weights of every policy."""
    batch_invariant: bool = False
    """Have `vllm` round a row the same whatever its neighbours are: equal seeds give equal samples, bit for bit. Slower.

    Without it a sample keeps its own noise and depends on its neighbours by rounding alone. One process has one mode.
    """

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise out_of_range("rollout.engine.max_rows", ">= 1", self.max_rows)
        if not 0 < self.memory_share <= 1:
            raise out_of_range("rollout.engine.memory_share", "a share in (0, 1]", self.memory_share)
        if self.lora_rank < 0:
            raise out_of_range("rollout.engine.lora_rank", ">= 0", self.lora_rank)

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        if self.name == "vllm":
            return {"forward": "engine.name=transformers"}
        return dict.fromkeys(("memory_share", "lora_rank", "batch_invariant"), "engine.name=vllm")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Piece):
    """Text sampled for training. No top-p, no top-k: both sample from a distribution the trainer does not score."""

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"tasks.prompt"})
    PROVIDES: ClassVar[frozenset[str]] = frozenset(
        {"rollouts.token_ids", "rollouts.behaviour_logprobs", "rollouts.steps"}
    )

    strategy: Literal["sample"] = "sample"
    max_new_tokens: int
    """Action tokens per sample, the stop token included; a longer answer is cut and marked truncated."""
    temperature: float = 1.0
    """Recorded log-probabilities are those of the distribution sampled from, at this temperature."""
    allow_tempered: bool = False
    """Accept a temperature other than 1, although the trainer scores the same tokens at temperature 1."""
    stop: tuple[str, ...] = ()
    """An answer ends with the first token after which its text holds one of these strings; that token is kept."""
    shards: int = 1
    """Parts in which a batch is sampled, each by a pod of its own on a cluster."""
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise out_of_range("rollout.shards", ">= 1", self.shards)
        if self.max_new_tokens < 1:
            raise out_of_range("rollout.max_new_tokens", ">= 1", self.max_new_tokens)
        if not all(self.stop):
            raise _wrong("strings with at least one character", self.stop, "rollout.stop", "leave the empty one out")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise _wrong(
                "a positive number", self.temperature, "rollout.temperature", "greedy answers belong to evaluate"
            )
        if self.temperature != 1.0 and not self.allow_tempered:
            raise _wrong(
                "1, the temperature at which the trainer scores tokens",
                self.temperature,
                "rollout.temperature",
                "set it to 1, or set rollout.allow_tempered and correct for the mismatch in the update",
            )

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Sample answers to the slots of this shard."""
        from instar.components.rollout.sample import sample
        from instar.components.task_table import pools_of

        return sample(ins.policy, pools_of(ins), ins.slots(ctx.shard), outs.rollouts, self, ctx)


@dataclass(frozen=True, kw_only=True)
class ProposeConfig(Piece):
    """Windows of logged trajectories, and what the acting policy would have done at each of their steps.

    The policy that acts is the one the last iteration ended with: the past policy of Decision Mamba's self-evolution.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset(
        {"tasks.features", "data.observations", "data.actions", "data.rewards"}
    )
    PROVIDES: ClassVar[frozenset[str]] = frozenset({"rollouts.offset", "rollouts.actions"})

    strategy: Literal["propose"] = "propose"
    delayed: bool = False
    """Condition every step on the whole return of its episode; as `reward.delayed`."""
    act: bool = True
    """Record the policy's own actions. Without them nothing can be blended into the targets."""
    max_windows: int = 128
    """Windows in one forward pass."""
    shards: int = 1
    """Parts in which a batch is worked on, each by a pod of its own on a cluster."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("shards", "max_windows"):
            if getattr(self, name) < 1:
                raise out_of_range(f"rollout.{name}", ">= 1", getattr(self, name))

    def provides(self) -> frozenset[str]:
        """Return the columns filled; without `act` there are no actions."""
        return self.PROVIDES if self.act else self.PROVIDES - {"rollouts.actions"}

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        return {} if self.act else {"max_windows": "rollout.act=true"}

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Cut the windows of this shard's slots, and act on them."""
        from instar.components.rollout.propose import propose

        return propose(ins.policy, ins.tasks, ins.slots(ctx.shard), ins.data, outs.rollouts, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse several rollouts of a task: all of them would be the same."""
        del name
        if recipe.curriculum.group_size != 1:
            raise ConfigError(
                expected="one rollout per task: a deterministic policy does the same each time",
                found=f"group_size {recipe.curriculum.group_size}",
                where="recipe.curriculum.group_size",
                action="set curriculum.group_size=1 and draw more tasks instead",
            )


Config: TypeAlias = SampleConfig | ProposeConfig


def _wrong(expected: str, found: object, where: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=str(found), where=where, action=action)
