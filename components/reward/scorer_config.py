"""Settings of a model that scores answers (`--scorer`): a reward model, or a judge that is asked whether an answer is right."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, Protocol

from instar.components.generated.templates import STYLE, Wording
from instar.components.reward.function_config import FunctionConfig
from instar.components.rollout.config import EngineConfig
from instar.config import out_of_range
from instar.errors import ConfigError

PLACE = re.compile(r"\{(prompt|completion|answer)\}")
"""What a template of the user's may name."""
VERDICT_TOKENS = {"boxed": 512, "line": 8}
"""Style of a verdict -> most tokens of a reply, if no number is set. A boxed verdict comes after reasoning."""


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """How a model scores answers. The model is an artifact of the evolution, and `kind` and `form` follow from its folder.

    A reward model gives a number, the logit. The reward is the logit, and sigmoid(logit) says how right the answer is. A judge is
    asked about every answer. The probability that it gives to `right` is both.
    """

    kind: Literal["reward_model", "judge"]
    form: Literal["text", "chat"] = "text"
    """How a judge is asked: in text that it continues, or in a message under its chat template."""
    weight: float = 1.0
    """Factor in the reward."""
    wording: Wording = "words"
    """How a judge is asked: in sentences, in solved lines, or in one short line for a character model."""
    template: str = ""
    """A question of the user's in place of the wording, with {prompt} and with {answer} or {completion}. Its verdict is Yes or No,
    in \\boxed{} or as the first line."""
    max_new_tokens: int = 0
    """Most tokens of a verdict. 0 means 512 where a verdict is boxed, and 8 where it is the first line."""
    initial: bool = False
    """Whether the evolution also starts from this model."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(max_rows=64))
    """`max_rows` is how many answers are scored at once."""

    def __post_init__(self) -> None:
        """Refuse a weight that is not finite, a template without its parts, and an engine that owns the device."""
        if not math.isfinite(self.weight):
            raise out_of_range("reward.scorer.weight", "a finite number", self.weight)
        if self.max_new_tokens < 0:
            raise out_of_range("reward.scorer.max_new_tokens", ">= 0", self.max_new_tokens)
        if self.engine.name != "transformers":
            more = "an engine of that kind takes its share of the device for the policy alone"
            raise out_of_range("reward.scorer.engine.name", "transformers", self.engine.name, more)
        names = set(PLACE.findall(self.template))
        if self.template and not ("prompt" in names and names & {"answer", "completion"}):
            raise ConfigError(
                expected="a text with {prompt}, and with {answer} or {completion}",
                found=f"{', '.join(sorted(names)) or 'none of them'} in {self.template[:60]!r}",
                where="reward.scorer.template",
                action="write for example: Problem: {prompt} Answer: {answer} Is it right? Yes or No:",
            )

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with what would give it one."""
        if self.kind == "reward_model":
            return dict.fromkeys(("wording", "template", "max_new_tokens", "form"), "a judge as --scorer")
        return {"wording": "reward.scorer.template=''"} if self.template else {}

    @property
    def verdict_tokens(self) -> int:
        """Most tokens of a verdict."""
        return self.max_new_tokens or VERDICT_TOKENS["boxed" if self.template else STYLE[self.wording]]

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends a verdict beside the stop tokens of the judge."""
        return ("\n",) if self.wording == "few_shot" and not self.template else ()

    def terms(self) -> str:
        """Return the term of this model in the formula of a reward."""
        factor = "" if self.weight == 1.0 else f"{self.weight:g} "
        return f"{factor}logit_i" if self.kind == "reward_model" else f"{factor}p_i"

    def explain(self, alone: bool) -> list[str]:
        """State what the numbers of the model mean. `alone` says that there are no functions of the user's."""
        if self.kind == "reward_model":
            lines = ["logit_i is what a reward model gives to prompt and completion; its weights are pinned by digest"]
            right = "sigmoid(logit_i)"
        else:
            asked = "a question of the user's" if self.template else f"wording '{self.wording}'"
            lines = [
                "p_i is the probability that a judge gives to `right`: that of its greedy verdict, or 1 minus it for a verdict of "
                f"`wrong`; it is asked in {asked}; an unreadable verdict gives no reward, and an unreadable answer gives 0; the "
                "weights of the judge are pinned by digest"
            ]
            right = "p_i"
        if alone:
            lines.append(f"{right} says how right an answer is, in training, evaluation and gate: no reference is read")
        if self.initial:
            lines.append(
                "this model is also the policy that the evolution starts from, so the policy learns from the verdicts of its own "
                "start; the scorer itself does not learn"
            )
        return lines


class Scoring(Protocol):
    """What a configuration says about what scores answers."""

    @property
    def functions(self) -> tuple[FunctionConfig, ...]: ...
    @property
    def scorer(self) -> ScorerConfig | None: ...


def scored_by(config: Scoring) -> tuple[str, ...]:
    """Return the inputs on request of a stage that scores answers: the code of functions, and the model that scores."""
    return (*(("reward_code",) if config.functions else ()), *(("scorer",) if config.scorer is not None else ()))
