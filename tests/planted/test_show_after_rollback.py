"""Planted: a gate goes back. What `show --json` names is the policy that the evolution goes on from, not the one made last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from instar.artifact import Evaluation, Policy, Rollouts, Tasks
from instar.ledger import GENESIS, Entry
from instar.pipelines.evolution import Position, settle
from instar.pipelines.gate import Decision
from instar.state import State
from instar.status import position

GATES = st.tuples(st.sampled_from(["continue", "hold", "rollback", "stop"]), st.booleans())


def entry(kind: Any, body: dict[str, Any]) -> Entry:
    return Entry(seq=0, prev=GENESIS, kind=kind, body=body, time={})


def candidate(number: int) -> Position:
    """Return what iteration `number` hands to its gate."""
    policy, path = Policy(Path(), f"policy{number}"), Path()
    state = State(tasks=Tasks(path), data=Rollouts(path), policy=policy, reference=policy)
    return Position(
        iteration=number,
        state=state,
        champion=state.champion(),
        champion_evaluation=Evaluation(path),
        base_test=Evaluation(path),
    )


@given(gates=st.lists(GATES, min_size=1, max_size=8))
def test_it_is_the_policy_that_the_loop_goes_on_from(gates: list[tuple[Any, bool]]) -> None:
    entries, stands = [], None
    for number, (action, promote) in enumerate(gates):
        decision = Decision(action=action, promote=promote, reason="planted")
        entries.append(entry("stage", {"outputs": {"policy": f"policy{number}"}}))
        entries.append(entry("gate", {"decision": {"action": action, "promote": promote}}))
        stands = settle(decision, candidate(number), stands)
        assert position(entries) == (stands.state.policy.digest, stands.champion.policy.digest)


def test_while_a_stage_after_the_gate_is_still_to_come_it_is_the_last_one_made() -> None:
    entries = [entry("stage", {"outputs": {"policy": "base"}}), entry("stage", {"outputs": {"batch": "b"}})]
    assert position(entries) == ("base", "") and position([]) == ("", "")
