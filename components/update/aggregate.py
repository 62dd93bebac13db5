"""One normaliser per optimiser step, from counts of the whole step: loss = sum_i w_i sum_t l_it.

w depends on the sequence alone, so any split into micro-batches, any padding and any packing gives the same loss.
`token_mean` 1/tokens, `seq_token_mean` 1/(B T_i), `seq_token_sum` 1/B, `constant` 1/(B L_max). Sequences that are
left out of the loss are left out of B and of the token count as well.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from instar.components.update.advantages import Bools, Floats, Ints

Rule = Literal["token_mean", "seq_token_mean", "seq_token_sum", "constant"]


def normaliser(rule: Rule, lengths: Ints, included: Bools, max_length: int = 0) -> float:
    """Return the number of tokens, of sequences, or sequences times L_max that divides the loss; at least 1."""
    if rule == "token_mean":
        return float(max(lengths[included].sum(), 1))
    sequences = float(max(included.sum(), 1))
    return sequences * max_length if rule == "constant" else sequences


def sequence_weights(rule: Rule, lengths: Ints, included: Bools, max_length: int = 0) -> Floats:
    """Return w [N] of one optimiser step's sequences; 0 where not `included` [N]. lengths [N] in action tokens."""
    weights = np.where(included, 1.0 / normaliser(rule, lengths, included, max_length), 0.0)
    if rule == "seq_token_mean":
        weights = weights / np.maximum(lengths, 1)
    return np.asarray(weights, dtype=np.float64)
