"""Prompt templates: how a task is put before a policy, and in which style its answer can then be read.

`base_chat` has the shape SEC uses for base models: one plain text without a chat template, made of a preamble, the task
and an opened assistant turn. A reward or evaluation that reads another style than `ANSWER_STYLE` finds no answers.
"""

from __future__ import annotations

from collections.abc import Callable

from instar.components.dataset_prep.domains.item import Domain, Item


def plain(item: Item, domain: Domain) -> str:
    """Return the task in words, unchanged."""
    del domain
    return item.prompt_body


def terse(item: Item, domain: Domain) -> str:
    """Return the one-line form for character-level models; the answer continues the line."""
    del domain
    return item.terse


def boxed(item: Item, domain: Domain) -> str:
    """Return the task followed by the instruction to box the answer."""
    return f"{item.prompt_body}\n\nThink it through, then write your final answer in \\boxed{{}}: {domain.answer_form}."


def base_chat(item: Item, domain: Domain) -> str:
    """Return a conversation that a base model can continue: preamble, task, and the opening words of the answer."""
    return (
        "Below, a User brings a problem to an Assistant. The Assistant reasons about it step by step and closes "
        f"with its answer in \\boxed{{}}.\n\nUser: {item.prompt_body}\n"
        f"Write the answer in \\boxed{{}} as {domain.answer_form}.\n\n"
        "Assistant: Let me work this out one step at a time.\n"
    )


TEMPLATES: dict[str, Callable[[Item, Domain], str]] = {
    "plain": plain,
    "terse": terse,
    "boxed": boxed,
    "base_chat": base_chat,
}

ANSWER_STYLE: dict[str, str] = {"plain": "line", "terse": "line", "boxed": "boxed", "base_chat": "boxed"}
