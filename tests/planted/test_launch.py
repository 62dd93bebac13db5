"""Launching a gang against an API server that fails: one job, always adopted, never left behind, failures with their names."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instar import errors
from instar.errors import ConfigError, InstarError, StalledError, UnavailableError
from instar.pipelines.chain.gang import adopt, launch
from instar.pipelines.chain.gang.api import GangApi, open_api
from instar.pipelines.chain.gang.launch import run_gang
from instar.pipelines.chain.gang.manifests import SPEC_DIGEST, Owner, rollout_jobset
from support.fake_kube import FakeKube, Object
from support.fake_pods import INDEX
from support.gang_jobs import NAMESPACE, pod, rollout_job

PATIENCE_S = 60.0


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKube]:
    server = FakeKube().start()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(launch, "BACKOFF_S", 0.02)
    yield server
    server.stop()


@pytest.fixture
def api(kube: FakeKube) -> GangApi:
    assert os.environ["KUBECONFIG"] and kube.url
    return open_api(NAMESPACE)


def jobset(queue: bool = False) -> Object:
    return rollout_jobset(rollout_job(pod=pod("gpu-prod" if queue else "kind-dev")))


def run(api: GangApi, manifest: Object, deadline_s: float = PATIENCE_S, poll_s: float = 30.0) -> None:
    run_gang(api, manifest, deadline_s=deadline_s, poll_s=poll_s)


class At:
    """Does something when an operation comes for the nth time."""

    def __init__(self, kube: FakeKube, **acts: Callable[[], object]) -> None:
        self.seen: Counter[str] = Counter()
        self.acts = acts
        self.lock = threading.Lock()
        kube.on_request = self

    def __call__(self, operation: str) -> None:
        with self.lock:
            self.seen[operation] += 1
            act = self.acts.get(f"{operation}_{self.seen[operation]}")
        if act is not None:
            act()


def complete(kube: FakeKube, condition: str = "Completed", plural: str = "jobsets") -> Callable[[], object]:
    return lambda: kube.finish(plural, kube.only(plural)["metadata"]["name"], condition)


def failed_pod(name: str, index: int, code: int, message: str = "", *, disrupted: bool = False) -> Object:
    conditions = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
    ended = {"state": {"terminated": {"exitCode": code, "message": message}}}
    meta = {"labels": {"jobset.sigs.k8s.io/jobset-name": name}, "annotations": {INDEX: str(index)}}
    return {
        "metadata": meta,
        "status": {"phase": "Failed", "conditions": conditions, "containerStatuses": [ended]},
    }


def test_a_job_is_created_watched_and_left_with_its_logs(kube: FakeKube, api: GangApi) -> None:
    At(kube, watch_1=complete(kube))
    beats: list[None] = []
    manifest = jobset()
    before = signal.getsignal(signal.SIGTERM)
    run_gang(api, manifest, deadline_s=PATIENCE_S, beat=lambda: beats.append(None))
    assert kube.only()["spec"] == manifest["spec"]
    assert kube.requests == ["create", "list", "watch"] and len(beats) >= 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("fault", ["drop", "refuse", "503", "429"])
def test_a_lost_or_refused_creation_ends_with_one_job(kube: FakeKube, api: GangApi, fault: str) -> None:
    kube.fault("create", fault, fault)
    At(kube, watch_1=complete(kube))
    run(api, jobset())
    assert len([e for e in kube.events if e[1] == "ADDED"]) == 1
    assert kube.requests.count("create") == (2 if fault == "drop" else 3)


@pytest.mark.parametrize("fault", ["cut", "gone", "refuse", "503"])
def test_a_broken_watch_is_resumed_and_what_happened_meanwhile_is_seen(
    kube: FakeKube, api: GangApi, fault: str
) -> None:
    kube.fault("watch", fault, fault)
    at = At(kube, list_3=complete(kube))
    run(api, jobset())
    assert at.seen["list"] == 3 and at.seen["create"] == 1


@pytest.mark.parametrize("fault", ["refuse", "503", "drop"])
def test_a_server_that_is_away_for_a_while_costs_nothing_but_time(kube: FakeKube, api: GangApi, fault: str) -> None:
    kube.fault("list", *[fault] * 4)
    At(kube, watch_1=complete(kube))
    run(api, jobset())
    assert kube.requests.count("create") == 1


def test_a_watch_that_never_says_anything_is_not_relied_on(kube: FakeKube, api: GangApi) -> None:
    """The job ends, its event is lost: the next reading of the state finds it."""

    def silently() -> None:
        complete(kube)()
        kube.events.clear()

    at = At(kube, list_2=silently)
    run(api, jobset(), poll_s=1.0)
    assert at.seen["list"] == 2


def test_the_job_of_a_predecessor_is_adopted_and_owned_by_both(kube: FakeKube, api: GangApi) -> None:
    before = rollout_jobset(rollout_job(pod=pod("kind-dev"), owner=Owner(name="earlier", uid="1")))
    before["spec"]["suspend"] = True  # by a launcher that died before it could delete
    old = api.create(before)
    kube.requests.clear()
    At(kube, watch_1=complete(kube))
    run(api, jobset())
    found = kube.only()
    assert old is not None and found["metadata"]["uid"] == old["metadata"]["uid"]
    assert [o["name"] for o in found["metadata"]["ownerReferences"]] == ["earlier", "sec-run-7"]
    assert found["spec"]["suspend"] is False and kube.requests[:3] == ["create", "get", "patch"]


def test_the_same_owner_is_not_added_twice_and_a_queue_keeps_its_job_suspended(kube: FakeKube, api: GangApi) -> None:
    api.create(jobset(queue=True))
    At(kube, watch_1=complete(kube))
    run(api, jobset(queue=True))
    assert len(kube.only()["metadata"]["ownerReferences"]) == 1
    assert kube.only()["spec"]["suspend"] is True, "Kueue decides when it starts"


def test_a_job_that_changes_while_it_is_adopted_is_adopted_as_it_is_then(kube: FakeKube, api: GangApi) -> None:
    api.create(jobset())
    name = kube.only()["metadata"]["name"]
    other = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "third", "uid": "3"}

    def change() -> None:
        job = copy.deepcopy(kube.only())
        job["metadata"]["ownerReferences"] = [other]
        kube.put("jobsets", job)

    At(kube, patch_1=change, watch_1=complete(kube))
    run(api, jobset())
    owners = kube.objects["jobsets", name]["metadata"]["ownerReferences"]
    assert [o["name"] for o in owners] == ["third", "sec-run-7"] and kube.requests.count("patch") == 2


def test_another_job_under_the_name_is_an_error_that_names_both_and_stays(kube: FakeKube, api: GangApi) -> None:
    other = rollout_jobset(rollout_job(pod=pod("kind-dev"), parallelism=3))
    api.create(other)
    kept = copy.deepcopy(kube.only())
    with pytest.raises(ConfigError) as caught:
        run(api, jobset())
    mine = jobset()["metadata"]["annotations"][SPEC_DIGEST][:16]
    theirs = other["metadata"]["annotations"][SPEC_DIGEST][:16]
    assert mine in caught.value.expected and theirs in caught.value.found and mine != theirs
    assert kube.only() == kept


def test_a_failed_predecessor_is_replaced(kube: FakeKube, api: GangApi) -> None:
    old = api.create(jobset())
    assert old is not None
    kube.finish("jobsets", old["metadata"]["name"], "Failed")
    At(kube, watch_1=complete(kube))
    run(api, jobset())
    assert kube.only()["metadata"]["uid"] != old["metadata"]["uid"]


def test_a_job_that_is_being_deleted_is_waited_for(kube: FakeKube, api: GangApi) -> None:
    old = api.create(jobset())
    assert old is not None
    old["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:00Z"
    kube.put("jobsets", old)
    at = At(kube, create_4=lambda: kube.remove("jobsets", old["metadata"]["name"]), watch_1=complete(kube))
    run(api, jobset())
    assert at.seen["create"] == 4 and kube.only()["metadata"]["uid"] != old["metadata"]["uid"]


def recreate(kube: FakeKube) -> None:
    job = copy.deepcopy(kube.only())
    kube.remove("jobsets", job["metadata"]["name"])
    kube.put("jobsets", {**job, "metadata": {**job["metadata"], "uid": "another"}}, "ADDED")


def mark(kube: FakeKube) -> None:
    job = copy.deepcopy(kube.only())
    job["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:00Z"
    kube.put("jobsets", job)


DELETIONS: dict[str, Callable[[FakeKube], object]] = {
    "gone": lambda kube: kube.remove("jobsets", kube.only()["metadata"]["name"]),
    "another one of that name": recreate,
    "going": mark,
}


@pytest.mark.parametrize("how", DELETIONS)
@pytest.mark.parametrize("when", ["watch_1", "list_2"])
def test_a_job_that_somebody_deletes_is_a_transient_error(kube: FakeKube, api: GangApi, how: str, when: str) -> None:
    if when == "list_2":
        kube.fault("watch", "cut")
    At(kube, **{when: lambda: DELETIONS[how](kube)})
    with pytest.raises(UnavailableError, match="somebody else deleted it"):
        run(api, jobset())
    assert "delete" not in kube.requests


@pytest.mark.parametrize("code", [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 75, 76, 1, 70, 137])
def test_a_failure_has_the_class_of_the_exit_code_of_its_pods(kube: FakeKube, api: GangApi, code: int) -> None:
    name = jobset()["metadata"]["name"]
    said = {
        "code": code,
        "expected": "a finite loss",
        "found": "NaN",
        "where": "rollout",
        "action": "look at the batch",
    }
    kube.pods.append(failed_pod(name, 3, code, json.dumps(said)))
    At(kube, watch_1=lambda: kube.finish("jobsets", name, "Failed", "FailedJobs", "jobset failed"))
    with pytest.raises(InstarError) as caught:
        run(api, jobset())
    assert type(caught.value) is errors.BY_CODE.get(code, errors.ProcessError)
    assert caught.value.expected == "a finite loss" and "NaN" in caught.value.found
    assert "index 3" in caught.value.where and caught.value.action == "look at the batch"
    assert "FailedJobs" in caught.value.found and kube.only(), "a failed job stays, with the logs of its pods"


def test_the_pod_that_says_most_is_believed(kube: FakeKube, api: GangApi) -> None:
    name = jobset()["metadata"]["name"]
    kube.pods += [
        failed_pod(name, 0, 143, disrupted=True),
        failed_pod(name, 1, 75),
        failed_pod(name, 2, 137, "not JSON"),
        failed_pod(name, 5, 15),
        failed_pod(name, 4, 12),
        failed_pod("another-gang", 0, 10),
    ]
    At(kube, watch_1=complete(kube, "Failed"))
    with pytest.raises(errors.ContractError, match="exit code 12 in 4 failed pods, first index 4"):
        run(api, jobset())


def test_a_failure_without_a_failed_pod_is_transient(kube: FakeKube, api: GangApi) -> None:
    name = jobset()["metadata"]["name"]
    kube.pods.append(failed_pod(name, 0, 143, disrupted=True))
    At(kube, watch_1=lambda: kube.finish("jobsets", name, "Failed", "FailedJobs", "DeadlineExceeded"))
    with pytest.raises(StalledError, match="DeadlineExceeded; no pod of it failed by itself"):
        run(api, jobset())


def test_the_deadline_suspends_and_deletes(kube: FakeKube, api: GangApi) -> None:
    with pytest.raises(StalledError, match="the launcher's deadline"):
        run(api, jobset(), deadline_s=0.3)
    assert kube.objects == {}
    assert [b for o, b in kube.bodies if o == "patch"] == [{"spec": {"suspend": True}}]
    assert kube.requests[-2:] == ["patch", "delete"]


def test_the_deadline_also_ends_a_creation_that_never_succeeds(kube: FakeKube, api: GangApi) -> None:
    kube.fault("create", *["503"] * 1000)
    with pytest.raises(StalledError, match="the launcher's deadline"):
        run(api, jobset(), deadline_s=0.3)


@pytest.mark.parametrize("operation", ["create", "list", "watch", "get"])
@pytest.mark.parametrize("status", ["401", "403", "422"])
def test_a_refusal_is_permanent_wherever_it_comes(kube: FakeKube, api: GangApi, operation: str, status: str) -> None:
    if operation == "get":
        api.create(jobset())
    kube.fault(operation, status)
    with pytest.raises(ConfigError, match=f"HTTP {status}"):
        run(api, jobset())


def test_a_missing_controller_is_named(kube: FakeKube, api: GangApi) -> None:
    kube.fault("create", "404")
    with pytest.raises(ConfigError, match="install the controller"):
        run(api, jobset())


def test_a_job_of_somebody_else_is_not_removed(kube: FakeKube, api: GangApi) -> None:
    api.create(rollout_jobset(rollout_job(pod=pod("kind-dev"), parallelism=3)))
    assert adopt.remove(api, jobset()) is False and kube.only()
    assert adopt.remove(api, rollout_jobset(rollout_job(evolution="none"))) is False


LAUNCHER = """
import json, sys
from instar.pipelines.chain.gang.api import open_api
from instar.pipelines.chain.gang.launch import run_gang
run_gang(open_api("instar"), json.load(open(sys.argv[1])), deadline_s=60.0)
"""


@pytest.mark.parametrize(
    ("number", "when", "faults"),
    [
        (signal.SIGINT, "watch_1", {}),
        (signal.SIGTERM, "watch_1", {"get": ["503", "drop"], "patch": ["refuse"], "delete": ["drop"]}),
        (signal.SIGTERM, "watch_2", {"watch": ["cut"]}),
        (signal.SIGTERM, "create_2", {"create": ["drop", "503", "503", "503", "503", "503", "503"]}),
    ],
    ids=["watching", "failing clean-up", "resumed watch", "settling"],
)
def test_a_signal_suspends_then_deletes_then_exits(
    kube: FakeKube, tmp_path: Path, number: signal.Signals, when: str, faults: dict[str, list[str]]
) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(jobset()))
    for operation, kinds in faults.items():
        kube.fault(operation, *kinds)
    started: list[subprocess.Popen[str]] = []
    ready = threading.Event()

    def send() -> None:
        assert ready.wait(30)
        started[0].send_signal(number)

    At(kube, **{when: send})
    command = [sys.executable, "-c", LAUNCHER, str(manifest)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as child:
        started.append(child)
        ready.set()
        _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number, said
    assert kube.objects == {}, said
    assert [b for o, b in kube.bodies if o == "patch" and b is not None][-1] == {"spec": {"suspend": True}}
    last = [o for o in kube.requests if o in ("patch", "delete")]
    assert last.index("patch") < last.index("delete") and f"signal {int(number)}" in said


def test_the_kubeconfig_is_named_when_there_is_no_way_to_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="KUBECONFIG"):
        open_api(NAMESPACE)


def test_importing_the_launcher_loads_no_cluster_library() -> None:
    code = (
        "import sys, instar.pipelines.chain.gang.launch as _; print({'kubernetes', 'kfp', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("operation", ["create", "list"])
def test_a_login_page_is_not_an_answer(kube: FakeKube, api: GangApi, operation: str) -> None:
    kube.fault(operation, "html")
    with pytest.raises(ConfigError, match="login page"):
        run(api, jobset())
