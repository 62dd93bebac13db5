"""Settings for the policy as a judge, and for reflection at test time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from instar.components.generated.templates import STYLE, Wording
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.generated.anchors import AnchorConfig


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How well the policy judges is measured on anchors and on its own greedy answers (SPARK sections 6 and 7.6).

    Anchors are questions of pool `anchor` whose right verdict is known. Each question is asked twice, so that either verdict is
    right once: for example Yes first, then No. So a judge that always says the same gets exactly .5. The baseline judged the same
    anchors, so the drift of the judge is a paired difference.
    """

    wording: Wording = "words"
    """Form of the questions about the policy's own answers, as in training."""
    anchors: int = 0
    """Questions per kind. They are the first of the pool; 0 takes all."""
    max_new_tokens: int = 0
    """Most tokens of a verdict. 0 takes the limit of the answers."""
    drift_limit: float = 0.1
    """There is an alarm when the balanced accuracy on the anchors falls more than this below the baseline's, and the interval of
    the paired difference lies below 0. Nothing is promoted under an alarm."""
    confidence: float = 0.95
    """Confidence level of the intervals of the judge and of its drift."""

    def __post_init__(self) -> None:
        _require(self.anchors == 0 or self.anchors >= 2, "judge.anchors", "0 or at least 2", self.anchors)
        _require(self.max_new_tokens >= 0, "judge.max_new_tokens", ">= 0", self.max_new_tokens)
        _require(0.0 <= self.drift_limit <= 1.0, "judge.drift_limit", "in [0, 1]", self.drift_limit)
        _require(0.5 <= self.confidence < 1.0, "judge.confidence", "in [0.5, 1)", self.confidence)

    @property
    def style(self) -> Literal["boxed", "line"]:
        """Where verdicts and answers stand in a completion of this wording."""
        return "boxed" if STYLE[self.wording] == "boxed" else "line"

    def check(self, anchors: AnchorConfig | None, name: str) -> None:
        """Refuse a judge without anchors, and a judge whose wording differs from that of the anchors."""
        if anchors is None or anchors.wording != self.wording:
            raise ConfigError(
                expected=f"anchors in wording '{self.wording}', because {name}.judge measures the judge with them",
                found=f"wording '{anchors.wording}'" if anchors else "none",
                where=f"recipe.{name}.judge",
                action=f"set dataset_prep.anchors.wording={self.wording}, or {name}.judge=none and {name}.reflect=none",
            )

    def explain(self) -> list[str]:
        """State how the judge is measured, and when it raises an alarm."""
        count = f"{self.anchors} questions a kind" if self.anchors else "all questions"
        return [
            f"measured after every iteration on anchors: {count}, made from validation tasks and their references",
            "each question is asked twice, so that either verdict is right once, and pairs are asked in both orders",
            "the measure is the balanced accuracy, which is .5 for a judge that always says the same",
            f"there is an alarm when it falls more than {self.drift_limit:g} below the champion's and the {self.confidence:.0%} "
            "interval of the paired difference lies below 0; under an alarm nothing is promoted",
        ]


@dataclass(frozen=True, kw_only=True)
class ReflectConfig:
    """Reflection at test time: the policy judges its answer, and answers again where the verdict is No (SPARK section 5).

    This happens up to `rounds` times, so a question takes at most 1 + 2 `rounds` calls. The paper also uses a repetition
    penalty. It is left out here, because it changes the distribution that was trained.
    """

    rounds: int = 2
    """Most rounds. A round is one verdict and, unless the verdict is Yes, one new answer. The last new answer is not judged."""
    mode: Literal["gated", "published"] = "gated"
    """`gated` reflects only where that gained on validation tasks. It keeps the old answer when a verdict cannot be read, and
    when a new answer cannot be read or says the same. `published` always reflects, and every verdict but Yes asks for a new
    answer."""
    margin: float = 0.05
    """The first gate of `gated`. Reflection is tried when the judge's interval on single answers lies above .5 + `margin`. This
    saves the calls of a judge that guesses."""
    least_gain: float = 0.0
    """The second gate of `gated`. Reflection is used when the interval of its paired gain on the validation tasks lies above this.
    A judge that is better than a coin is not enough: it may reject right answers, and the second answer may be worse. Where
    reflection is not used, the greedy answers stay. -1 switches this gate off."""

    def __post_init__(self) -> None:
        _require(self.rounds >= 1, "reflect.rounds", ">= 1", self.rounds)
        _require(0.0 <= self.margin < 0.5, "reflect.margin", "in [0, 0.5)", self.margin)
        _require(-1.0 <= self.least_gain < 1.0, "reflect.least_gain", "in [-1, 1)", self.least_gain)

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting that would give it one."""
        return {} if self.mode == "gated" else dict.fromkeys(("margin", "least_gain"), "reflect.mode=gated")

    @property
    def max_calls(self) -> int:
        """Most calls of the policy for one question, the first answer included."""
        return 1 + 2 * self.rounds

    def explain(self) -> list[str]:
        """State what happens to a greedy answer, and when the result is used."""
        lines = [
            f"a greedy answer, then at most {self.rounds} round(s): a verdict and, unless it is Yes, a new answer to a prompt that "
            f"shows the old one; at most {self.max_calls} calls in all",
            "an accepted answer is never changed, and the last new answer is not judged",
            "the result is reported beside the accuracy without reflection, which alone chooses a champion",
        ]
        if self.mode == "published":
            return [
                *lines,
                "it is always used, and an unreadable verdict asks for a new answer, so a judge that guesses costs points",
            ]
        return [
            *lines,
            "it is tried when the whole interval of the judge's balanced accuracy on single answers lies above "
            f"{0.5 + self.margin:g}",
            "it is used when the whole interval of its gain on the validation tasks then lies above "
            f"{self.least_gain:g}; an unreadable verdict keeps the answer",
        ]


def _require(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise out_of_range(f"evaluate.{name}", expected, found)
