"""Group sampling with stock transformers causal language models.

Shapes: N prompts, R rows (samples being decoded), P prompt columns, K key columns, V vocabulary.
Each prompt is read once; its keys and values are copied to the rows of its samples. Prompts of different lengths share
a batch: they are padded on the right, where causal attention needs no mask, and the last prompt token is read by itself
in column P - 1, so that every row continues in column P. The gap is masked, and position ids count real tokens.
Log-probabilities equal those of a full unpadded forward pass up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from instar.artifact import Policy
from instar.components.rollout.checks import check_requests, check_weights, write_count
from instar.components.rollout.config import EngineConfig
from instar.components.rollout.engine import Request, Sample
from instar.components.rollout.row_cache import RowCache
from instar.components.rollout.sampling import draw, uniforms
from instar.contract import Context
from instar.errors import NumericsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFILL_TOKENS = 8192  # bounds the activations of one prefill pass
_COMPACT_SHARE = 0.25  # drop finished rows when they are this share of the batch
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One wanted sample: its prompt, its seed, and where the result belongs."""

    prompt: tuple[int, ...]
    seed: int
    request: int
    index: int


class TransformersEngine:
    """Samples from a model that must not change while the engine serves it."""

    def __init__(self, model: PreTrainedModel, *, digest: str, eos_ids: Sequence[int], max_rows: int) -> None:
        self._model: Any = model
        self._digest, self._max_rows = digest, max_rows
        self._versions = write_count(model)
        self.vocab_size: int = int(self._model.get_input_embeddings().weight.shape[0])
        eos = torch.zeros(self.vocab_size, dtype=torch.bool)
        eos[[e for e in eos_ids if e < self.vocab_size]] = True
        self._is_eos = eos.to(model.device)

    @classmethod
    def open(cls, config: EngineConfig, policy: Policy, ctx: Context) -> TransformersEngine:
        """Load the weights of `policy`. A model that others hold is copied before its precision or device changes."""
        from instar.components.policy_io import load_model
        from instar.components.tokenizer import load_tokenizer

        model: Any = load_model(policy, ctx)
        device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        dtype = _DTYPES.get(config.dtype, model.dtype)
        if model.dtype != dtype or model.device.type != device:
            model = copy.deepcopy(model).to(device=device, dtype=dtype)
        eos_ids = sorted(load_tokenizer(policy).eos_ids)
        return cls(model, digest=policy.digest, eos_ids=eos_ids, max_rows=config.max_rows)

    @property
    def digest(self) -> str:
        """Digest of the policy whose weights were loaded."""
        return self._digest

    def sample(self, requests: Sequence[Request], *, max_new_tokens: int, temperature: float) -> list[list[Sample]]:
        """Return samples per request. Raises `EngineError` for what it cannot serve, `NumericsError` for NaN logits."""
        check_weights(self._model, self._versions, self._digest)
        check_requests(requests, max_new_tokens, self._model.config, self.vocab_size)
        rows = [
            _Row(prompt=tuple(request.prompt_ids), seed=seed, request=r, index=i)
            for r, request in enumerate(requests)
            for i, seed in enumerate(request.seeds)
        ]
        rows.sort(key=lambda row: (len(row.prompt), row.prompt))
        found: dict[tuple[int, int], Sample] = {}
        with torch.inference_mode():
            for first in range(0, len(rows), self._max_rows):
                chunk = rows[first : first + self._max_rows]
                samples = self._decode(chunk, max_new_tokens, temperature)
                found |= {(row.request, row.index): sample for row, sample in zip(chunk, samples, strict=True)}
        return [[found[r, i] for i in range(len(request.seeds))] for r, request in enumerate(requests)]

    def _decode(self, rows: list[_Row], limit: int, temperature: float) -> list[Sample]:
        """Decode one batch of rows, sorted by prompt, to the stop token or `limit` tokens."""
        device, size = self._model.device, len(rows)
        noise = uniforms([row.seed for row in rows], limit).to(device) if temperature > 0 else None
        tokens = torch.zeros(size, limit, dtype=torch.int64, device=device)
        logprobs = torch.zeros(size, limit, dtype=torch.float32, device=device)
        lengths = torch.full((size,), limit, dtype=torch.int64, device=device)
        done = torch.zeros(size, dtype=torch.bool, device=device)
        live = torch.arange(size, device=device)  # rows of the batch, as indices into the outputs
        state = self._prefill(rows, limit)
        for t in range(limit):
            token, logprob = draw(state.logits, None if noise is None else noise[live, t], temperature)
            tokens[live, t], logprobs[live, t] = token, logprob
            stopped = self._is_eos[token] & ~done[live]
            lengths[live[stopped]] = t + 1
            done[live[stopped]] = True
            num_done = int(done[live].sum())
            if num_done == len(live) or t == limit - 1:
                break
            if num_done >= _COMPACT_SHARE * len(live):
                keep = (~done[live]).nonzero()[:, 0]
                live, token = live[keep], token[keep]
                state.select(keep)
            state.logits = self._step(token, state)
        return _collect(tokens, logprobs, lengths, done)

    def _prefill(self, rows: list[_Row], limit: int) -> _State:
        """Read every distinct prompt once and spread the result over its rows."""
        device = self._model.device
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        counts = dict.fromkeys(prompts, 0)
        for row in rows:
            counts[row.prompt] += 1
        width, logits, cache, first = len(prompts[-1]), [], None, 0
        length = torch.tensor([len(row.prompt) for row in rows], device=device)
        seen = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
        for part in _parts(prompts):
            part_logits, prefix = self._read(part)
            repeats = torch.tensor([counts[p] for p in part], device=device)
            owner = torch.repeat_interleave(torch.arange(len(part), device=device), repeats)
            logits.append(part_logits[owner])
            if cache is None:
                cache = RowCache(prefix, len(rows), width, width + limit)
            cache.fill(first, prefix, owner)
            taken = slice(first, first + len(owner))
            seen[taken, : len(part[-1])] = _seen(length[taken], len(part[-1]))
            first += len(owner)
        assert cache is not None
        mask = None if bool(seen.all()) else _additive(seen, width + limit, self._model.dtype)
        return _State(logits=torch.cat(logits), cache=cache, position=length, columns=width, mask=mask)

    def _read(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, DynamicCache]:
        """Return next-token logits [N, V] and the keys and values of prompts sorted by length."""
        device, cache = self._model.device, DynamicCache()
        width = len(prompts[-1])
        if len(prompts[0]) == width:
            return self._forward(torch.tensor(prompts, device=device), None, cache, None), cache
        head = width - 1
        filled = [[*p[:-1], *p[-1:] * (head - len(p) + 1)] for p in prompts]
        self._forward(torch.tensor(filled, device=device), None, cache, None)
        last = torch.tensor([[p[-1]] for p in prompts], device=device)
        length = torch.tensor([len(p) for p in prompts], device=device)
        mask = _additive(_seen(length, width), width, self._model.dtype)
        return self._forward(last, (length - 1)[:, None], cache, mask), cache

    def _step(self, token: Tensor, state: _State) -> Tensor:
        """Append one token [R] to every row and return the next logits [R, V]."""
        state.columns += 1
        mask = None if state.mask is None else state.mask[..., : state.columns]
        logits = self._forward(token[:, None], state.position[:, None], state.cache, mask)
        state.position = state.position + 1
        return logits

    def _forward(self, ids: Tensor, position: Tensor | None, cache: Any, mask: Tensor | None) -> Tensor:
        """Run the model and return the logits [R, V] of the last column."""
        if position is None:
            position = torch.arange(ids.shape[1], device=ids.device)[None]
        out = self._model(
            input_ids=ids,
            position_ids=position,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


@dataclass(kw_only=True, slots=True)
class _State:
    """What decoding carries: logits [R, V], cache, next position [R], used columns, mask [R, 1, 1, P + limit]."""

    logits: Tensor
    cache: RowCache
    position: Tensor
    columns: int
    mask: Tensor | None

    def select(self, keep: Tensor) -> None:
        """Keep only the rows `keep`."""
        self.cache.select(keep)
        self.position = self.position[keep]
        self.mask = None if self.mask is None else self.mask[keep]


def _parts(prompts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Split prompts, sorted by length, into passes of at most `_PREFILL_TOKENS` padded tokens."""
    parts: list[list[tuple[int, ...]]] = [[]]
    for prompt in prompts:
        if parts[-1] and len(prompt) * (len(parts[-1]) + 1) > _PREFILL_TOKENS:
            parts.append([])
        parts[-1].append(prompt)
    return parts


def _seen(length: Tensor, width: int) -> Tensor:
    """Return which columns hold a real token, bool [R, width]: all but the last prompt token, and that in the last."""
    column = torch.arange(width, device=length.device)[None]
    return (column < length[:, None] - 1) | (column == width - 1)


def _additive(seen: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return an additive mask [R, 1, 1, width]; columns after those of `seen` are open."""
    mask = torch.zeros(len(seen), width, dtype=dtype, device=seen.device)
    mask[:, : seen.shape[1]].masked_fill_(~seen, float("-inf"))
    return mask[:, None, None]


def _collect(tokens: Tensor, logprobs: Tensor, lengths: Tensor, done: Tensor) -> list[Sample]:
    size = lengths.tolist()
    kept = torch.arange(tokens.shape[1], device=tokens.device)[None] < lengths[:, None]
    if not bool(torch.isfinite(logprobs[kept]).all()):
        raise NumericsError(
            expected="finite logits",
            found="NaN or infinity",
            where="rollout",
            action="check the last update for divergence",
        )
    return [
        Sample(token_ids=ids[:n], logprobs=values[:n], truncated=not stopped)
        for ids, values, n, stopped in zip(tokens.tolist(), logprobs.tolist(), size, done.tolist(), strict=True)
    ]
