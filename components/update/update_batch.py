"""Joins the prompt slots of a batch, its rollouts and their scores into flat arrays, and refuses tables that do not fit.

    batch     one row for each slot: group id, arm, group size     -> groups, in slot order
    rollouts  one row for each answer: tokens, steps, group id     -> tokens of all rollouts, one after the other
    scores    one row for each rollout: status, reward, correct    -> reward and correctness of each rollout

Example: rollout i has the tokens from token_offset[i] to token_offset[i + 1].
Shapes: N rollouts in file order, G groups in slot order, T tokens of all rollouts, M action tokens of all rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from instar.components.update.advantages import Bools, Floats, Ints
from instar.errors import ContractError, InstarError, RewardError

pc: Any = pyarrow.compute  # its functions are created at import, where a type checker cannot see them


@dataclass(frozen=True, kw_only=True)
class UpdateBatch:
    """What an update trains on. Nothing may change its arrays."""

    rollout_id: pa.Array
    tokens: Ints
    """[T] ids"""
    token_offset: Ints
    """[N + 1] position in `tokens` at which each rollout begins"""
    action_at: Ints
    """[M] position of each action token in `tokens`, ascending"""
    action_offset: Ints
    """[N + 1] position in `action_at` at which each rollout begins"""
    behaviour: Floats
    """[M] log-probability that the sampler recorded"""
    group: Ints
    """[N] number of its group"""
    group_arm: Ints
    """[G] number of its arm, in `arms`"""
    arms: tuple[str, ...]
    group_size: Ints
    """[G] number of rollouts that were asked for"""
    kind: tuple[str, ...]
    """[N] kind of trajectory"""
    policy: tuple[str, ...]
    """[N] fingerprint of the weights that sampled it"""
    scored: Bools
    """[N] whether its score is a number"""
    dropped: Bools
    """[G] whether it has fewer than `min_group` scored rollouts"""
    reward: Floats
    """[N], 0 where not scored"""
    correct: Floats
    """[N], 0 where not scored"""
    truncated: Bools
    """[N] whether it reached the length limit"""
    own_advantage: Floats | None = None
    """[N] as the user's function gives it"""
    own_choice: Bools | None = None
    """[G] whether the user's function takes the group"""

    @property
    def num_groups(self) -> int:
        """The number of groups, G."""
        return len(self.group_arm)

    @property
    def valid(self) -> Bools:
        """[N] whether it is scored and its group was not dropped."""
        return self.scored & ~self.dropped[self.group]

    @property
    def lengths(self) -> Ints:
        """[N] number of action tokens."""
        return np.diff(self.action_offset)

    @property
    def widths(self) -> Ints:
        """[N] number of tokens."""
        return np.diff(self.token_offset)

    @property
    def prompt_lengths(self) -> Ints:
        """[N] number of tokens before the first action."""
        return np.asarray(self.action_at[self.action_offset[:-1]] - self.token_offset[:-1], dtype=np.int64)


def ragged(starts: Ints, lengths: Ints) -> Ints:
    """Return start, start + 1, ... for each pair of start and length, one after the other.

    Example: starts 5 and 9 with lengths 2 and 3 give 5, 6, 9, 10, 11.
    """
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.repeat(starts - before, lengths) + np.arange(total), dtype=np.int64)


def join(batch: pa.Table, rollouts: pa.Table, scores: pa.Table, min_group: int) -> UpdateBatch:
    """Return the joined tables.

    A rollout without a score, or a score that is not finite, is a `RewardError`. Every other misfit is a `ContractError`.
    """
    ids = _array(rollouts, "rollout_id")
    order = _match_scores(ids, _array(scores, "rollout_id"))
    token_offset, tokens = _lists(_array(rollouts, "token_ids"))
    action_at, action_offset = _actions(_array(rollouts, "steps"), token_offset)
    behaviour_offset, behaviour = _lists(_array(rollouts, "behaviour_logprobs"))
    if not np.array_equal(behaviour_offset, action_offset):
        bad = int(np.flatnonzero(np.diff(behaviour_offset) != np.diff(action_offset))[0])
        raise _broken(
            "one behaviour log-probability for each action token",
            _count(bad, behaviour_offset, action_offset),
            ids,
            bad,
        )
    if len(behaviour) and behaviour.max() > 1e-3:
        bad = int(np.searchsorted(action_offset, int(behaviour.argmax()), side="right")) - 1
        raise _broken("log-probabilities <= 0", f"{behaviour.max():g}", ids, bad)
    group, group_arm, arms, group_size = _groups(batch, rollouts)
    scored, reward, correct = _verdicts(scores, order, ids)
    num_scored = np.bincount(group[scored], minlength=len(group_arm))
    return UpdateBatch(
        rollout_id=ids,
        tokens=tokens,
        token_offset=token_offset,
        action_at=action_at,
        action_offset=action_offset,
        behaviour=behaviour,
        group=group,
        group_arm=group_arm,
        arms=arms,
        group_size=group_size,
        kind=tuple(_array(rollouts, "kind").to_pylist()),
        policy=tuple(_array(rollouts, "policy").to_pylist()),
        scored=scored,
        dropped=num_scored < min_group,
        reward=reward,
        correct=correct,
        truncated=_array(rollouts, "truncated").to_numpy(zero_copy_only=False),
    )


def _array(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def _lists(values: pa.Array) -> tuple[Ints, NDArray[Any]]:
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return offsets, values.flatten().to_numpy(zero_copy_only=False)


def _match_scores(ids: pa.Array, scored_ids: pa.Array) -> Ints:
    """Return the row of each rollout's score, [N]."""
    position = pc.index_in(ids, value_set=scored_ids)
    if position.null_count or len(ids) != len(scored_ids):
        raise RewardError(
            expected=f"one score for each of {len(ids)} rollouts",
            found=f"{len(scored_ids)} scores, {position.null_count} rollouts without one",
            where="scores:rollout_id",
            action="score every rollout: write status=abstained or failed instead of leaving one out",
        )
    return np.asarray(position.to_numpy(zero_copy_only=False), dtype=np.int64)


def _verdicts(scores: pa.Table, order: Ints, ids: pa.Array) -> tuple[Bools, Floats, Floats]:
    scored = np.asarray(pc.equal(_array(scores, "status"), "scored").to_numpy(zero_copy_only=False), dtype=np.bool_)[
        order
    ]
    out = []
    for name in ("reward", "correct"):
        values = pc.fill_null(_array(scores, name), float("nan")).to_numpy(zero_copy_only=False)[order]
        bad = np.flatnonzero(scored & ~np.isfinite(values))
        if len(bad):
            raise RewardError(
                expected=f"a finite {name} where status is scored",
                found=f"{len(bad)} without one, first {ids[int(bad[0])].as_py()}",
                where=f"scores:{name}",
                action="write status=failed with a reason",
            )
        out.append(np.where(scored, values, 0.0))
    return scored, out[0], out[1]


def _actions(steps: pa.Array, token_offset: Ints) -> tuple[Ints, Ints]:
    """Return the positions of action tokens, and where each rollout's begin. Steps must cover each rollout without gaps."""
    num_steps = pc.list_value_length(steps).to_numpy(zero_copy_only=False)
    flat = steps.flatten()
    start, end = (flat.field(n).to_numpy(zero_copy_only=False) for n in ("start", "end"))
    owner = np.repeat(np.arange(len(num_steps)), num_steps)
    first = np.concatenate([[0], np.cumsum(num_steps)])[:-1]
    before = np.concatenate([[0], end[:-1]])
    before[first[num_steps > 0]] = 0
    last_end = np.zeros(len(num_steps), dtype=np.int64)
    last_end[owner] = end
    wrong = (start != before) | (end < start)
    if wrong.any() or not np.array_equal(last_end, np.diff(token_offset)):
        raise ContractError(
            expected="steps that cover token_ids in order, each token once",
            found="a gap, an overlap, or tokens outside every step",
            where="rollouts:steps",
            action="let the sampler record each span of tokens once",
        )
    action = np.asarray(pc.equal(flat.field("role"), "action").to_numpy(zero_copy_only=False), dtype=np.bool_)
    length = np.where(action, end - start, 0)
    at = ragged((token_offset[owner] + start)[action], (end - start)[action])
    count = np.bincount(owner, weights=length, minlength=len(num_steps)).astype(np.int64)
    if (action & (start == 0) & (end > 0)).any() or (count == 0).any():
        raise ContractError(
            expected="a prompt, then at least one action token",
            found="a rollout without prompt or without action",
            where="rollouts:steps",
            action="give the policy a prompt: without one, nothing predicts the first token",
        )
    return at, np.concatenate([[0], np.cumsum(count)]).astype(np.int64)


def _groups(batch: pa.Table, rollouts: pa.Table) -> tuple[Ints, Ints, tuple[str, ...], Ints]:
    batch = batch.sort_by("slot")
    group = pc.index_in(_array(rollouts, "group_id"), value_set=_array(batch, "group_id"))
    size = _array(batch, "group_size").to_numpy(zero_copy_only=False)
    if group.null_count:
        raise _mixed("rollouts of groups in the batch", f"{group.null_count} rollouts of other groups")
    group_index = np.asarray(group.to_numpy(zero_copy_only=False), dtype=np.int64)
    if (np.bincount(group_index, minlength=len(size)) > size).any():
        raise _mixed("at most group_size rollouts in each group", "more in some group")
    arm_names = _array(batch, "arm")
    arms = tuple(sorted(pc.unique(arm_names).to_pylist()))
    arm = np.asarray(pc.index_in(arm_names, value_set=pa.array(arms)).to_numpy(zero_copy_only=False), dtype=np.int64)
    if not pc.all(pc.equal(_array(rollouts, "arm"), arm_names.take(group))).as_py() and len(group_index):
        raise _mixed("the arm of its slot on each rollout", "a rollout with another arm")
    return group_index, arm, arms, np.asarray(size, dtype=np.int64)


def _mixed(expected: str, found: str) -> InstarError:
    return ContractError(
        expected=expected, found=found, where="rollouts:group_id", action="pass the batch for which they were sampled"
    )


def _broken(expected: str, found: str, ids: pa.Array, row: int) -> InstarError:
    where = f"rollouts:{ids[row].as_py()}"
    return ContractError(expected=expected, found=found, where=where, action="correct what the sampler records")


def _count(row: int, found: Ints, expected: Ints) -> str:
    return f"{found[row + 1] - found[row]} for {expected[row + 1] - expected[row]} tokens"
