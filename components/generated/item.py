"""One generated task: this file writes it as a `TaskRow` and reads its origin back from that row.

The arm of a generated task is its kind. So metrics, statistics and the curriculum tell the kinds apart. The column `features` holds
the origin of the task. A judge task is scored by the verifier `label`. A reflection task is scored by the verifier and the
reference of its parent. No model decides about a reward.
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
"""Kind -> its two labels. The label says what the prompt shows: a right or a wrong attempt, or a pair whose first or second answer
is the right one."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a generated task comes from."""

    kind: str
    wording: str
    template: str
    """Family and number of the paraphrase, for example `P1/3`."""
    label: str
    """What the prompt shows: one of `LABELS[kind]`."""
    parent: str
    """Name of the task that was attempted."""
    group: str
    """Group of rollouts that the shown attempts belong to."""
    policy: str
    """Fingerprint of the weights that wrote the attempts. Their rollouts have the same fingerprint."""
    step: int
    """Inner step in which the task was made."""
    key: str
    """Hash of the parent, the shown texts and the template family. Two tasks with equal keys ask the same question."""

    @property
    def family(self) -> str:
        """Return the template family."""
        return self.template.partition("/")[0]


def is_generated(task: TaskRow) -> bool:
    """Return whether this is a generated task: one made from a policy's attempts, or an anchor."""
    return task.arm in templates.KINDS


def origin(task: TaskRow) -> Origin:
    """Return the origin of a generated task. Raises `ContractError` when the features lack a part of it."""
    features = json.loads(task.features)
    names = {field.name for field in dataclasses.fields(Origin)}
    if not isinstance(features, dict) or not names <= features.keys():
        raise _incomplete(task, ", ".join(sorted(names)))
    return Origin(**{name: features[name] for name in names})


def style_of(task: TaskRow, style: str) -> str:
    """Return the answer style of `task`: the way in which a completion marks its answer, for example `boxed`.

    An ordinary task has the given `style`. A generated task has the style of its wording.
    """
    if not is_generated(task):
        return style
    wording = json.loads(task.features).get("wording")
    if wording not in templates.STYLE:
        raise _incomplete(task, f"a wording of {', '.join(templates.STYLE)}")
    return templates.STYLE[wording]


def question_of(task: TaskRow, wording: str) -> str:
    """Return the question of a task without any instruction.

    It is the feature `question`. A `terse` task without that feature has no instruction, so its prompt is the question. Any other
    task without the feature is a `ContractError`. The question is never cut out of a longer prompt, because the text that marks
    its end could also be a part of the question.
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
    """Return the identity of a generated task, 32 hexadecimal digits. The two orders of a pair have the same key."""
    text = "\x1f".join([parent, family, *sorted(shown)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def make(task_id: str, parent: TaskRow, about: Origin, prompt: str, *, split: str = "train", seed: int = 0) -> TaskRow:
    """Return the row of a generated task. Its verifier and its reference follow from its kind."""
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
