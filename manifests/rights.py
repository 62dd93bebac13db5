"""What the accounts of runs ask two API servers for. Their roles follow: `manifests/base/rbac.yaml` holds no more and no less.

`CALLS` says which right the pipelines API server asks for each request of `instar.kfp.client` (by SubjectAccessReview; read from
`backend/src/apiserver/server/{experiment,pipeline,pipeline_upload,run,job}_server.go` of Kubeflow Pipelines 2.17.0), `GANG` which
right a method of `instar.pipelines.chain.gang.api` needs, `MODULES` where a role's calls are. A test reads them off the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from manifests.objects import Finding, World, where

Right = tuple[str, str, str]
"""API group, resource, verb."""
PIPELINES = "pipelines.kubeflow.org"
CALLS: Mapping[str, tuple[str, str]] = {
    "experiment_service_list_experiments": ("experiments", "list"),
    "experiment_service_create_experiment": ("experiments", "create"),
    "pipeline_service_list_pipelines": ("pipelines", "list"),
    "pipeline_service_create_pipeline": ("pipelines", "create"),
    "pipeline_service_list_pipeline_versions": ("pipelines", "list"),  # there is no resource of its own for versions
    "upload_pipeline_version": ("pipelines", "create"),
    "run_service_list_runs": ("runs", "list"),
    "run_service_get_run": ("runs", "get"),
    "_get_workflow": ("runs", "get"),
    "run_service_create_run": ("runs", "create"),
    "run_service_terminate_run": ("runs", "terminate"),
    "recurring_run_service_list_recurring_runs": ("jobs", "list"),
    "recurring_run_service_create_recurring_run": ("jobs", "create"),
    "recurring_run_service_delete_recurring_run": ("jobs", "delete"),
}
GANG: Mapping[str, tuple[Right, ...]] = {
    "create": (("jobset.x-k8s.io", "jobsets", "create"),),
    "get": (("jobset.x-k8s.io", "jobsets", "get"),),
    "patch": (("jobset.x-k8s.io", "jobsets", "patch"),),
    "delete": (("jobset.x-k8s.io", "jobsets", "delete"),),
    "watch": (("jobset.x-k8s.io", "jobsets", "list"), ("jobset.x-k8s.io", "jobsets", "watch")),
    "workflow": (("argoproj.io", "workflows", "get"),),
    "pods": (("", "pods", "list"),),
}
CHAIN = ("pipelines/chain/submission.py", "pipelines/chain/tick.py", "pipelines/chain/generations.py")
MODULES: Mapping[str, tuple[str, ...]] = {
    "instar-chain": CHAIN,
    "instar-submit": (*CHAIN, "src/instar/cli/cluster.py", "src/instar/kfp/schedule.py"),
    "instar-launch": tuple(f"pipelines/chain/gang/{name}.py" for name in ("launch", "adopt", "task")),
}
ROLES: Mapping[str, frozenset[Right]] = {
    # Upstream's part of every pod: the launcher reads its settings, the store's key and its own pod (`backend/src/v2`:
    # `config/env.go`, `objectstore/object_store.go`, `component/launcher_v2.go`); Argo's executor reports what was made.
    "instar-stage": frozenset(
        {
            ("", "configmaps", "get"),
            ("", "secrets", "get"),
            ("", "pods", "get"),
            ("argoproj.io", "workflowtaskresults", "create"),
            ("argoproj.io", "workflowtaskresults", "patch"),
        }
    ),
    "instar-chain": frozenset((PIPELINES, "runs", verb) for verb in ("create", "get", "list", "terminate")),
    "instar-submit": frozenset((PIPELINES, resource, verb) for resource, verb in CALLS.values()),
    "instar-launch": frozenset(right for rights in GANG.values() for right in rights),
}


def granted(world: World) -> Iterator[Finding]:
    """Every role grants what the table says, and nothing else."""
    for item in world.of("Role"):
        held = {
            (group, resource, verb)
            for rule in item["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        expected = ROLES.get(item["metadata"]["name"], frozenset())
        for right in sorted(held ^ expected):
            found = "granted" if right in held else "missing"
            action = "take it away" if right in held else "grant it"
            yield Finding(
                expected="the rights of manifests/rights.py",
                found=f"{' '.join(right)}: {found}",
                where=where(item),
                action=action,
            )
