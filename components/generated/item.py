"""One generated task: how it is written as a `TaskRow`, and how its origin is read back from there.

The arm of a generated task is its kind, so that metrics, statistics and the curriculum tell the kinds apart; `features` holds where
it comes from. Judge kinds are scored by the verifier `label`, reflection by the verifier and reference of the parent: a model's
opinion is never a reward.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instar.components.generated import templates
from instar.errors import ContractError
from instar.rows import TaskRow

GENERATOR = f"instar.spark/{templates.VERSION}"
LABELS = {
    "judge-point": ("right", "wrong"),
    "judge-pair": ("first", "second"),
    "reflect-trace": ("right", "wrong"),
    "reflect-answer": ("right", "wrong"),
}
"""Kind -> what was shown: a right or a wrong attempt, or a pair whose first or second answer is right."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a generated task comes from."""

    kind: str
    wording: str
    template: str
    """`family/number` of the paraphrase."""
    label: str
    """What was shown, one of `LABELS[kind]`."""
    parent: str
    """Task that was attempted."""
    group: str
    """Group of rollouts that the shown attempts belong to."""
    policy: str
    """Fingerprint of the weights that wrote them, as their rollouts have it."""
    step: int
    """Inner step in which the task was made."""
    key: str
    """Hash of parent, shown texts and template family: two tasks with equal keys ask the same."""

    @property
    def family(self) -> str:
        """Return the template family."""
        return self.template.partition("/")[0]


def is_generated(task: TaskRow) -> bool:
    """Return whether an evolution made this task out of its own or of planted answers."""
    return task.arm in templates.KINDS


def origin(task: TaskRow) -> Origin:
    """Return the origin of a generated task. Features that lack a part of it are a `ContractError`."""
    found = json.loads(task.features)
    names = {field.name for field in dataclasses.fields(Origin)}
    if not isinstance(found, dict) or not names <= found.keys():
        raise _incomplete(task, ", ".join(sorted(names)))
    return Origin(**{name: found[name] for name in names})


def style_of(task: TaskRow, style: str) -> str:
    """Return where the answer to `task` stands: `style` for ordinary tasks, the style of its wording for a generated one."""
    if not is_generated(task):
        return style
    wording = json.loads(task.features).get("wording")
    if wording not in templates.STYLE:
        raise _incomplete(task, f"a wording of {', '.join(templates.STYLE)}")
    return templates.STYLE[wording]


def question_of(task: TaskRow, wording: str) -> str:
    """Return the bare question: the feature `question`, and of `terse` tasks without one the prompt itself.

    A task without either is a `ContractError`: the question is never cut out of a prompt, where any marker can also be content.
    """
    question = json.loads(task.features).get("question") or (task.prompt if wording == "terse" else None)
    if not isinstance(question, str) or not question.strip():
        raise ContractError(
            expected="features with the bare question",
            found=f"{question!r}",
            where=f"Tasks:features of {task.task_id}",
            action="prepare the tasks with a template that keeps the question, or set the wording to terse",
        )
    return question


def key_of(parent: str, shown: Sequence[str], family: str) -> str:
    """Return the identity of a generated task, 32 hexadecimal digits. The order of a pair makes no other task."""
    text = "\x1f".join([parent, family, *sorted(shown)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def make(task_id: str, parent: TaskRow, about: Origin, prompt: str, *, split: str = "train", seed: int = 0) -> TaskRow:
    """Return the row of a generated task; verifier and reference follow from its kind."""
    verifier, reference = parent.verifier, parent.reference
    if about.kind.startswith("judge"):
        labels = templates.family_of(about.wording, about.family).labels
        shown_first = about.label == LABELS[about.kind][0]
        expected = templates.verdict(about.wording, about.family, shown_first)
        verifier, reference = "label", _json({"answer": expected, "labels": list(labels), "chance": 1 / len(labels)})
    return TaskRow(
        task_id=task_id,
        arm=about.kind,
        domain=parent.domain,
        level=parent.level,
        split=split,
        prompt=prompt,
        verifier=verifier,
        reference=reference,
        features=_json(dataclasses.asdict(about)),
        content_hash=hashlib.sha256(f"{prompt}\x1f{reference}".encode()).hexdigest(),
        generator=GENERATOR,
        seed=seed,
        form=parent.form,
    )


def _incomplete(task: TaskRow, expected: str) -> ContractError:
    return ContractError(
        expected=f"features with {expected}",
        found=task.features[:80],
        where=f"Tasks:features of {task.task_id}",
        action="make generated tasks with instar.components.generated.item",
    )


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
