"""Prompt templates: the text that shows a task to a policy, and the style in which the answer is then read.

`base_chat` has the form that SEC uses for base models: a plain text with a preamble, the task, and the beginning of the assistant's
turn. `chat` uses the policy's own chat template, whose tokens go around the prompt when it is encoded (`FORM`). Rewards and
evaluation must read answers in the style that `ANSWER_STYLE` names. In another style they would find no answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from instar.components.dataset_prep.domains.item import Domain, Item

Template = Callable[[Item, Domain, Sequence[Item]], str]
"""Takes an item, its domain, and the solved items to show before it. Returns the prompt."""


def plain(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return the task in words."""
    del domain, shots
    return item.prompt_body


def terse(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return the one-line form for character-level models, for example `3+4=`. The answer continues the line."""
    del domain, shots
    return item.terse


def few_shot(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return solved lines and the line to complete, for models that were not trained to chat. A line break ends the answer."""
    del domain
    solved = [f"{shot.terse}{shot.reference['answer']}" for shot in shots]
    return "\n".join([*solved, item.terse])


def boxed(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return the task and the instruction to put the answer into \\boxed{}."""
    del shots
    return f"{item.prompt_body}\n\nThink it through, then write your final answer in \\boxed{{}}: {domain.answer_form}."


def base_chat(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return a conversation that a base model can continue: a preamble, the task, and the first words of the answer."""
    del shots
    return (
        "Below, a User brings a problem to an Assistant. The Assistant reasons about it step by step and closes "
        f"with its answer in \\boxed{{}}.\n\nUser: {item.prompt_body}\n"
        f"Write the answer in \\boxed{{}} as {domain.answer_form}.\n\n"
        "Assistant: Let me work this out one step at a time.\n"
    )


TEMPLATES: dict[str, Template] = {
    "plain": plain,
    "terse": terse,
    "few_shot": few_shot,
    "boxed": boxed,
    "base_chat": base_chat,
    "chat": boxed,
}

ANSWER_STYLE: dict[str, str] = {
    "plain": "line",
    "terse": "line",
    "few_shot": "line",
    "boxed": "boxed",
    "base_chat": "boxed",
    "chat": "boxed",
}

FORM: dict[str, str] = {name: "chat" if name == "chat" else "text" for name in TEMPLATES}
"""Template -> the column `form` of its tasks. `chat` means that the policy's chat template goes around the prompt."""

SHOTS: dict[str, int] = {"few_shot": 3}
"""Template -> number of solved items that it shows. They are tasks of the arm, and they are in no pool."""
