"""Which groups are trained on (DAPO, arXiv 2503.14476, section 3.2).

A group is judged by `correct`, not by the reward. A reward for the format alone would make a group look as if it had a
signal, although all its answers are wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instar.components.update.advantages import Bools, Floats, Ints, group_sum, zero_variance

if TYPE_CHECKING:
    from instar.components.update.config import Filter


def keep_groups(
    config: Filter, correct: Floats, group: Ints, num_groups: int, own_choice: Bools | None = None
) -> Bools:
    """Return for each group whether it is trained on, [G]. Groups are in slot order. An empty group never is.

    `own_choice` [G] is what a function of the user's says.
    """
    count = np.bincount(group, minlength=num_groups)
    keep = count > 0
    if config.kind == "zero_variance":
        keep &= ~zero_variance(correct, group, num_groups)
    elif config.kind == "band":
        mean = group_sum(correct, group, num_groups) / np.maximum(count, 1)
        keep &= (mean > config.low) & (mean < config.high)
    if own_choice is not None:
        keep &= own_choice
    if config.keep_prompts:
        keep &= np.cumsum(keep) <= config.keep_prompts
    return np.asarray(keep, dtype=np.bool_)
