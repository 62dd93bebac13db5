"""Continuous batching: samples share slots. When a sample ends, its slot takes the next waiting sample.

Shapes: N wanted samples, S slots, R live rows, L token limit, V vocabulary.

- No sample waits for the longest one.
- Samples wait in the order of their prompts, so samples of one prompt stand together. A prompt is read once and copied to each of
  its samples. Its keys and values are held until all of these samples have a slot.
- Counters and drawn tokens live in numpy on the host. Each step brings its drawn tokens there in one transfer.
- A sample draws with its own uniform numbers, one per position. So its neighbours can change it by rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from instar.components.rollout.engine import Sample
from instar.components.rollout.forward import Forward
from instar.components.rollout.sampling import pick, uniforms
from instar.components.rollout.slot_cache import Prefix, SlotCache, first_columns, passes
from instar.components.rollout.stops import StopRule
from instar.errors import NumericsError

_PREFILL_TOKENS = 8192  # bounds the activations of one prefill pass
_REFILL_SHARE = 0.125  # new prompts wait until this share of the slots is free: reading several at once costs less

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One wanted sample: its prompt, its seed, and where the result belongs."""

    prompt: tuple[int, ...]
    seed: int
    request: int
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ends:
    """What ends a sample: stop tokens (bool [V] on the host), a rule for stop strings, and the token limit."""

    tokens: npt.NDArray[np.bool_]
    rule: StopRule | None
    limit: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A prompt that was read, while some of its samples still wait for a slot."""

    prompt: tuple[int, ...]
    logits: Tensor
    prefix: Prefix


class Batcher:
    """Decodes rows that are sorted by length and prompt. An instance decodes once."""

    def __init__(self, forward: Forward, rows: Sequence[Row], slots: int, ends: Ends, temperature: float) -> None:
        self._forward, self._rows, self._ends, self._temperature = forward, rows, ends, temperature
        self._slots, count = min(slots, len(rows)), len(rows)
        self._noise = uniforms([row.seed for row in rows], ends.limit).numpy() if temperature > 0 else None
        self._candidates = None if ends.rule is None else ends.tokens.copy()
        if ends.rule is not None and self._candidates is not None:
            self._candidates[list(ends.rule.candidates)] = True
        self._tokens = np.zeros((count, ends.limit), dtype=np.int64)
        self._logprobs = np.zeros((count, ends.limit), dtype=np.float32)
        self._lengths = np.zeros(count, dtype=np.int64)
        self._stopped = np.zeros(count, dtype=np.bool_)
        self._live = self._next = 0
        self._row = np.zeros(self._slots, dtype=np.int64)  # slot -> row
        self._position = np.zeros(self._slots, dtype=np.int64)  # slot -> column of the next token
        self._waiting_prompt: _Read | None = None
        self._logits: Tensor = torch.empty(0, device=forward.device)
        self._cache: SlotCache | None = None
        self._columns = max(len(row.prompt) for row in rows) + ends.limit

    def run(self) -> list[Sample]:
        """Return one sample per row, in the order of the rows. Raises `NumericsError` for logits that are not finite."""
        while self._live or self._next < len(self._rows):
            self._refill()
            token = self._retire(self._draw())
            if self._live:
                self._step(token)
        return [self._sample(i) for i in range(len(self._rows))]

    def _refill(self) -> None:
        """Give free slots to waiting rows. Rows whose prompt was read get one at once, others when enough slots are free."""
        self._place_waiting_prompt()
        free, waiting = self._slots - self._live, len(self._rows) - self._next
        if not waiting or not free or (self._live and free < _REFILL_SHARE * self._slots and free < waiting):
            return
        prompts = list(dict.fromkeys(row.prompt for row in self._rows[self._next : self._next + free]))
        for part in passes(prompts, _PREFILL_TOKENS):
            logits, prefix = self._forward.read(part)
            number = {prompt: i for i, prompt in enumerate(part)}
            chosen = self._rows[self._next : self._next + self._slots - self._live]
            self._place(prefix, logits, [number[row.prompt] for row in chosen if row.prompt in number])
            end = len(part) - 1
            if self._next < len(self._rows) and self._rows[self._next].prompt == part[end]:
                copy = [(k[end:].clone(), v[end:].clone()) for k, v in prefix]
                self._waiting_prompt = _Read(prompt=part[end], logits=logits[end:].clone(), prefix=copy)

    def _place_waiting_prompt(self) -> None:
        """Give free slots to more samples of the prompt that is held, and forget it when all of them have one."""
        read = self._waiting_prompt
        if read is None:
            return
        waiting = self._rows[self._next : self._next + self._slots - self._live]
        same = [0 for row in waiting if row.prompt == read.prompt]
        if same:
            self._place(read.prefix, read.logits, same)
        if self._next == len(self._rows) or self._rows[self._next].prompt != read.prompt:
            self._waiting_prompt = None

    def _place(self, prefix: Prefix, logits: Tensor, owner: list[int]) -> None:
        """Put the next waiting rows into the slots behind the live ones. Row i gets prompt number `owner[i]` of `prefix`."""
        first, count, width = self._live, len(owner), prefix[0][0].shape[2]
        if self._cache is None:
            longest = len(self._rows[-1].prompt)
            self._cache = SlotCache(prefix, self._slots, first_columns(longest, self._columns))
        self._cache.reserve(width, self._columns)
        index = torch.tensor(owner, device=logits.device)
        self._cache.place(first, prefix, index)
        self._row[first : first + count] = np.arange(self._next, self._next + count)
        self._position[first : first + count] = [len(r.prompt) for r in self._rows[self._next : self._next + count]]
        self._logits = torch.cat([self._logits, logits[index]]) if first else logits[index]
        self._live, self._next = first + count, self._next + count

    def _draw(self) -> Ints:
        """Draw the next token of every live row. Record it with its log-probability, and return the tokens [R]."""
        row = self._row[: self._live]
        noise = None
        if self._noise is not None:
            noise = torch.from_numpy(self._noise[row, self._lengths[row]]).to(self._forward.device)
        token, logprob = pick(self._logits, noise, self._temperature)
        both = torch.stack([token.double(), logprob.double()]).cpu().numpy()
        drawn: Ints = both[0].astype(np.int64)
        self._tokens[row, self._lengths[row]] = drawn
        self._logprobs[row, self._lengths[row]] = both[1]
        self._lengths[row] += 1
        return drawn

    def _retire(self, token: Ints) -> Ints:
        """Take ended rows out of their slots and return the tokens of the others. Rows from behind move into the holes."""
        row = self._row[: self._live]
        over = self._ends.tokens[token]
        if self._candidates is not None and self._ends.rule is not None:
            for i in np.flatnonzero(self._candidates[token] & ~over):
                over[i] = self._ends.rule.ends(self._tokens[row[i], : self._lengths[row[i]]].tolist())
        self._stopped[row[over]] = True
        over |= self._lengths[row] >= self._ends.limit
        left = int((~over).sum())
        if left < self._live:
            self._check(row[over])
            holes = np.flatnonzero(over[:left])
            source = left + np.flatnonzero(~over[left:])
            if len(holes) and self._cache is not None:
                self._cache.move(source.tolist(), holes.tolist(), int(self._position[source].max()))
                for values in (self._row, self._position, token):
                    values[holes] = values[source]
            self._live = left
        return token[:left]

    def _step(self, token: Ints) -> None:
        """Append the tokens and compute the next logits [R, V]."""
        position = self._position[: self._live]
        columns = int(position.max()) + 1
        assert self._cache is not None
        self._cache.reserve(columns, self._columns)
        device = self._forward.device
        where = torch.from_numpy(position.copy()).to(device)
        ragged = columns - 1 > int(position.min())
        self._logits = self._forward.step(torch.from_numpy(token).to(device), where, self._cache, columns, ragged)
        position += 1

    def _check(self, rows: Ints) -> None:
        for row in rows:
            if not np.isfinite(self._logprobs[row, : self._lengths[row]]).all():
                raise NumericsError(
                    expected="finite logits",
                    found="NaN or infinity",
                    where="rollout",
                    action="check whether the last update diverged",
                )

    def _sample(self, i: int) -> Sample:
        n = int(self._lengths[i])
        values: Any = self._logprobs[i, :n].tolist()
        return Sample(token_ids=self._tokens[i, :n].tolist(), logprobs=values, truncated=not self._stopped[i])
