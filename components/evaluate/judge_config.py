"""Settings of the policy as a judge, and of reflection at test time."""

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
    """How well the policy judges: anchors, whose verdicts are known, and its own greedy answers (SPARK sections 6 and 7.6).

    Anchors are questions of pool `anchor`. Each is asked twice, once with either verdict being right, so a judge that always
    says the same gets .5 exactly, whatever its bias. The baseline judged the same anchors, which makes drift a paired difference.
    """

    wording: Wording = "words"
    """Form of the questions about the policy's own answers; as in training."""
    anchors: int = 0
    """Questions per kind, the first of the pool; 0 takes all."""
    max_new_tokens: int = 0
    """Length limit of a verdict; 0 takes that of the answers."""
    drift_limit: float = 0.1
    """Alarm when the balanced accuracy on the anchors falls this far below the baseline's and the interval of the paired
    difference lies below 0. Nothing is promoted under an alarm."""
    confidence: float = 0.95
    """Level of the intervals of judge and drift."""

    def __post_init__(self) -> None:
        _require(self.anchors == 0 or self.anchors >= 2, "judge.anchors", "0 or at least 2", self.anchors)
        _require(self.max_new_tokens >= 0, "judge.max_new_tokens", ">= 0", self.max_new_tokens)
        _require(0.0 <= self.drift_limit <= 1.0, "judge.drift_limit", "in [0, 1]", self.drift_limit)
        _require(0.5 <= self.confidence < 1.0, "judge.confidence", "in [0.5, 1)", self.confidence)

    @property
    def style(self) -> Literal["boxed", "line"]:
        """Where verdicts and answers stand in this wording."""
        return "boxed" if STYLE[self.wording] == "boxed" else "line"

    def check(self, anchors: AnchorConfig | None, name: str) -> None:
        """Refuse a judge that is measured without anchors, or in another wording than theirs."""
        if anchors is None or anchors.wording != self.wording:
            raise ConfigError(
                expected=f"anchors in wording '{self.wording}', by which {name}.judge measures the judge",
                found=f"wording '{anchors.wording}'" if anchors else "none",
                where=f"recipe.{name}.judge",
                action=f"set dataset_prep.anchors.wording={self.wording}, or {name}.judge=none and {name}.reflect=none",
            )

    def explain(self) -> list[str]:
        """State how the judge is measured, and when it raises an alarm."""
        count = f"{self.anchors} questions a kind" if self.anchors else "all questions"
        return [
            f"measured after every iteration on anchors ({count}, from validation tasks and their references), each asked with "
            "either verdict being right, pairs in both orders: balanced accuracy, .5 for one who always says the same",
            f"alarm, and nothing is promoted, when it falls more than {self.drift_limit:g} below the champion's and the "
            f"{self.confidence:.0%} interval of the paired difference lies below 0",
        ]


@dataclass(frozen=True, kw_only=True)
class ReflectConfig:
    """Reflection at test time: answer, judge, and where the verdict is No answer anew, up to `rounds` times (SPARK section 5).

    At most 1 + 2 rounds calls. The published repetition penalty is left out: it changes the distribution that was trained.
    """

    rounds: int = 2
    """Rounds of one verdict and, unless it is Yes, one new answer. The last new answer is not judged."""
    mode: Literal["gated", "published"] = "gated"
    """`gated`: only where it gained on validation tasks; an unreadable verdict keeps the answer, and so does a new answer
    that cannot be read or says the same. `published`: always, and whatever is not Yes asks for a new answer."""
    margin: float = 0.05
    """The first gate of `gated`: reflection is tried when the lower end of the judge's interval on single answers lies above .5
    by more than this. It saves the calls of a judge that guesses."""
    least_gain: float = 0.0
    """The second gate of `gated`: reflection decides when it changed the score of the validation tasks by surely more than this,
    which is when the lower end of the paired interval lies above. A judge that is better than a coin is not enough: it may send
    right answers into a rewrite, and the second answer may be worse. Reflection that is not trusted costs nothing; -1 asks for
    the judge alone."""

    def __post_init__(self) -> None:
        _require(self.rounds >= 1, "reflect.rounds", ">= 1", self.rounds)
        _require(0.0 <= self.margin < 0.5, "reflect.margin", "in [0, 0.5)", self.margin)
        _require(-1.0 <= self.least_gain < 1.0, "reflect.least_gain", "in [-1, 1)", self.least_gain)

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        return {} if self.mode == "gated" else dict.fromkeys(("margin", "least_gain"), "reflect.mode=gated")

    @property
    def max_calls(self) -> int:
        """Calls of the policy that one question can take, the first answer included."""
        return 1 + 2 * self.rounds

    def explain(self) -> list[str]:
        """State what happens to a greedy answer, and when it counts."""
        lines = [
            f"greedy answer, then at most {self.rounds} round(s): verdict and, unless it is Yes, a new answer to a prompt that "
            f"shows the old one; at most {self.max_calls} calls. An accepted answer is never changed; the last new answer is "
            "not judged",
            "reported beside the accuracy without it, which alone chooses a champion",
        ]
        if self.mode == "published":
            return [
                *lines,
                "always, and an unreadable verdict asks for a new answer: a judge that guesses costs points",
            ]
        return [
            *lines,
            f"tried behind a judge whose balanced accuracy on single answers lies above {0.5 + self.margin:g} with its whole "
            f"interval, and used only where it then raised the score of the validation tasks by more than {self.least_gain:g} "
            "with its whole interval; an unreadable verdict keeps the answer",
        ]


def _require(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise out_of_range(f"evaluate.{name}", expected, found)
