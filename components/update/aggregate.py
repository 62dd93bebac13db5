"""How token losses become one number: loss = sum_i w_i sum_t l_it, over the sequences i of one optimiser step.

    rule              w_i            used by
    token_mean        1 / tokens     DAPO
    seq_token_mean    1 / (B T_i)    GRPO
    seq_token_sum     1 / B          RLOO
    constant          1 / (B L_max)  Dr. GRPO

T_i is the length of a sequence. B, the number of sequences, and the number of tokens are counted over the whole step. So
the loss is the same however the step is split into micro-batches, padded or packed. A sequence that is left out of the
loss is not counted either.

Example: two sequences of 2 and 8 tokens. `token_mean` gives each 1/10. `seq_token_mean` gives the first 1/4, the second 1/16.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from instar.components.update.advantages import Bools, Floats, Ints

Rule = Literal["token_mean", "seq_token_mean", "seq_token_sum", "constant"]


def normaliser(rule: Rule, lengths: Ints, included: Bools, max_length: int = 0) -> float:
    """Return what divides the loss: the number of tokens, of sequences, or of sequences times L_max. It is at least 1."""
    if rule == "token_mean":
        return float(max(lengths[included].sum(), 1))
    sequences = float(max(included.sum(), 1))
    return sequences * max_length if rule == "constant" else sequences


def sequence_weights(rule: Rule, lengths: Ints, included: Bools, max_length: int = 0) -> Floats:
    """Return w [N] for one optimiser step. A sequence that is not `included` has 0. `lengths` count action tokens."""
    weights = np.where(included, 1.0 / normaliser(rule, lengths, included, max_length), 0.0)
    if rule == "seq_token_mean":
        weights = weights / np.maximum(lengths, 1)
    return np.asarray(weights, dtype=np.float64)
