"""Reflection at test time: the policy judges its greedy answer, and answers again unless it accepts that answer (SPARK section 5).

An answer that was judged right is never changed. A question takes at most 1 + 2 `rounds` calls, the first answer included. All
calls are greedy and use the first template of their family, so a policy reflects in the same way every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from instar.components.evaluate.asking import Asker, Reply
from instar.components.evaluate.intervals import Interval
from instar.components.evaluate.quality import Opinion
from instar.components.generated.anchors import POINT
from instar.components.generated.item import question_of
from instar.components.generated.templates import read_verdict, render
from instar.components.reward.extract import extract
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.evaluate.config import AnswerConfig
    from instar.components.evaluate.judge_config import ReflectConfig

JUDGE, REWRITE = "P1", "P6"
ACCEPTED, NO_ANSWER, NO_VERDICT, NO_REWRITE, SAME, ROUNDS = (
    "accepted",  # the verdict was Yes
    "no answer",  # there is no readable answer to judge
    "no verdict",  # the verdict was neither Yes nor No, so the answer stays
    "unreadable rewrite",  # the new answer could not be read, so the old one stays
    "same answer",  # the new answer is the old one, so all later calls would repeat
    "rounds",  # no round is left; the last new answer is returned without a verdict
)


@dataclass(kw_only=True, slots=True)
class Dialogue:
    """A question, its present reply (`text`) with the answer in it (`answer`), and how they came about.

    `end` says why the dialogue ended. It is empty while the dialogue goes on.
    """

    task: TaskRow
    text: str
    answer: str | None
    truncated: bool
    num_tokens: int
    """The tokens of all its calls."""
    calls: int = 1
    rewrites: int = 0
    end: str = ""
    verdicts: list[tuple[bool | None, float | None]] = field(default_factory=list)
    """What the judge said, and the probability of the token that said it. The first verdict is about the first answer."""
    turns: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object for people."""
        ends = {"calls": self.calls, "end": self.end, "answer": self.text, "num_tokens": self.num_tokens}
        return {"task_id": self.task.task_id, "split": self.task.split, **ends, "turns": self.turns}


def begin(task: TaskRow, row: EvalRow, style: str) -> Dialogue:
    """Return a dialogue that starts from a greedy answer."""
    return Dialogue(
        task=task,
        text=row.answer,
        answer=extract(row.answer, style),
        truncated=row.truncated,
        num_tokens=row.length,
        turns=[{"by": "answer", "text": row.answer}],
    )


def judge(dialogues: Sequence[Dialogue], asker: Asker, config: AnswerConfig, *, counted: bool) -> None:
    """Ask for a verdict on the present answer of every dialogue. A dialogue without a readable answer gets none.

    `counted` says that the verdict is part of reflection, so its call and its tokens count as costs of the answer.
    """
    assert config.judge is not None
    wording = config.judge.wording
    asked = [d for d in dialogues if d.answer is not None]
    prompts = [_prompt(d, wording, JUDGE) for d in asked]
    replies = asker.greedy(prompts, config.judge.max_new_tokens or config.max_new_tokens, "verdicts")
    for dialogue, reply in zip(asked, replies, strict=True):
        says = read_verdict(wording, JUDGE, reply.text)
        dialogue.verdicts.append((says, asker.probability(reply, config.style) if says is not None else None))
        dialogue.turns.append({"by": "judge", "text": reply.text})
        if counted:
            dialogue.calls += 1
            dialogue.num_tokens += reply.num_tokens


def reflect(dialogues: Sequence[Dialogue], asker: Asker, config: AnswerConfig) -> None:
    """Run all dialogues to their end, in place."""
    assert config.judge is not None and config.reflect is not None
    for dialogue in dialogues:
        dialogue.end = NO_ANSWER if dialogue.answer is None else ""
    for _ in range(config.reflect.rounds):
        asked = [d for d in dialogues if not d.end]
        judge(asked, asker, config, counted=True)
        for dialogue in asked:
            dialogue.end = _after_verdict(dialogue.verdicts[-1][0], config.reflect)
        again = [d for d in asked if not d.end]
        prompts = [_prompt(d, config.judge.wording, REWRITE) for d in again]
        replies = asker.greedy(prompts, config.max_new_tokens, "new answers")
        for dialogue, reply in zip(again, replies, strict=True):
            _rewrite(dialogue, reply, config)
    for dialogue in dialogues:
        dialogue.end = dialogue.end or ROUNDS


def opinion(dialogue: Dialogue, right: bool) -> Opinion:
    """Return the first verdict, on a first answer that is `right` or not. An answer that cannot be read has no verdict."""
    says, probability = dialogue.verdicts[0] if dialogue.verdicts else (None, None)
    return Opinion(right=right, says=says, probability=probability)


def gate(quality: dict[str, Any], config: ReflectConfig) -> dict[str, Any]:
    """Return whether reflection may be tried, and why. The judge's balanced accuracy on anchors of single answers decides.

    Reflection asks about single answers, and the policy may judge pairs better or worse than those. A judge that is surely better
    than a coin is necessary but not sufficient, so `on_gain` has the last word.
    """
    point, threshold = quality["kinds"].get(POINT), 0.5 + config.margin
    values = {"balanced_accuracy": point and point["balanced_accuracy"], "low": point and point["low"]}
    out = {"mode": config.mode, "threshold": threshold, **values, "gain": None}
    if config.mode == "published":
        return {**out, "open": True, "reason": "published mode: reflection is not gated"}
    if point is None:
        return {**out, "open": False, "reason": "closed: no anchors of single answers"}
    passed = point["low"] > threshold
    word, sign = ("open", ">") if passed else ("closed", "<=")
    estimate = f"{point['balanced_accuracy']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"
    return {**out, "open": passed, "reason": f"{word}: judge {estimate}, lower end {sign} {threshold:g}"}


def on_gain(decision: dict[str, Any], gain: Interval, config: ReflectConfig) -> dict[str, Any]:
    """Return the decision of `gate` after reflection was tried on validation tasks. It is open only where that surely gained."""
    passed = gain.low > config.least_gain or config.least_gain == -1.0
    word, sign = ("open", ">") if passed else ("closed", "<=")
    reason = f"{word}: gain {gain} on validation, lower end {sign} {config.least_gain:g}"
    tried = {"difference": gain.estimate, "low": gain.low, "high": gain.high}
    return {**decision, "open": passed, "reason": reason, "gain": tried}


def _after_verdict(says: bool | None, config: ReflectConfig) -> str:
    if says:
        return ACCEPTED
    return NO_VERDICT if says is None and config.mode == "gated" else ""


def _rewrite(dialogue: Dialogue, reply: Reply, config: AnswerConfig) -> None:
    """Replace the old answer by the new one, or keep the old one and end the dialogue."""
    assert config.reflect is not None
    answer = extract(reply.text, config.style)
    dialogue.calls += 1
    dialogue.num_tokens += reply.num_tokens
    dialogue.turns.append({"by": "rewrite", "text": reply.text})
    if config.reflect.mode == "gated" and answer in (None, dialogue.answer):
        dialogue.end = NO_REWRITE if answer is None else SAME
        return
    dialogue.rewrites += 1
    dialogue.text, dialogue.answer, dialogue.truncated = reply.text, answer, reply.sample.truncated
    dialogue.end = NO_ANSWER if answer is None else ""


def _prompt(dialogue: Dialogue, wording: str, family: str) -> tuple[str, str]:
    task = dialogue.task
    return render(wording, family, 0, question=question_of(task, wording), answer=dialogue.answer or ""), task.form
