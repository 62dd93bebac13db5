"""Prompts of generated tasks: six families in three wordings, one way to fill them in, one way to read a verdict (SPARK section 2).

Families: P1 is the answer right, yes or no; P2 the same as a choice, A right or B wrong; P3 which of two answers is right;
P4 check a whole attempt and fix it if need be; P5 the same with the answer alone; P6 the attempt is wrong, solve anew.
Wordings: `words` for language models, answers in \\boxed{}; `few_shot` lines for models that continue text; `terse` one line over
a small alphabet for character models; of both the answer is the first line. Every template starts from the bare question: the
instruction of the solve prompt is not part of it.
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
"""Version of the template set; it stands in the generator of every generated task."""
STYLE: dict[str, str] = {"words": "boxed", "few_shot": "line", "terse": "line"}
"""Where the answer to a generated prompt stands, as a style of `instar.components.reward.extract`."""
SOLVE = "Reason about it first, then repeat your final answer in \\boxed{}."
"""What follows the bare question when a language model is asked to solve it."""
KINDS: tuple[str, ...] = ("judge-point", "judge-pair", "reflect-trace", "reflect-answer")
"""Kinds of generated tasks; a kind is the arm of its tasks, so no pool may be named like one."""
_NAME = re.compile(r"\{(question|answer_a|answer_b|answer|attempt)\}")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paraphrases of one question. `labels` are the verdicts (right, wrong) or, of pairs, (first, second); empty when the
    answer is one to the task itself."""

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
"""wording -> family -> its templates. What answers in one line needs no second form of yes and no (P2) and leaves no trace
to show (P4)."""


def family_of(wording: str, family: str) -> Family:
    """Return a family; an unknown wording or family is a `ConfigError` that names the nearest."""
    if wording not in FAMILIES:
        raise _unknown("wording", wording, list(FAMILIES))
    if family not in FAMILIES[wording]:
        raise _unknown(f"family of wording '{wording}'", family, list(FAMILIES[wording]))
    return FAMILIES[wording][family]


def render(wording: str, family: str, template_id: int, **parts: str) -> str:
    """Return the prompt of paraphrase `template_id`, counted from 0.

    `parts` are `question` and, as the family has it, `answer`, `answer_a` and `answer_b`, or `attempt`; parts that the family
    does not show are ignored. Each is put in once: braces and placeholders inside of a part stay as they are. A part that is
    missing or blank is a `ContractError`.
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
    """Return the expected answer of a judge family: of P1 and P2 when the shown answer is right, of P3 when the first is."""
    labels = family_of(wording, family).labels
    if not labels:
        raise _unknown("judge family", family, [name for name, f in FAMILIES[wording].items() if f.labels])
    return labels[0 if right else 1]


def read_verdict(wording: str, family: str, text: str) -> bool | None:
    """Return what a completion says, in the sense of `verdict`, or None when it says neither. The reader that rewards use."""
    labels = family_of(wording, family).labels
    found = read_label(extract(text, STYLE[wording]) or "", labels)
    return None if found is None else found == labels[0]


def _unknown(what: str, found: str, known: list[str]) -> ConfigError:
    return ConfigError(
        expected=f"a {what}, one of {', '.join(known)}",
        found=f"'{found}'",
        where="generated.templates",
        action=nearest(found, known),
    )


def characters(wording: Wording) -> frozenset[str]:
    """Return every character that templates and verdicts of a wording add to a question and its answers."""
    families = FAMILIES[wording].values()
    texts = [_NAME.sub("", template) for family in families for template in family.templates]
    return frozenset("".join([*texts, *(label for family in families for label in family.labels)]))
