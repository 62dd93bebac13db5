"""Manifests of gangs: valid for Kubernetes, named by what they make, restricted, and without a shell."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shlex
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import config as configs
from instar import contract, errors
from instar.components.catalog import ROLLOUT
from instar.components.rollout.config import SampleConfig
from instar.components.update.stage import check_alone
from instar.contract import Inputs, Shard
from instar.errors import ConfigError
from instar.pipelines import pools
from instar.pipelines.chain.gang import manifests
from instar.pipelines.chain.gang import pod as pods
from instar.pipelines.chain.gang.manifests import (
    SPEC_DIGEST,
    Owner,
    rollout_jobset,
)
from instar.pipelines.chain.gang.pod import PodSettings
from instar.pipelines.ledger_runner import job_of
from support import gang_jobs
from support.fake_pods import expanded
from support.gang_jobs import pod, rollout_job

VERSIONS = ("1.33", "1.36")
Object = dict[str, Any]


def job_spec(manifest: Object) -> Object:
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return dict(replicated["template"]["spec"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("profile", ["gpu-prod", "kind-dev", "local"])
def test_job_and_pod_are_valid_for_kubernetes(version: str, profile: str) -> None:
    spec = job_spec(rollout_jobset(rollout_job(pod=pod(profile), parallelism=5)))
    meta = {"name": "x", "namespace": "instar"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
    kubernetes_validate.validate(job, version, strict=True)
    template = spec["template"]
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, **template["metadata"]}, "spec": template["spec"]}
    kubernetes_validate.validate(whole, version, strict=True)
    whole["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):  # the validator sees an unknown field
        kubernetes_validate.validate(whole, version, strict=True)


@pytest.mark.parametrize("profile", ["gpu-prod", "kind-dev", "local"])
def test_a_jobset_keeps_to_its_schema(profile: str) -> None:
    jsonschema.validate(rollout_jobset(rollout_job(pod=pod(profile))), gang_jobs.JOBSET)


def test_a_gang_runs_every_shard_of_the_stage_with_its_memo_key() -> None:
    job = rollout_job(shards=24)
    made = job_spec(rollout_jobset(job))
    (box,) = made["template"]["spec"]["containers"]
    assert (made["completions"], made["completionMode"], made["parallelism"]) == (24, "Indexed", 24)
    assert box["command"] == ["instar", "supervise", "--", "instar", "stage", "rollout"]
    options = dict(zip(box["args"][1::2], box["args"][2::2], strict=True))
    assert box["args"][0] == "--record" and options["--shard"] == "$(JOB_COMPLETION_INDEX)/24"
    assert options["--step"] == "7" and json.loads(options["--config"]) == configs.to_dict(job.config)
    assert {f"--{port}": digest for port, digest in gang_jobs.DIGESTS.items()}.items() <= options.items()
    kinds = {port: kind for port, (kind, _) in contract.ports(ROLLOUT.ins).items()}
    inputs: dict[str, Inputs] = {port: kinds[port](None, digest) for port, digest in gang_jobs.DIGESTS.items()}
    expected = [job_of("sec-seed0", ROLLOUT, job.config, 1, 7, Shard(n, 24), inputs).key for n in range(24)]
    assert list(job.keys) == expected and len(set(expected)) == 24


CHANGES: dict[str, Any] = {
    "store": "s3://instar/other",
    "evolution": "sec-seed1",
    "step": 8,
    "shards": 25,
    "config": SampleConfig(max_new_tokens=9, shards=24),
    "policy": {**gang_jobs.DIGESTS, "policy": f"sha256:{'9' * 64}"},
    "tasks": {**gang_jobs.DIGESTS, "tasks": f"sha256:{'9' * 64}"},
    "batch": {**gang_jobs.DIGESTS, "batch": f"sha256:{'9' * 64}"},
    "stage": dataclasses.replace(ROLLOUT, version=ROLLOUT.version + 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_the_result_changes_the_name(what: str) -> None:
    changes = {"inputs" if what in gang_jobs.DIGESTS else what: CHANGES[what]}
    assert rollout_job(**changes).name != rollout_job().name


def test_whatever_does_not_change_the_result_keeps_the_name_but_not_the_spec_digest() -> None:
    first = rollout_jobset(rollout_job())
    others = [
        rollout_job(parallelism=3),
        rollout_job(pod=pod(image=gang_jobs.IMAGE.replace("a" * 64, "b" * 64))),
        rollout_job(pod=pod("kind-dev")),
        rollout_job(pod=pod(secret="another")),
    ]
    digests = {rollout_jobset(job)["metadata"]["annotations"][SPEC_DIGEST] for job in others}
    assert {job.name for job in others} == {first["metadata"]["name"]}
    assert len(digests) == 4 and first["metadata"]["annotations"][SPEC_DIGEST] not in digests
    owned = rollout_jobset(rollout_job(owner=Owner(name="later", uid="2")))
    assert owned["metadata"]["annotations"] == first["metadata"]["annotations"], "another run adopts the same job"


texts = st.text(st.sampled_from('$()AJOB_COMPLETION_INDEX {}"\\é'), max_size=20)


@settings(max_examples=60, deadline=None)
@given(store=texts, evolution=texts, step=st.integers(0, 10**9), shards=st.integers(2, 1200))
def test_any_text_reaches_the_stage_unchanged_and_names_fit(store: str, evolution: str, step: int, shards: int) -> None:
    job = rollout_job(store=f"s3://{store}", evolution=evolution, step=step, shards=shards, pod=pod("local"))
    again = rollout_job(store=f"s3://{store}", evolution=evolution, step=step, shards=shards, pod=pod("local"))
    made = rollout_jobset(job)
    assert made == rollout_jobset(again)
    args = job_spec(made)["template"]["spec"]["containers"][0]["args"]
    told = [expanded(a, {"JOB_COMPLETION_INDEX": "17", "A": "wrong"}) for a in args]
    assert told == [*job.work.arguments, "--shard", f"17/{shards}"]
    pod_name = f"{job.name}-shard-0-{shards - 1}-abcde"  # the longest name that controllers derive
    assert len(pod_name) <= 63 and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", pod_name)
    assert len(json.dumps(made)) < 100_000


def test_no_shell_and_no_secret_in_a_manifest() -> None:
    manifest = rollout_jobset(rollout_job())
    assert not re.search(r'"(/bin/)?(ba)?sh"|"-c"', json.dumps(manifest))
    (box,) = job_spec(manifest)["template"]["spec"]["containers"]
    values = {e["name"]: e for e in box["env"]}
    for name, key in (("AWS_SECRET_ACCESS_KEY", "secretkey"), ("AWS_ACCESS_KEY_ID", "accesskey")):
        assert values[name]["valueFrom"] == {"secretKeyRef": {"name": "instar-store", "key": key}}
    assert shlex.join(box["command"]).startswith("instar supervise -- instar stage ")


def test_the_pod_is_restricted_and_placed_as_its_pool_says() -> None:
    spec = job_spec(rollout_jobset(rollout_job()))["template"]["spec"]
    (box,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False and spec["serviceAccountName"] == "instar-stage"
    context = spec["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert box["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert box["resources"]["limits"]["nvidia.com/gpu"] == "4" == box["resources"]["requests"]["nvidia.com/gpu"]
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["nodeSelector"] == pools.load("gpu-prod").pool("rollout").node_selector
    mounts = {m["mountPath"]: m["name"] for m in box["volumeMounts"]}
    volumes = {v["name"]: v for v in spec["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    assert volumes[mounts["/tmp"]]["emptyDir"] == {"sizeLimit": "1Ti"}
    assert box["image"] == gang_jobs.IMAGE and spec["restartPolicy"] == "Never"


def test_scratch_without_a_class_is_within_the_disk_limit_of_the_pod() -> None:
    spec = job_spec(rollout_jobset(rollout_job(pod=pod("kind-dev"))))["template"]["spec"]
    sizes = {v["name"]: v["emptyDir"]["sizeLimit"] for v in spec["volumes"]}
    assert spec["containers"][0]["resources"]["limits"]["ephemeral-storage"] == sizes["scratch"]


def test_failures_follow_the_exit_codes_of_instar() -> None:
    spec = job_spec(rollout_jobset(rollout_job()))
    ignored, failing = spec["podFailurePolicy"]["rules"]
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    codes = failing["onExitCodes"]["values"]
    assert failing["action"] == "FailJob" and codes == sorted(set(codes))
    assert set(range(10, 21)) <= set(codes)
    assert not {errors.UnavailableError.exit_code, errors.StalledError.exit_code, 0, 1, 137, 143} & set(codes)
    assert spec["backoffLimitPerIndex"] == manifests.RETRIES and "maxFailedIndexes" not in spec


@pytest.mark.parametrize(("shards", "at_once", "turns"), [(24, 0, 1), (24, 24, 1), (24, 5, 5), (24, 8, 3), (24, 1, 24)])
def test_fewer_pods_at_a_time_have_more_time(shards: int, at_once: int, turns: int) -> None:
    job = rollout_job(shards=shards, parallelism=at_once)
    spec = job_spec(rollout_jobset(job))
    assert spec["parallelism"] == (at_once or shards)
    assert spec["activeDeadlineSeconds"] == (turns + 1) * job.pod.pool.timeout_s


def test_a_queue_is_named_and_the_job_waits_for_it() -> None:
    manifest = rollout_jobset(rollout_job())
    assert manifest["spec"]["suspend"] is True
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "rollout"
    without = rollout_jobset(rollout_job(pod=pod("kind-dev")))
    assert "suspend" not in without["spec"] and "kueue.x-k8s.io/queue-name" not in without["metadata"]["labels"]


def test_the_workflow_owns_the_job() -> None:
    (owner,) = rollout_jobset(rollout_job())["metadata"]["ownerReferences"]
    uid = "0c7e9c9a-0000-4000-8000-000000000001"
    assert owner == {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "sec-run-7", "uid": uid}


@pytest.mark.parametrize("changes", [{"shards": 0}, {"shards": 4, "parallelism": 5}, {"shards": 4, "parallelism": -1}])
def test_impossible_gangs_are_refused(changes: Object) -> None:
    with pytest.raises(ConfigError, match="at least one shard"):
        rollout_job(**changes)


def test_an_image_by_tag_is_refused() -> None:
    with pytest.raises(ConfigError, match="image with a digest"):
        pod(image="instar-cuda:latest")


def test_pod_settings_survive_the_parameter() -> None:
    for profile in ("gpu-prod", "kind-dev", "local"):
        settings = pod(profile)
        assert configs.from_dict(PodSettings, json.loads(configs.dumps(settings))) == settings


@pytest.mark.parametrize("name", ["WORLD_SIZE", "PET_NNODES"])
@pytest.mark.parametrize("value", ["2", "8", "1:4"])
def test_an_update_in_several_processes_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name}={value}")):
        check_alone({name: value})


def test_an_update_in_one_process_is_not_refused() -> None:
    check_alone({})
    check_alone({"WORLD_SIZE": "1", "PET_NNODES": "1"})


def test_manifests_do_not_share_state() -> None:
    job = rollout_job()
    first = rollout_jobset(job)
    kept = copy.deepcopy(first)
    job_spec(first)["template"]["spec"]["nodeSelector"]["x"] = "y"
    first["metadata"]["labels"]["x"] = "y"
    assert rollout_jobset(job) == kept
    assert pods.literal("$(A)") == "$$(A)"
