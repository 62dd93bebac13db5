"""What scores answers: the verifiers of the tasks, or the functions of the user. Training, evaluation and the probe share this.

    open_scorer(config, code, policy, ctx).score([Completion(task, text, ...), ...])  ->  [Score | Abstain | Failed, ...]

A task that the evolution made itself is always scored by its own rule: a user's function knows nothing about it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from instar.components.generated.item import is_generated
from instar.components.reward.extract import extract
from instar.components.reward.verifiers import VERSION, Verdict, verify
from instar.contract import Context
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.artifact import Code, Policy
    from instar.components.reward.function_config import FunctionConfig
    from instar.components.reward.functions import Functions
    from instar.components.reward.policy_handle import PolicyHandle
    from instar.components.reward.signatures import Attempt
    from instar.components.sandbox.config import SandboxConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One completion of a task."""

    task: TaskRow
    text: str
    token_ids: Sequence[int]
    rollout_id: str = ""
    group_id: str = ""
    truncated: bool = False


class Scorer(Protocol):
    """Scores completions. There is one verdict for each, in their order."""

    def score(self, completions: Sequence[Completion]) -> list[Verdict]: ...

    def name(self, task: TaskRow) -> str:
        """Return what scores the task: the column `scorer`."""
        ...


class ScoringConfig(Protocol):
    """What a configuration says about scoring."""

    @property
    def style(self) -> str: ...
    @property
    def functions(self) -> tuple[FunctionConfig, ...]: ...
    @property
    def sandbox(self) -> SandboxConfig: ...


@dataclass(frozen=True)
class Verifiers:
    """Scores every completion with the verifier that its task names."""

    style: str

    def score(self, completions: Sequence[Completion]) -> list[Verdict]:
        """Return the verdicts."""
        return [verify(each.task, each.text, self.style) for each in completions]

    def name(self, task: TaskRow) -> str:
        """Return name and version of the verifier."""
        return f"{task.verifier}/{VERSION}"


@dataclass(frozen=True)
class UserFunctions:
    """Scores the completions of prepared tasks with the functions of the user."""

    functions: Functions
    style: str
    policy: PolicyHandle

    def score(self, completions: Sequence[Completion]) -> list[Verdict]:
        """Return the verdicts. All completions go to the functions at once, because some take batches."""
        mine = [n for n, each in enumerate(completions) if not is_generated(each.task)]
        scored = self.functions.score([_attempt(completions[n], self.style) for n in mine], self.policy)
        verdicts = dict(zip(mine, scored, strict=True))
        return [verdicts.get(n) or verify(each.task, each.text, self.style) for n, each in enumerate(completions)]

    def name(self, task: TaskRow) -> str:
        """Return the functions with the digest of their code, and that of the policy if they look at it."""
        return f"{task.verifier}/{VERSION}" if is_generated(task) else self.functions.scorer(self.policy)


def open_scorer(config: ScoringConfig, code: Code | None, policy: Policy, ctx: Context) -> Scorer:
    """Return what scores the answers of `policy` under `config`. `code` holds the functions that the configuration names."""
    if not config.functions:
        return Verifiers(config.style)
    from instar.components.reward.functions import Functions
    from instar.components.reward.policy_handle import EnginePolicy
    from instar.components.rollout.config import EngineConfig

    assert code is not None  # the configuration requests it
    functions = Functions(config.functions, code, config.sandbox, ctx.resident)
    return UserFunctions(functions, config.style, EnginePolicy(policy, EngineConfig(), ctx))


def _attempt(completion: Completion, style: str) -> Attempt:
    """Return what the functions may ask for. The answer is None where the completion has none in the style of the recipe."""
    from instar.components.reward.signatures import Attempt

    task = completion.task
    return Attempt(
        answer=extract(completion.text, style),
        completion=completion.text,
        prompt=task.prompt,
        reference=json.loads(task.reference),
        task={name: getattr(task, name) for name in ("task_id", "arm", "domain", "level", "split", "form")},
        rollout={
            "rollout_id": completion.rollout_id,
            "group_id": completion.group_id,
            "truncated": completion.truncated,
            "completion_ids": list(completion.token_ids),
        },
    )
