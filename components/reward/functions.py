"""A user's reward functions: each is called in a sandbox, and what they return becomes one verdict for each attempt.

    attempts -> signatures: arguments of each call -> sandbox: values or faults -> parts of a verdict -> verdicts

The first function is the main one. The place of its value in its range, by default [0, 1], says how right the answer is, and it
decides about abstaining. The reward is the sum of weight x value over all functions. A part that failed fails the attempt. It
never becomes the number 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instar.artifact import Code
from instar.components.reward.function_config import FunctionConfig
from instar.components.reward.policy_handle import PolicyHandle
from instar.components.reward.signatures import OWN, POLICY, Attempt, Form, arguments, form_of
from instar.components.reward.verifiers import Abstain, Failed, Score, Verdict
from instar.components.sandbox.config import SandboxConfig
from instar.components.sandbox.sandbox import Fault, Sandbox, Signature, open_sandbox
from instar.errors import ConfigError
from instar.resident import Resident

_REWARD, _CORRECT = ("reward", "score", "overall"), ("correct", "acc", "accuracy")
"""Keys of a returned dict, ours first: the reward, and whether the answer is right."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one function says about one attempt. `value` is None where it has no opinion."""

    value: float | None
    correct: float | None = None
    more: dict[str, float] = field(default_factory=dict)


class Broken(ValueError):
    """A returned value that is no reward. Its message is the reason of the failed verdict."""


class Functions:
    """The reward functions of one bundle, in order. The first one is the main one."""

    def __init__(
        self, config: Sequence[FunctionConfig], code: Code, sandbox: SandboxConfig, resident: Resident
    ) -> None:
        """Open the sandbox and read the signatures. Raises `ConfigError` for a function that cannot be imported or called."""
        self.config, self.code = tuple(config), code
        self._sandbox: Sandbox = open_sandbox(code, sandbox, resident)
        self._signatures: list[Signature] = [self._sandbox.signature(function.entry) for function in config]
        for signature in self._signatures:
            if signature.is_class:
                raise ConfigError(
                    expected="a function, or an object that can be called",
                    found="a class",
                    where=signature.entry,
                    action="make an object of it in the file, and name that object",
                )

    @property
    def needs_policy(self) -> bool:
        """Whether a function asks for the policy."""
        return any(POLICY in signature.parameters for signature in self._signatures)

    def scorer(self, policy: PolicyHandle | None) -> str:
        """Return what scored, for the column `scorer`: entries, digest of the code, and of the policy if it was asked."""
        entries = "+".join(function.entry for function in self.config)
        asked = f" policy {policy.digest}" if policy is not None and self.needs_policy else ""
        return f"{entries} {self.code.digest}{asked}"

    def score(self, attempts: Sequence[Attempt], policy: PolicyHandle | None = None) -> list[Verdict]:
        """Return one verdict for each attempt, in order. Raises `ConfigError` for a parameter that nothing can fill."""
        if not attempts:
            return []
        if self.needs_policy and policy is None:
            raise ConfigError(
                expected="a policy, because a reward function asks for it",
                found="none",
                where=self.scorer(None),
                action="score where a policy acts, or remove the parameter `policy`",
            )
        columns = [
            self._parts(function, signature, attempts, policy)
            for function, signature in zip(self.config, self._signatures, strict=True)
        ]
        return [self._verdict(attempt, parts) for attempt, *parts in zip(attempts, *columns, strict=True)]

    def _parts(
        self, function: FunctionConfig, signature: Signature, attempts: Sequence[Attempt], policy: PolicyHandle | None
    ) -> list[Part | Failed]:
        """Return what one function says about each attempt."""
        form = form_of(signature)
        values = self._values(form, signature, attempts, policy)
        parts = [_read(function, form, value) for value in values]
        first = next((n for n, value in enumerate(values) if isinstance(value, Fault) and value.traceback), None)
        if first is not None:  # one traceback tells what the others would repeat
            parts[first] = Failed(reason=f"{function.part}: {values[first].reason}\n{values[first].traceback}")
        return parts

    def _values(
        self, form: Form, signature: Signature, attempts: Sequence[Attempt], policy: PolicyHandle | None
    ) -> list[Any]:
        """Return a value or a fault for each attempt. A call for all of them that fails is made again for each one alone."""
        rows = arguments(form, signature, attempts)
        serve: dict[str, Callable[..., Any]] = {}
        if policy is not None and POLICY in signature.parameters:
            serve = {f"{POLICY}.logprobs": policy.logprobs, f"{POLICY}.generate": policy.generate}
            for row in rows:
                row[POLICY] = {"digest": policy.digest, **row.get(POLICY, {})}
        values = self._sandbox.calls(signature.entry, rows, serve, form.kinds)
        if not form.batch:
            return values
        (value,) = values
        if isinstance(value, list) and len(value) == len(attempts):
            return value
        if not isinstance(value, Fault):
            count = f"{len(value)} values" if isinstance(value, list) else f"a {type(value).__name__}"
            return [Fault(reason=f"{count} for {len(attempts)} completions")] * len(attempts)
        if len(attempts) == 1:
            return [value]
        return [self._values(form, signature, [attempt], policy)[0] for attempt in attempts]

    def _verdict(self, attempt: Attempt, parts: Sequence[Part | Failed]) -> Verdict:
        for part in parts:
            if isinstance(part, Failed):
                return part
        known = [part for part in parts if isinstance(part, Part)]
        if known[0].value is None:
            return Abstain(reason=f"{self.config[0].part} returned None")
        components: dict[str, float] = {}
        reward = 0.0
        for function, part in zip(self.config, known, strict=True):
            components |= {f"{function.part}.{name}": value for name, value in part.more.items()}
            if part.value is not None:
                components[function.part] = part.value
                reward += function.weight * part.value
        if not math.isfinite(reward):
            return Failed(reason=f"the sum of the rewards is {reward}")
        correct = known[0].correct if known[0].correct is not None else self.config[0].share(known[0].value)
        if correct is None:
            low, high = self.config[0].low, self.config[0].high
            named = f"{self.config[0].entry}[LOW,HIGH]"
            return Failed(
                reason=f"{self.config[0].part}: {known[0].value:g} is outside of [{low:g}, {high:g}]; name its range: {named}"
            )
        return Score(correct=correct, format_ok=attempt.answer is not None, reward=reward, components=components)


def _read(function: FunctionConfig, form: Form, value: Any) -> Part | Failed:
    """Return what a returned value means, or why it means nothing."""
    try:
        if isinstance(value, Fault):
            raise Broken(value.reason)
        if value is None:
            return Part(value=None)
        if isinstance(value, Mapping):
            return _of_dict(value, form)
        number = _number(value, "the value")
        return Part(value=number)
    except Broken as error:
        return Failed(reason=f"{function.part}: {error}")


def _of_dict(value: Mapping[str, Any], form: Form) -> Part:
    """Read a dict of named parts, or a verdict of this package (`Score`, `Abstain`, `Failed`)."""
    kind = value.get("__class__")
    if kind == "Abstain":
        return Part(value=None)
    if kind == "Failed":
        raise Broken(str(value.get("reason")))
    parts = {**value, **value.get("components", {})} if kind == "Score" else dict(value)
    reward, correct = _first(parts, _REWARD), _first(parts, _CORRECT)
    if correct is None and (form is OWN or reward is None):
        raise Broken(f"a dict without `correct`, with {', '.join(map(str, parts)) or 'nothing'}")
    share = None if correct is None else _number(correct, "correct")
    if share is not None and not 0.0 <= share <= 1.0:
        if form is OWN:
            raise Broken(f"correct is {share:g}, which is not in [0, 1]")
        share = None
    total = share if reward is None else _number(reward, "the reward")
    named = {str(name): part for name, part in parts.items() if isinstance(part, int | float)}
    return Part(value=total, correct=share, more={name: _number(part, name) for name, part in named.items()})


def _first(parts: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((parts[name] for name in names if parts.get(name) is not None), None)


def _number(value: Any, name: str) -> float:
    """Return a finite number, or raise `Broken` with words for what it is instead."""
    if not isinstance(value, int | float):
        raise Broken(f"{name} is a {type(value).__name__}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Broken(f"{name} is {number}")
    return number
