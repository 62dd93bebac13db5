"""Submit, stop and resume the chain of Kubeflow runs of an evolution: one run per segment, started once.

Two processes may try to start the same run. An object of the store that only one of them can create, the claim, decides which
one may. Creating a run can time out although the server created it, so we look for the run before we create another. The server
may also execute a creation late, when a second run is there already. Such a duplicate stops at its first task, because the fence
has another holder by then (`instar.fence.hold`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from instar import head as heads
from instar.errors import ConfigError, UnavailableError
from instar.head import ChainConfig, Claim, Head
from instar.kfp.api import LIVE, KfpApi, RunInfo, RunSpec
from instar.store import ObjectStore

Did: TypeAlias = Literal["nothing", "submitted", "adopted", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Action:
    """What was done to the chain and why. `run` is the run that was created or found."""

    did: Did
    reason: str
    run: str = ""


def start(
    store: ObjectStore, api: KfpApi, head: Head, chain: ChainConfig, owner: str, now: float | None = None
) -> Action:
    """Begin an evolution: write `chain.json` and the first head, then submit its first run. It can be repeated after a crash.

    Raises `ConfigError` when the experiment holds runs of an earlier evolution of this name, which could be taken for its own.
    """
    if heads.read_head(store, head.evolution) is None:
        name = heads.run_name(head.evolution, head.segment, 1)
        old = api.find_runs(chain.experiment, name)
        if old and heads.read_head(store, head.evolution) is None:
            raise ConfigError(
                expected=f"no run called '{name}' before the evolution begins",
                found=f"run {old[0].run_id}",
                where=f"experiment {chain.experiment}",
                action="choose another name for the evolution, or delete the runs of the old one",
            )
        heads.create_chain(store, head.evolution, chain)
        heads.create_head(store, head)
    return submit_current(store, api, head.evolution, owner, now)


def submit_current(store: ObjectStore, api: KfpApi, evolution: str, owner: str, now: float | None = None) -> Action:
    """Make sure that the segment at the head has its run.

    A run that somebody else created is adopted. A claim that is older than `grace_s` and never became a run is taken over.
    `owner` names this caller, for example by the id of the run that its task belongs to. A caller that is started again gives the
    same name, and so finishes what it had begun. Two processes that live at one time must not share a name. `now` is in
    seconds since the epoch.
    """
    versioned = heads.read_head(store, evolution)
    if versioned is None or versioned[0].status != "running":
        return Action(did="nothing", reason=versioned[0].status if versioned else "no evolution of this name")
    head = versioned[0]
    chain = heads.read_chain(store, evolution)
    if head.segment > chain.max_segments:
        return end(store, head, "failed", f"segment {head.segment} is above the limit of {chain.max_segments}")
    for run_id in (head.by, head.run):
        if is_cancelled(api, run_id):
            return halt(store, api, chain, head, f"run {run_id} was cancelled")
    latest = heads.latest_claim(store, evolution, head.segment)
    if latest is None or latest.attempt <= head.base:
        return submit(store, api, chain, head, head.base + 1, owner, now)
    if latest.owner == owner:
        return _create(store, api, chain, head, latest)
    run = _run_of(api, chain, head, latest)
    if run is not None:
        return Action(
            did="adopted", reason=f"run {run.run_id} of {latest.owner} is {run.state or 'new'}", run=run.run_id
        )
    age = (time.time() if now is None else now) - latest.at
    if abs(age) >= chain.grace_s:
        reason = f"attempt {latest.attempt} never became a run"
        return again(store, api, chain, head, latest, reason, owner, now)
    return Action(
        did="nothing",
        reason=f"attempt {latest.attempt} was claimed {age:.0f} s ago by {latest.owner} and has no run yet; "
        f"in {chain.grace_s - age:.0f} s the tick, or this command again, makes the next attempt",
    )


def _run_of(api: KfpApi, chain: ChainConfig, head: Head, latest: Claim) -> RunInfo | None:
    """Return the run of the newest attempt. If it has none, return the run that holds the fence, if it is live."""
    runs = api.find_runs(chain.experiment, latest.run_name)
    if runs:
        return next((run for run in runs if run.state in LIVE), runs[0])
    holder = api.get_run(head.run) if head.run else None
    return holder if holder is not None and holder.state in LIVE else None


def again(
    store: ObjectStore,
    api: KfpApi,
    chain: ChainConfig,
    head: Head,
    latest: Claim,
    reason: str,
    owner: str,
    now: float | None,
) -> Action:
    """Submit the attempt after `latest`, or end the evolution as failed for this reason if no attempt is left."""
    if latest.attempt - head.base >= chain.max_attempts:
        return end(store, head, "failed", f"{chain.max_attempts} attempts at segment {head.segment}: {reason}")
    return submit(store, api, chain, head, latest.attempt + 1, owner, now)


def submit(
    store: ObjectStore, api: KfpApi, chain: ChainConfig, head: Head, attempt: int, owner: str, now: float | None
) -> Action:
    """Claim an attempt at the head's segment and create its run. If the attempt is taken, do nothing."""
    at = time.time() if now is None else now
    claim = heads.claim(store, head.evolution, head.segment, attempt, owner, at)
    if claim is None:
        return Action(did="nothing", reason=f"attempt {attempt} at segment {head.segment} is taken")
    return _create(store, api, chain, head, claim)


def _create(store: ObjectStore, api: KfpApi, chain: ChainConfig, head: Head, claim: Claim) -> Action:
    """Adopt the run of this claim, or create it. Before each of two tries we look whether the run is there already."""
    failure: UnavailableError | None = None
    for look_only in (False, False, True):
        runs = api.find_runs(chain.experiment, claim.run_name)
        if runs:
            return Action(did="adopted", reason=f"found {claim.run_name}", run=runs[0].run_id)
        if look_only or not _is_wanted(store, head, claim):
            break
        try:
            run = api.create_run(_spec(chain, head, claim))
            return Action(did="submitted", reason=f"{head.kind}, attempt {claim.attempt}", run=run.run_id)
        except UnavailableError as error:
            failure = error
    if failure is not None:
        raise failure
    return Action(did="nothing", reason="the head has moved on")


def _is_wanted(store: ObjectStore, head: Head, claim: Claim) -> bool:
    """Return whether the evolution still waits for this attempt."""
    versioned = heads.read_head(store, head.evolution)
    if versioned is None:
        return False
    now = versioned[0]
    return (now.segment, now.status) == (claim.segment, "running") and claim.attempt > now.base


def _spec(chain: ChainConfig, head: Head, claim: Claim) -> RunSpec:
    parameters: dict[str, Any] = {"store": chain.store, "evolution": head.evolution, "segment": head.segment}
    parameters |= {"attempt": claim.attempt, "iteration": head.iteration, "step": head.step}
    return RunSpec(
        name=claim.run_name,
        experiment=chain.experiment,
        version=chain.pipelines[head.kind],
        parameters=parameters,
        pipeline_root=chain.pipeline_root,
        service_account=chain.service_account,
    )


def stop(store: ObjectStore, api: KfpApi, evolution: str, reason: str) -> Action:
    """Stop a running evolution and terminate its live run. When the server did not answer, call it again."""
    head = heads.change(
        store, evolution, lambda h: replace(h, status="stopped", reason=reason) if h.status == "running" else None
    )
    terminate_live(store, api, heads.read_chain(store, evolution), head)
    if head.status != "stopped":
        return Action(did="nothing", reason=f"{head.status}: {head.reason}")
    return Action(did="stopped", reason=head.reason)


def resume(store: ObjectStore, api: KfpApi, evolution: str, owner: str, now: float | None = None) -> Action:
    """Set a stopped or failed evolution running again, with a fresh count of attempts, and submit its next run.

    Runs of earlier attempts are terminated and can no longer take the fence. A running evolution is left as it is, with one
    exception: where its newest attempt belongs to somebody else and has no run, the next attempt is made at once.
    """

    def decide(head: Head) -> Head | None:
        if head.status == "done":
            raise ConfigError(
                expected="an evolution that is stopped or failed", found="done", where=evolution, action="nothing to do"
            )
        chain, latest = heads.read_chain(store, evolution), heads.latest_claim(store, evolution, head.segment)
        if head.status == "running":
            if latest is None or latest.attempt <= head.base or latest.owner == owner:
                return None
            if is_cancelled(api, head.run) or _run_of(api, chain, head, latest) is not None:
                return None
            return replace(head, run="", attempt=latest.attempt, base=latest.attempt)
        terminate_live(store, api, chain, head)
        base = max(head.attempt, latest.attempt if latest else 0)
        return replace(head, status="running", reason="", run="", by="", attempt=base, base=base)

    heads.change(store, evolution, decide)
    return submit_current(store, api, evolution, owner, now)


def end(store: ObjectStore, head: Head, status: Literal["stopped", "failed"], reason: str) -> Action:
    """Set the status of a running head. If the head has moved on, nothing is done."""

    def decide(now: Head) -> Head | None:
        same = (now.segment, now.base, now.by) == (head.segment, head.base, head.by)
        return replace(now, status=status, reason=reason) if same and now.status == "running" else None

    stored = heads.change(store, head.evolution, decide)
    if (stored.status, stored.reason) != (status, reason):
        return Action(did="nothing", reason="the head has moved on")
    return Action(did=status, reason=reason)


def halt(store: ObjectStore, api: KfpApi, chain: ChainConfig, head: Head, reason: str) -> Action:
    """Stop a running evolution, unless the head has moved on, and terminate what still runs of its segment."""
    done = end(store, head, "stopped", reason)
    if done.did == "stopped":
        terminate_live(store, api, chain, head)
    return done


def terminate_live(store: ObjectStore, api: KfpApi, chain: ChainConfig, head: Head) -> None:
    """Terminate every live run of the head's segment."""
    latest = heads.latest_claim(store, head.evolution, head.segment)
    for attempt in range(head.base + 1, (latest.attempt if latest else 0) + 1):
        for run in api.find_runs(chain.experiment, heads.run_name(head.evolution, head.segment, attempt)):
            if run.state in LIVE:
                api.terminate(run.run_id)


def is_cancelled(api: KfpApi, run_id: str) -> bool:
    """Return whether a person has cancelled this run."""
    run = api.get_run(run_id) if run_id else None
    return run is not None and run.cancelled


def known(api: KfpApi, run: RunInfo) -> RunInfo:
    """Return a run with all that is known of its end. A list of runs does not say who ended a run, nor why it failed."""
    return run if run.state in LIVE else api.get_run(run.run_id) or run
