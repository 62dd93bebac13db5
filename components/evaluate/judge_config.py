"""Settings of the policy as a judge, and of reflection at test time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from instar.components.derived.templates import STYLE, Wording
from instar.config import out_of_range


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How well the policy judges: anchors, whose verdicts are known, and its own greedy answers (SPARK sections 6 and 7.6).

    Anchors are questions of pool `anchor`. Each is asked twice, once with either verdict being right, so a judge that always
    says the same gets .5 exactly, whatever its bias. The champion judged the same anchors, which makes drift a paired difference.
    """

    wording: Wording = "words"
    """Form of the questions about the policy's own answers; as in training."""
    anchors: int = 0
    """Questions per kind, the first of the pool; 0 takes all."""
    max_new_tokens: int = 0
    """Length limit of a verdict; 0 takes that of the answers."""
    drift_limit: float = 0.1
    """Alarm when the balanced accuracy on the anchors falls this far below the champion's and the interval of the paired
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


@dataclass(frozen=True, kw_only=True)
class ReflectConfig:
    """Reflection at test time: answer, judge, and where the verdict is No answer anew, up to `rounds` times (SPARK section 5).

    At most 1 + 2 rounds calls. The published repetition penalty is left out: it changes the distribution that was trained.
    """

    rounds: int = 2
    """Rounds of one verdict and, unless it is Yes, one new answer. The last new answer is not judged."""
    mode: Literal["gated", "published"] = "gated"
    """`gated`: only behind a judge that passes the gate; an unreadable verdict keeps the answer, and so does a new answer
    that cannot be read or says the same. `published`: always, and whatever is not Yes asks for a new answer."""
    margin: float = 0.05
    """The gate of `gated`: the lower end of the judge's interval on single answers must lie above .5 by more than this.
    The lower end and not the estimate, because the two mistakes are unequal: a judge that is not trusted costs nothing, one that
    guesses costs points, and the estimate of a guessing judge lies above .5 half of the time."""

    def __post_init__(self) -> None:
        _require(self.rounds >= 1, "reflect.rounds", ">= 1", self.rounds)
        _require(0.0 <= self.margin < 0.5, "reflect.margin", "in [0, 0.5)", self.margin)

    def unread(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        return {} if self.mode == "gated" else {"margin": "reflect.mode=gated"}

    @property
    def max_calls(self) -> int:
        """Calls of the policy that one question can take, the first answer included."""
        return 1 + 2 * self.rounds


def _require(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise out_of_range(f"evaluate.{name}", expected, found)
