"""What scores answers: the verifiers of the tasks, functions of the user, or a model. Training, evaluation and the probe share it.

    open_scorer(config, ins, policy, ctx).score([Completion(task, text, ...), ...])  ->  [Score | Abstain | Failed, ...]

A task that the evolution made itself is always scored by its own rule: a function or a model of the user's knows nothing about it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from instar.components.generated.item import is_generated
from instar.components.reward.extract import extract
from instar.components.reward.verifiers import VERSION, Failed, Score, Verdict, verify
from instar.contract import Context
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.artifact import Code, Policy
    from instar.components.reward.function_config import FunctionConfig
    from instar.components.reward.functions import Functions
    from instar.components.reward.model_scorer import ModelScorer
    from instar.components.reward.policy_handle import PolicyHandle
    from instar.components.reward.scorer_config import ScorerConfig
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
    @property
    def scorer(self) -> ScorerConfig | None: ...


class ScoringInputs(Protocol):
    """What a stage gets for scoring: the artifacts that its configuration requests."""

    @property
    def reward_code(self) -> Code | None: ...
    @property
    def scorer(self) -> Policy | None: ...


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


@dataclass(frozen=True)
class Learned:
    """Scores the completions of prepared tasks with a model. Beside functions it only adds to their reward."""

    model: ModelScorer
    kind: str
    digest: str
    weight: float
    style: str
    functions: UserFunctions | None

    def score(self, completions: Sequence[Completion]) -> list[Verdict]:
        """Return the verdicts. The model gets all completions at once."""
        said = iter(self.model.score([each for each in completions if not is_generated(each.task)], self.style))
        others = self.functions.score(completions) if self.functions is not None else [None] * len(completions)
        return [
            verify(each.task, each.text, self.style) if is_generated(each.task) else self._sum(other, next(said))
            for each, other in zip(completions, others, strict=True)
        ]

    def _sum(self, other: Verdict | None, said: Verdict) -> Verdict:
        """Return the verdict of functions with what the model adds. A model without an opinion adds nothing."""
        if isinstance(said, Failed):
            return said
        if not isinstance(said, Score):
            return said if other is None else other
        value = said.correct if said.reward is None else said.reward
        if other is None:
            return replace(said, reward=self.weight * value, components={self.kind: value})
        if not isinstance(other, Score):
            return other
        paid = other.correct if other.reward is None else other.reward
        return replace(other, reward=paid + self.weight * value, components={**other.components, self.kind: value})

    def name(self, task: TaskRow) -> str:
        """Return kind and digest of the model, after the functions if there are some."""
        if is_generated(task):
            return f"{task.verifier}/{VERSION}"
        model = f"{self.kind} {self.digest}"
        return model if self.functions is None else f"{self.functions.name(task)} + {model}"


def open_scorer(config: ScoringConfig, ins: ScoringInputs, policy: Policy, ctx: Context) -> Scorer:
    """Return what scores the answers of `policy` under `config`. `ins` has the code and the model that the configuration names."""
    functions = _open_functions(config, ins.reward_code, policy, ctx) if config.functions else None
    if config.scorer is None:
        return functions or Verifiers(config.style)
    from instar.components.reward.model_scorer import open_model

    assert ins.scorer is not None  # the configuration requests it
    model, scorer = open_model(config.scorer, ins.scorer, ctx), config.scorer
    return Learned(model, scorer.kind, ins.scorer.digest, scorer.weight, config.style, functions)


def _open_functions(config: ScoringConfig, code: Code | None, policy: Policy, ctx: Context) -> UserFunctions:
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
