"""The policy as a reward function may use it: probabilities of texts, and samples.

A function in the sandbox that has a parameter `policy` gets an object with the two methods. Each call is served by this process,
where the policy is in memory. The digest of the policy is in the scores, because they depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from instar.components.rollout.engine import Request

if TYPE_CHECKING:
    from instar.artifact import Policy
    from instar.components.rollout.config import EngineConfig
    from instar.contract import Context

MAX_SAMPLES, MAX_TOKENS = 1024, 4096
"""Most samples, and most tokens of each, that one call may ask for."""


class PolicyHandle(Protocol):
    """What a reward function may ask a policy. `form` is that of the row, and need not be set in a reward function."""

    @property
    def digest(self) -> str:
        """Digest of the policy."""
        ...

    def logprobs(self, prompt: str, completion: str, *, form: str = "text") -> list[float]:
        """Return the log-probability of every token of `completion` after `prompt`."""
        ...

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 128, temperature: float = 1.0, form: str = "text"
    ) -> list[str]:
        """Return one sampled completion for each prompt."""
        ...


class EnginePolicy:
    """A policy that an engine serves. Equal prompts in equal order give equal samples."""

    def __init__(self, policy: Policy, engine: EngineConfig, ctx: Context) -> None:
        self._policy, self._engine, self._ctx = policy, engine, ctx

    @property
    def digest(self) -> str:
        """Digest of the policy."""
        return self._policy.digest

    def logprobs(self, prompt: str, completion: str, *, form: str = "text") -> list[float]:
        """Return the log-probability of every token of `completion` after `prompt`, as the policy gives it at temperature 1."""
        import torch

        from instar.components.policy_io import load_model, logits_dtype
        from instar.components.tokenizer import load_tokenizer
        from instar.kernels.logprob.dispatch import selected_logprob

        tokenizer = load_tokenizer(self._policy)
        model: Any = load_model(self._policy, self._ctx)
        before, after = tokenizer.encode_prompt(prompt, form), tokenizer.encode_answer(completion)
        if not after:
            return []
        ids = torch.tensor([[*before, *after]], device=model.device)
        with torch.inference_mode():
            hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[0, len(before) - 1 :]
            head, kind = model.get_output_embeddings(), logits_dtype(hidden.dtype, hidden.device.type)
            bias = None if head.bias is None else head.bias.to(kind)
            logp, _ = selected_logprob(hidden.to(kind), head.weight.to(kind), bias, ids[0, len(before) :])
        return [float(value) for value in logp]

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 128, temperature: float = 1.0, form: str = "text"
    ) -> list[str]:
        """Return one sampled completion for each prompt. Raises `ValueError` for more than one call may ask for."""
        from instar.components.rollout.engines import open_engine
        from instar.components.tokenizer import load_tokenizer

        if len(prompts) > MAX_SAMPLES or not 1 <= max_new_tokens <= MAX_TOKENS:
            raise ValueError(
                f"at most {MAX_SAMPLES} prompts and 1..{MAX_TOKENS} tokens, not {len(prompts)} and {max_new_tokens}"
            )
        tokenizer = load_tokenizer(self._policy)
        requests = [
            Request(
                request_id=f"reward/{number}",
                prompt_ids=tokenizer.encode_prompt(prompt, form),
                seeds=[self._ctx.seed(f"policy/{number}/{hashlib.sha256(prompt.encode()).hexdigest()}")],
            )
            for number, prompt in enumerate(prompts)
        ]
        engine = open_engine(self._engine, self._policy, self._ctx)
        groups = engine.sample(requests, max_new_tokens=max_new_tokens, temperature=temperature)
        return [tokenizer.decode(sample.token_ids) for (sample,) in groups]
