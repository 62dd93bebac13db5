"""The pipelines install: our patches over a stand-in of upstream, judged beside each overlay; each fault of it planted again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests.check import FOLDER, installed
from manifests.credentials import SECRETS
from manifests.objects import Object, World, pods
from manifests.policy import INSTALL, findings
from manifests.policy_runs import RUNS, _repository, archived, audiences, expanded
from manifests.tools import render

from unit.manifests import upstream

GOLDEN = Path(__file__).parents[2] / "golden"
OVERLAYS = ("kind-dev", "airgap", "gpu-prod")
AUDIENCE = "https://kubernetes.default.svc.cluster.local"


@pytest.fixture(scope="session")
def kfp(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """What `manifests/kfp` renders to over the stand-in."""
    return render(binary, upstream.copy(tmp_path_factory.mktemp("install")))


def named(objects: list[Object], kind: str, name: str) -> Object:
    return next(o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)


def beside(overlay: World, kfp: list[Object]) -> World:
    return dataclasses.replace(overlay, objects=[*overlay.objects, *kfp])


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_install_is_sound_beside_each_overlay(
    kfp: list[Object], overlay: Callable[[str], World], name: str
) -> None:
    assert findings(beside(overlay(name), kfp), INSTALL) == []


def test_the_install_is_rendered_and_judged(binary: Path, tmp_path: Path) -> None:
    folder = upstream.copy(tmp_path)
    overlays = [FOLDER / "overlays" / "kind-dev"]
    assert list(installed(binary, folder, overlays)) == []
    text = (folder / "kustomization.yaml").read_text()
    (folder / "kustomization.yaml").write_text(text.partition("# The API server takes tokens")[0])
    assert [f.found for f in installed(binary, folder, overlays)] == ["pipelines.kubeflow.org"] * 2


def test_server_agents_and_schedule_agree_on_one_audience(kfp: list[Object], overlay: Callable[[str], World]) -> None:
    """The server's own, which a pod of a run has in its ordinary token; a token of any other is refused by TokenReview."""
    both = beside(overlay("kind-dev"), kfp)
    server = named(kfp, "Deployment", "ml-pipeline")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "TOKEN_REVIEW_AUDIENCE", "value": AUDIENCE} in server
    asked = {
        pod.owner["metadata"]["name"]: source["serviceAccountToken"]["audience"]
        for pod in pods(both.objects)
        for volume in pod.spec.get("volumes", [])
        for source in volume.get("projected", {}).get("sources", [])
    }
    assert asked == dict.fromkeys(["schedule", *(f"ml-pipeline-{a}" for a in upstream.AGENTS)], AUDIENCE)
    server.clear()  # then it expects its default, which none of the tokens has
    assert {f.found for f in audiences(both)} == {AUDIENCE} and len(list(audiences(both))) == 3
    server.append({"name": "TOKEN_REVIEW_AUDIENCE", "value": AUDIENCE})


def test_upstreams_log_archive_would_stop_every_pod_of_a_run(overlay: Callable[[str], World]) -> None:
    """Its Secret is not in the namespace of runs, and its store is closed to it."""
    spoiled = overlay("kind-dev")
    spoiled.objects.remove(named(spoiled.objects, "ConfigMap", "artifact-repositories"))
    store = {"name": "seaweedfs", "namespace": "kubeflow"}
    spoiled.objects.extend(
        [
            upstream.controller(),
            {"kind": "Namespace", "metadata": {"name": "kubeflow"}},
            {
                "kind": "Service",
                "metadata": store,
                "spec": {"selector": {"app": "seaweedfs"}, "ports": [{"port": 9000}]},
            },
        ]
    )
    found = [f.found for f in archived(spoiled)]
    assert found == [
        "mlpipeline-minio-artifact with key accesskey, which nothing makes there",
        "mlpipeline-minio-artifact with key secretkey, which nothing makes there",
        "http://seaweedfs.$(kfp-namespace).svc:9000",
    ]
    assert [f.found for f in expanded(spoiled)] == ["$(kfp-namespace)"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_whatever_a_pod_of_a_run_mounts_is_in_its_namespace(overlay: Callable[[str], World], name: str) -> None:
    """Secrets of the pipeline's tasks, of the log archive and of the launcher; the store of the last two is the overlay's own."""
    made = overlay(name)
    endpoint = named(made.objects, "ConfigMap", "instar-store")["data"]["endpoint"]
    compiled = "".join(path.read_text() for path in GOLDEN.glob("*.yaml"))
    tasks = re.findall(r"secretKey: (\S+)|secretName: (\S+)", compiled)
    item, text = _repository(made)
    archive = yaml.safe_load(text)
    providers = yaml.safe_load(named(made.objects, "ConfigMap", "kfp-launcher")["data"]["providers"])
    launcher = providers["s3"]["default"]
    reference = launcher["credentials"]["secretRef"]
    assert {(RUNS, secret) for _, secret in tasks if secret} == {(RUNS, "instar-store")} <= set(SECRETS)
    assert {key for key, _ in tasks if key} == {"accesskey", "secretkey"} == set(SECRETS[RUNS, "instar-store"])
    assert [archive["s3"][f"{k}KeySecret"] for k in ("access", "secret")] == [
        {"name": "instar-store", "key": "accesskey"},
        {"name": "instar-store", "key": "secretkey"},
    ]
    assert list(reference.values()) == ["instar-store", "accesskey", "secretkey"]
    scheme = "http" if archive["s3"]["insecure"] else "https"
    assert (
        item
        and archive["archiveLogs"]
        and endpoint == launcher["endpoint"] == f"{scheme}://{archive['s3']['endpoint']}"
    )
    assert "configMapAs" not in compiled, "a task mounts a ConfigMap that this test does not know"


def repository(**changes: Any) -> Callable[[World], None]:
    def spoil(made: World) -> None:
        data = named(made.objects, "ConfigMap", "artifact-repositories")["data"]
        value = yaml.safe_load(data["runs"])
        value["s3"] |= changes
        data["runs"] = yaml.safe_dump(value)

    return spoil


def test_a_store_that_no_policy_opens_is_found(overlay: Callable[[str], World]) -> None:
    made = overlay("airgap")
    closed = [o for o in made.objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "store"]
    made.objects.remove(closed[0])
    assert [f.found for f in archived(made)] == ["http://seaweedfs.instar-system:8333"]


@pytest.mark.parametrize(
    "changes",
    [{"endpoint": "elsewhere:8333"}, {"insecure": True}, {"accessKeySecret": {"name": "instar-store", "key": "user"}}],
)
def test_an_archive_elsewhere_or_with_another_key_is_found(overlay: Callable[[str], World], changes: Any) -> None:
    made = overlay("gpu-prod")
    assert list(archived(made)) == []
    repository(**changes)(made)
    assert len(list(archived(made))) == 1


def container(args: list[str], **fields: Any) -> Object:
    box = {"name": "x", "args": args, **fields}
    return {"kind": "Job", "metadata": {"name": "x"}, "spec": {"template": {"spec": {"containers": [box]}}}}


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (container(["--a=$(A)"], env=[{"name": "A", "value": "1"}]), []),
        (container(["--a=$(A)"], envFrom=[{"configMapRef": {"name": "c"}}]), []),
        (container(["--a=$$(A)", "i=$((i+1))", "$(seq 1 9)"]), []),
        (container(["--a=$(A)"]), ["none"]),
        (container([], env=[{"name": "A", "value": "$(B)"}]), ["none"]),
        ({"kind": "Service", "metadata": {"name": "$(B)"}}, ["$(B)"]),
    ],
)
def test_variables_stand_where_a_container_expands_them(item: Object, found: list[str]) -> None:
    assert [f.found for f in expanded(World(objects=[item], images={}))] == found
