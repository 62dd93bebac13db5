"""The policy as a reward function may use it, against one plain forward pass of the model. Three seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar.artifact import Policy
from instar.components.policy_io import load_model
from instar.components.reward.functions import Attempt, FunctionConfig, Functions
from instar.components.reward.policy_handle import MAX_SAMPLES, EnginePolicy
from instar.components.reward.verifiers import Score
from instar.components.rollout.config import EngineConfig
from instar.components.sandbox.config import SandboxConfig
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context
from support.brought import brought


@pytest.fixture
def policy(tiny: Any, fused: Callable[..., Policy]) -> Policy:
    return fused(tiny("llama"), "p" * 64)


@pytest.fixture
def handle(policy: Policy, tmp_path: Path) -> EnginePolicy:
    return EnginePolicy(policy, EngineConfig(), Context(evolution="e", step=1, stage="reward", scratch=tmp_path))


def plain(policy: Policy, prompt: str, completion: str, full_logits: Any, tmp_path: Path) -> list[float]:
    """Return the log-probabilities of the completion from one forward pass."""
    model = load_model(policy, Context(evolution="e", step=1, stage="x", scratch=tmp_path))
    tokenizer = load_tokenizer(policy)
    before, after = tokenizer.encode_prompt(prompt, "text"), tokenizer.encode(completion)
    logp = full_logits(model, [*before, *after]).log_softmax(-1)
    return [float(logp[len(before) + n - 1, token]) for n, token in enumerate(after)]


def test_log_probabilities_are_those_of_the_model(
    handle: EnginePolicy, policy: Policy, full_logits: Any, tmp_path: Path
) -> None:
    values = handle.logprobs("2+1=", "3 abc")
    assert values == pytest.approx(plain(policy, "2+1=", "3 abc", full_logits, tmp_path), abs=1e-5)
    assert handle.logprobs("2+1=", "") == [] and handle.digest == "p" * 64


def test_equal_prompts_give_equal_samples_and_too_many_are_refused(handle: EnginePolicy) -> None:
    samples = handle.generate(["2+1=", "2+1=", "1+1="], max_new_tokens=6)
    assert handle.generate(["2+1=", "2+1=", "1+1="], max_new_tokens=6) == samples
    assert len(set(samples)) == 3  # two samples of one prompt are two samples
    with pytest.raises(ValueError, match="at most"):
        handle.generate(["2"] * (MAX_SAMPLES + 1))


def test_a_reward_function_asks_the_policy(
    handle: EnginePolicy, policy: Policy, full_logits: Any, tmp_path: Path
) -> None:
    text = "def reward(prompt, completion, policy): return sum(policy.logprobs(prompt, completion))"
    code = brought(tmp_path / "code", text)
    functions = Functions(
        [FunctionConfig(entry="rew.py:reward", low=-1e3, high=0.0)], code, SandboxConfig(), handle._ctx.resident
    )
    attempts = [Attempt(answer=a, completion=a, prompt="2+1=", reference={}) for a in ("3", "a b")]
    expected = [sum(plain(policy, "2+1=", a.completion, full_logits, tmp_path)) for a in attempts]
    rewards = [verdict.reward for verdict in functions.score(attempts, handle) if isinstance(verdict, Score)]
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert functions.scorer(handle).endswith(f"policy {'p' * 64}")
