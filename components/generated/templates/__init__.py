"""Prompts of generated tasks: six families in three wordings (SPARK section 2). `render` fills a prompt in, `read_verdict` reads a
verdict.

A family is one way to ask, in several paraphrases:

- P1: is this answer right? Yes or no.
- P2: the same question as a choice: A means right, B means wrong.
- P3: which of these two answers is right?
- P4: here is a whole attempt. Check it, and correct it if it is wrong.
- P5: the same with only the answer of the attempt.
- P6: this attempt is wrong. Solve the problem again.

A wording is the form of the prompt:

- `words`: sentences for language models. The answer stands in \\boxed{}. The texts are in `judging.py` and `reflecting.py`.
- `few_shot`: solved lines for models that continue a text. The answer is the first line. The texts are in `lines.py`.
- `terse`: one line over a small alphabet for character models, for example `3+4=8?`. The answer is the first line.

A template takes the question alone. The instruction that belongs to solving it ("Reason about it first ...") is not part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from instar.components.generated.templates import judging, lines, reflecting
from instar.components.reward.extract import extract
from instar.components.reward.labels import read_label
from instar.errors import ConfigError, ContractError, nearest

Wording: TypeAlias = Literal["words", "few_shot", "terse"]
VERSION = 1
"""Version of the template set. The column `generator` of every generated task names it."""
STYLE: dict[str, str] = {"words": "boxed", "few_shot": "line", "terse": "line"}
"""Wording -> how a completion marks its answer. The styles are those of `instar.components.reward.extract`."""
SOLVE = "Reason about it first, then repeat your final answer in \\boxed{}."
"""The instruction that follows the question when a language model is asked to solve it."""
KINDS: tuple[str, ...] = ("judge-point", "judge-pair", "reflect-trace", "reflect-answer")
"""Kinds of generated tasks. A kind is the arm of its tasks, so no other arm may have one of these names."""
_NAME = re.compile(r"\{(question|answer_a|answer_b|answer|attempt)\}")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paraphrases of one question.

    `labels` are the two verdicts that a completion can give: (right, wrong), or (first, second) for pairs. Reflection families
    have no labels, because their completions answer the original question.
    """

    templates: tuple[str, ...]
    labels: tuple[str, ...] = ()


FAMILIES: dict[str, dict[str, Family]] = {
    "words": {
        "P1": Family(templates=judging.YES_NO, labels=("Yes", "No")),
        "P2": Family(templates=judging.CHOICE, labels=("A", "B")),
        "P3": Family(templates=judging.PAIR, labels=("A", "B")),
        "P4": Family(templates=reflecting.WITH_TRACE),
        "P5": Family(templates=reflecting.WITH_ANSWER),
        "P6": Family(templates=reflecting.KNOWN_WRONG),
    },
    "few_shot": {
        "P1": Family(templates=lines.YES_NO, labels=("yes", "no")),
        "P3": Family(templates=lines.PAIR, labels=("A", "B")),
        "P5": Family(templates=lines.WITH_ANSWER),
        "P6": Family(templates=lines.KNOWN_WRONG),
    },
    "terse": {
        "P1": Family(templates=("{question}{answer}?",), labels=("y", "n")),
        "P3": Family(templates=("{question}{answer_a}|{answer_b}?",), labels=("a", "b")),
        "P4": Family(templates=("{question}{attempt}!",)),
        "P5": Family(templates=("{question}{answer}!",)),
        "P6": Family(templates=("{question}{answer}!",)),
    },
}
"""Wording -> family -> its templates. Wordings with answers of one line do not need the second form of yes and no (P2). `few_shot`
has no P4 either, because its completions have no text beyond the answer."""


def family_of(wording: str, family: str) -> Family:
    """Return a family. An unknown wording or family is a `ConfigError` that names the nearest known one."""
    if wording not in FAMILIES:
        raise _unknown("wording", wording, list(FAMILIES))
    if family not in FAMILIES[wording]:
        raise _unknown(f"family of wording '{wording}'", family, list(FAMILIES[wording]))
    return FAMILIES[wording][family]


def render(wording: str, family: str, template_id: int, **parts: str) -> str:
    """Return the prompt of paraphrase `template_id`, counted from 0.

    `parts` are `question` and what the family shows: `answer`, `answer_a` and `answer_b`, or `attempt`. Parts that the family does
    not show are ignored. The parts are inserted in one pass. So a part that itself contains `{answer}` stays as it is. A part that
    is missing or blank is a `ContractError`.
    """
    templates = family_of(wording, family).templates
    if not 0 <= template_id < len(templates):
        raise _unknown(f"template of {family}", str(template_id), [str(i) for i in range(len(templates))])
    template = templates[template_id]
    absent = sorted({name for name in _NAME.findall(template) if not parts.get(name, "").strip()})
    if absent:
        raise ContractError(
            expected=f"text for {', '.join(absent)}",
            found="nothing",
            where=f"{wording} template {family}/{template_id}",
            action="leave out rollouts without a readable answer, and tasks without a question",
        )
    return _NAME.sub(lambda match: parts[match.group(1)], template)


def verdict(wording: str, family: str, right: bool) -> str:
    """Return the expected answer of a judge family.

    For P1 and P2, `right` says whether the shown answer is right. For P3 it says whether the first answer is the right one.
    """
    labels = family_of(wording, family).labels
    if not labels:
        raise _unknown("judge family", family, [name for name, f in FAMILIES[wording].items() if f.labels])
    return labels[0 if right else 1]


def read_verdict(wording: str, family: str, text: str) -> bool | None:
    """Return the verdict of a completion: the value of `right` that `verdict` would need. None when it gives neither label.

    Rewards read completions with the same functions.
    """
    labels = family_of(wording, family).labels
    label = read_label(extract(text, STYLE[wording]) or "", labels)
    return None if label is None else label == labels[0]


def _unknown(what: str, found: str, known: list[str]) -> ConfigError:
    return ConfigError(
        expected=f"a {what}, one of {', '.join(known)}",
        found=f"'{found}'",
        where="generated.templates",
        action=nearest(found, known),
    )


def characters(wording: Wording) -> frozenset[str]:
    """Return every character that the templates and labels of a wording can add to a question and its answers."""
    families = FAMILIES[wording].values()
    texts = [_NAME.sub("", template) for family in families for template in family.templates]
    return frozenset("".join([*texts, *(label for family in families for label in family.labels)]))
