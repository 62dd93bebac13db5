"""The watchdog of the chain: look at the head and at the runs, and repair what is broken.

A recurring run calls it. It leaves a healthy chain alone. A run that failed or vanished gets a successor, up to the limit of
attempts. A run that a person has cancelled stops the evolution, because a machine must not overrule a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from instar import head as heads
from instar.head import ChainConfig, Claim, Head
from instar.kfp.api import LIVE, KfpApi, RunInfo
from instar.pipelines.chain.submission import Action, again, halt, is_cancelled, known, submit_current
from instar.store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be done about the newest attempt: leave it, stop the evolution, or try again."""

    what: Literal["wait", "stop", "again"]
    reason: str


def tick(store: ObjectStore, api: KfpApi, evolution: str, now: float, owner: str) -> Action:
    """Bring the chain one step closer to health and say what was done. `now` is in seconds since the epoch.

    Ticks may overlap with each other and with the runs. Every change goes through a claim or a compare-and-swap, so a verdict
    about a head that has moved since has no effect.
    """
    versioned = heads.read_head(store, evolution)
    if versioned is None or versioned[0].status != "running":
        return Action(did="nothing", reason=versioned[0].status if versioned else "no evolution of this name")
    head, chain = versioned[0], heads.read_chain(store, evolution)
    latest = heads.latest_claim(store, evolution, head.segment)
    if latest is None or latest.attempt <= head.base:
        return submit_current(store, api, evolution, owner, now)
    verdict = _look(api, chain, head, latest, now)
    if verdict.what == "wait":
        return Action(did="nothing", reason=verdict.reason)
    if verdict.what == "stop":
        return halt(store, api, chain, head, verdict.reason)
    return again(store, api, chain, head, latest, verdict.reason, owner, now)


def _look(api: KfpApi, chain: ChainConfig, head: Head, latest: Claim, now: float) -> Verdict:
    for run_id in (head.by, head.run):
        if is_cancelled(api, run_id):
            return Verdict(what="stop", reason=f"run {run_id} was cancelled")
    runs = [known(api, run) for run in api.find_runs(chain.experiment, latest.run_name)]
    return judge(head, latest, runs, now, chain.grace_s)


def judge(head: Head, latest: Claim, runs: Sequence[RunInfo], now: float, grace_s: float) -> Verdict:
    """Decide about the newest attempt from its runs. There can be several of one name; the one that holds the fence counts.

    A claim without a run is given `grace_s` seconds: its run may be on its way. The clock that dated a claim may be ahead of ours.
    If it is ahead by more than `grace_s`, the claim is not waited for.
    """
    cancelled = [run.run_id for run in runs if run.cancelled]
    if cancelled:
        return Verdict(what="stop", reason=f"run {cancelled[0]} was cancelled")
    counting = [run for run in runs if run.run_id == head.run] or list(runs)
    live = [run for run in counting if run.state in LIVE]
    if live:
        return Verdict(what="wait", reason=f"run {live[0].run_id} is {live[0].state or 'new'}")
    if counting:
        run = counting[-1]
        return Verdict(what="again", reason=f"run {run.run_id} is {run.state} {run.error}".rstrip())
    if abs(now - latest.at) < grace_s:
        return Verdict(what="wait", reason=f"attempt {latest.attempt} was claimed {now - latest.at:.0f} s ago")
    return Verdict(what="again", reason=f"attempt {latest.attempt} never became a run")
