"""The engine that samples from causal language models of transformers, on CPU or CUDA.

It holds one policy and checks the requests. The batcher (`batching`) decodes, and a forward pass (`forward`) does the arithmetic.
Log-probabilities equal those of one forward pass over the whole sequence without padding, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from instar.artifact import Policy
from instar.components.rollout.batching import Batcher, Ends, Row
from instar.components.rollout.checks import check_decoding, check_requests, check_weights, write_count
from instar.components.rollout.engine import Request, Sample
from instar.components.rollout.forward import Forward
from instar.components.rollout.open_forward import open_forward
from instar.components.rollout.packed_linear import has_bfloat16
from instar.components.rollout.stops import StopRule, stop_rule
from instar.contract import Context
from instar.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from instar.components.rollout.config import EngineConfig
    from instar.components.tokenizer import TextTokenizer


class TransformersEngine:
    """Samples from a model. The model must not change while the engine serves it."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        digest: str,
        eos_ids: Sequence[int],
        max_rows: int,
        tokenizer: TextTokenizer | None = None,
        dtype: torch.dtype | None = None,
        device: str = "",
        forward: Literal["auto", "stock"] = "auto",
    ) -> None:
        """Hold `model`. The `tokenizer` is needed for stop strings only. Precision and device default to those of the model."""
        self._model: Any = model
        self._digest, self._max_rows, self._tokenizer = digest, max_rows, tokenizer
        self._versions = write_count(model)
        self.vocab_size: int = int(self._model.get_input_embeddings().weight.shape[0])
        self._is_eos = np.zeros(self.vocab_size, dtype=np.bool_)
        self._is_eos[[e for e in eos_ids if e < self.vocab_size]] = True
        self.precision: torch.dtype = dtype or model.dtype
        self.forward: Forward = open_forward(model, dtype or model.dtype, device or model.device.type, forward)

    @classmethod
    def open(cls, config: EngineConfig, policy: Policy, ctx: Context) -> TransformersEngine:
        """Load the weights of `policy`."""
        from instar.components.policy_io import load_model
        from instar.components.tokenizer import load_tokenizer

        model, tokenizer = load_model(policy, ctx), load_tokenizer(policy)
        device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        engine = cls(
            model,
            digest=policy.digest,
            eos_ids=sorted(tokenizer.eos_ids),
            max_rows=config.max_rows,
            tokenizer=tokenizer,
            dtype=precision(config.dtype, model.dtype, device),
            device=device,
            forward=config.forward,
        )
        check_decoding(engine, model, ctx.resident)
        return engine

    @property
    def digest(self) -> str:
        """Digest of the policy whose weights were loaded."""
        return self._digest

    def facts(self) -> dict[str, float]:
        """Return which code decodes, for the ledger."""
        return {
            "decode_packed": float(self.forward.name == "packed"),
            "decode_compiled": float(self.forward.compiled),
        }

    def sample(
        self, requests: Sequence[Request], *, max_new_tokens: int, temperature: float, stop: tuple[str, ...] = ()
    ) -> list[list[Sample]]:
        """Return the samples of each request. Raises `EngineError` for what it cannot serve, `NumericsError` for NaN logits."""
        check_weights(self._model, self._versions, self._digest)
        check_requests(requests, max_new_tokens, self._model.config, self.vocab_size)
        rows = [
            Row(prompt=tuple(request.prompt_ids), seed=seed, request=r, index=i)
            for r, request in enumerate(requests)
            for i, seed in enumerate(request.seeds)
        ]
        rows.sort(key=lambda row: (len(row.prompt), row.prompt))
        ends = Ends(tokens=self._is_eos, rule=self._rule(stop), limit=max_new_tokens)
        sample_of: dict[tuple[int, int], Sample] = {}
        if rows:
            with torch.inference_mode():
                samples = Batcher(self.forward, rows, self._max_rows, ends, temperature).run()
            sample_of = {(row.request, row.index): sample for row, sample in zip(rows, samples, strict=True)}
        return [[sample_of[r, i] for i in range(len(request.seeds))] for r, request in enumerate(requests)]

    def _rule(self, stop: tuple[str, ...]) -> StopRule | None:
        if stop and self._tokenizer is None:
            raise EngineError(
                expected="a tokenizer, because stop strings need one",
                found="none",
                where="rollout engine",
                action="pass the policy's tokenizer to the engine",
            )
        return None if self._tokenizer is None else stop_rule(stop, self._tokenizer, self.vocab_size)


def precision(wanted: Literal["float32", "bfloat16", "auto"], stored: torch.dtype, device: str) -> torch.dtype:
    """Return the type to compute in. A CPU without bfloat16 instructions computes in float32, which is more precise and faster."""
    if wanted == "auto":
        return stored
    return torch.bfloat16 if wanted == "bfloat16" and (device != "cpu" or has_bfloat16()) else torch.float32
