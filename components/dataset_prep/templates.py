"""Prompt templates: how a task is put before a policy, and in which style its answer can then be read.

`base_chat` has the shape SEC uses for base models: one plain text without a chat template, made of a preamble, the task
and an opened assistant turn. `chat` leaves the conversation to the policy's own chat template, which goes around the prompt
by token when it is encoded (`FORM`). A reward or evaluation that reads another style than `ANSWER_STYLE` finds no answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from instar.components.dataset_prep.domains.item import Domain, Item

Template = Callable[[Item, Domain, Sequence[Item]], str]
"""Item, its domain and the solved items to show before it."""


def plain(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return the task in words, unchanged."""
    del domain, shots
    return item.prompt_body


def terse(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return the one-line form for character-level models; the answer continues the line."""
    del domain, shots
    return item.terse


def few_shot(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return solved lines and the line to continue, for models that were not taught to chat. A line break ends the answer."""
    del domain
    solved = [f"{shot.terse}{shot.reference['answer']}" for shot in shots]
    return "\n".join([*solved, item.terse])


def boxed(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return the task followed by the instruction to box the answer."""
    del shots
    return f"{item.prompt_body}\n\nThink it through, then write your final answer in \\boxed{{}}: {domain.answer_form}."


def base_chat(item: Item, domain: Domain, shots: Sequence[Item]) -> str:
    """Return a conversation that a base model can continue: preamble, task, and the opening words of the answer."""
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
"""What a task row says about its prompt: `chat` prompts stand inside the policy's chat template."""

SHOTS: dict[str, int] = {"few_shot": 3}
"""Solved items that a template shows. They are tasks of the arm that belong to no pool."""
