"""What a reward function asks for, read from the names of its parameters, and what it gets.

    def reward(answer, reference)                                   our form: parameters by name, one row at a time
    def reward(completions, solution, **kwargs)                     TRL: lists of completions and of columns
    def compute_score(data_source, solution_str, ground_truth)      verl: one row; with names in the plural, all rows
    def compute_score(reward_inputs)                                EasyR1: all rows as dicts
    def reward(model_response, expected)                            training_hub: a message and what is expected

A parameter that nothing can fill is a `ConfigError` before a row is scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instar.components.sandbox.sandbox import Signature
from instar.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One answer to one task, as a reward function sees it."""

    answer: str | None
    """The answer that was found in the completion, or None. A function gets an empty text for None."""
    completion: str
    prompt: str
    reference: Mapping[str, Any]
    """What the user's row holds beside prompt, arm and level."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """`task_id`, `arm`, `domain`, `level`, `split`, `form`."""
    rollout: Mapping[str, Any] = field(default_factory=dict)
    """`rollout_id`, `group_id`, `truncated`, `completion_ids`."""
    images: tuple[bytes, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a chat, so that other libraries expect lists of messages."""
        return bool(self.task.get("form", "text") != "text")

    @property
    def truth(self) -> Any:
        """What other libraries call the ground truth: the column of that name, or else the answer column."""
        return self.reference.get("ground_truth", self.reference.get("answer"))

    @property
    def messages(self) -> list[Any]:
        """The prompt as chat messages."""
        if self.task.get("form") == "messages":
            return list(json.loads(self.prompt)["messages"])
        return [{"role": "user", "content": self.prompt}]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to declare a reward function. `batch` says that one call scores all rows and returns a list."""

    name: str
    batch: bool
    fill: Callable[[Sequence[Attempt]], dict[str, Any]]
    """Return what can be passed to one call. A form without `batch` gets one attempt."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Parameters that are more than JSON (`Sandbox.calls`)."""


POLICY = "policy"


def own(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return the parts of an attempt, and the columns of its reference that have another name."""
    (attempt,) = attempts
    parts: dict[str, Any] = {
        "answer": attempt.answer or "",
        "completion": attempt.completion,
        "reference": attempt.reference,
        "prompt": attempt.prompt,
        "task": attempt.task,
        "rollout": attempt.rollout,
        "images": attempt.images,
        POLICY: {"extra": {"form": attempt.task.get("form", "text")}},
    }
    return {**attempt.reference, **parts}


def trl(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return lists: prompts, completions, their token ids, and every column. A chat row has lists of messages."""
    columns = dict.fromkeys(name for attempt in attempts for name in attempt.reference)
    values: dict[str, Any] = {name: [a.reference.get(name) for a in attempts] for name in columns}
    values["prompts"] = [a.messages if a.is_chat else a.prompt for a in attempts]
    values["completions"] = [
        [{"role": "assistant", "content": a.completion}] if a.is_chat else a.completion for a in attempts
    ]
    if all("completion_ids" in a.rollout for a in attempts):
        values["completion_ids"] = [a.rollout["completion_ids"] for a in attempts]
    return values


def verl(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return the four arguments of a function that scores one row."""
    (attempt,) = attempts
    return {
        "data_source": attempt.reference.get("data_source", attempt.task.get("domain", "")),
        "solution_str": attempt.completion,
        "ground_truth": attempt.truth,
        "extra_info": attempt.reference.get("extra_info"),
    }


def verl_batch(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return the same four for all rows, under their names in the plural."""
    rows = [verl([attempt]) for attempt in attempts]
    plural = {"data_source": "data_sources", "solution_str": "solution_strs", "ground_truth": "ground_truths"}
    return {plural.get(name, f"{name}s"): [row[name] for row in rows] for name in rows[0]}


def _easyr1_input(attempt: Attempt) -> dict[str, Any]:
    row = {"response": attempt.completion, "ground_truth": attempt.truth}
    if "completion_ids" in attempt.rollout:
        row["response_length"] = len(attempt.rollout["completion_ids"])
    return row


def easyr1(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return one dict for one row: response, response_length, ground_truth. Also the two texts of older versions."""
    (attempt,) = attempts
    texts = {"predict": attempt.completion, "predict_str": attempt.completion, "ground_truth": attempt.truth}
    return {"reward_input": _easyr1_input(attempt), **texts}


def easyr1_batch(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return the same for all rows, in lists."""
    texts = {"predicts": [a.completion for a in attempts], "ground_truths": [a.truth for a in attempts]}
    return {"reward_inputs": [_easyr1_input(a) for a in attempts], **texts}


def training_hub(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return the message of the policy and what is expected of it: an answer, or a tool call by name and arguments."""
    (attempt,) = attempts
    columns = attempt.reference
    return {
        **columns,
        "model_response": attempt.completion,
        "response": attempt.completion,
        "response_text": attempt.completion,
        "expected": columns.get("expected", attempt.truth),
        "expected_name": columns.get("expected_name", columns.get("target_tool_name")),
        "expected_args": columns.get("expected_args", columns.get("target_arguments")),
        "task": {"question": attempt.prompt, **columns},
    }


OWN = Form(name="own", batch=False, fill=own)
_MARKS: tuple[tuple[frozenset[str], Form], ...] = (
    (frozenset({"completions"}), Form(name="trl", batch=True, fill=trl)),
    (frozenset({"completion_ids"}), Form(name="trl", batch=True, fill=trl)),
    (frozenset({"solution_strs"}), Form(name="verl", batch=True, fill=verl_batch)),
    (frozenset({"solution_str"}), Form(name="verl", batch=False, fill=verl)),
    (frozenset({"reward_inputs"}), Form(name="easyr1", batch=True, fill=easyr1_batch)),
    (frozenset({"predicts", "ground_truths"}), Form(name="easyr1", batch=True, fill=easyr1_batch)),
    (frozenset({"reward_input"}), Form(name="easyr1", batch=False, fill=easyr1)),
    (frozenset({"predict_str", "ground_truth"}), Form(name="easyr1", batch=False, fill=easyr1)),
    (frozenset({"predict", "ground_truth"}), Form(name="easyr1", batch=False, fill=easyr1)),
    *(
        (frozenset(names), Form(name="training_hub", batch=False, fill=training_hub, kinds={names[0]: "response"}))
        for names in (("model_response",), ("response_text",), ("response", "expected"), ("response", "expected_name"))
    ),
)
"""Names of parameters, and the form of a function that has all of them. The first match counts. Without one it is our own form."""


def form_of(signature: Signature) -> Form:
    """Return the form of a reward function."""
    names = frozenset(signature.parameters)
    return next((form for marks, form in _MARKS if marks <= names), OWN)


def arguments(form: Form, signature: Signature, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Return the keyword arguments of each call: one call for each attempt, or one for all of them.

    Raises `ConfigError` when the function requires a parameter that neither the form nor a column of the rows can fill.
    """
    parts = [attempts] if form.batch else [[attempt] for attempt in attempts]
    filled = [form.fill(part) for part in parts]
    available = {name for values in filled for name in values}
    missing = [name for name in signature.required if name not in available]
    if missing:
        raise ConfigError(
            expected=f"parameters that can be filled: {', '.join(sorted(available))}",
            found=f"{', '.join(missing)}, which no part of an attempt and no column of the tasks is named",
            where=signature.entry,
            action="rename it, for example to `answer` or `reference` (reference['answer'] is the answer column), or give it a "
            f"default; {nearest(missing[0], available)}",
        )
    wanted = set(signature.parameters) | (available - {POLICY} if signature.keywords else set())
    names = sorted(wanted)  # the seed of a call depends on the order
    return [
        {name: values.get(name) for name in names if name in values or name in signature.required} for values in filled
    ]
