"""A stand-in for what `manifests/kfp` takes from Kubeflow Pipelines 2.17.0 and Argo 4.0.5, so that it renders without a network.

It has only the objects that our patches name, with the fields that they and the policies read: the ConfigMap of the install
(`base/installs/generic/pipeline-install-config.yaml`), the API server and its two agents with their tokens
(`base/pipeline/ml-pipeline-{apiserver,persistenceagent,scheduledworkflow}-deployment.yaml`), the controller's ConfigMap with its
artifact repository (`third-party/argo/base/workflow-controller-configmap-patch.yaml`), and whatever our patches delete.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from manifests.check import FOLDER

Object = dict[str, Any]
AGENTS = ("persistenceagent", "scheduledworkflow")
REPOSITORY = """archiveLogs: true
s3:
  endpoint: "seaweedfs.$(kfp-namespace).svc:9000"
  bucket: "$(kfp-artifact-bucket-name)"
  insecure: true
  accessKeySecret: {name: mlpipeline-minio-artifact, key: accesskey}
  secretKeySecret: {name: mlpipeline-minio-artifact, key: secretkey}
"""


def copy(folder: Path) -> Path:
    """Copy `manifests/kfp` into `folder`, take the stand-in for its remote resources, and return the copy."""
    kfp = folder / "kfp"
    shutil.copytree(FOLDER / "kfp", kfp)
    base = folder / "upstream"
    base.mkdir()
    (base / "objects.yaml").write_text(yaml.safe_dump_all(objects()))
    (base / "kustomization.yaml").write_text("namespace: kubeflow\nresources: [objects.yaml]\n")
    argo = folder / "argo"  # upstream sets no namespace there
    argo.mkdir()
    (argo / "objects.yaml").write_text(yaml.safe_dump(controller()))
    (argo / "kustomization.yaml").write_text("resources: [objects.yaml]\n")
    text = re.sub(r" +- https://\S+\n", "", (kfp / "kustomization.yaml").read_text())
    text = text.replace("  - network.yaml\n", "  - network.yaml\n  - ../upstream\n  - ../argo\n")
    (kfp / "kustomization.yaml").write_text(text)
    return kfp


def objects() -> list[Object]:
    """Return the objects, all of namespace `kubeflow`."""
    deleted = [d for name in ("mesh", "credentials") for d in _patches(f"delete-{name}.yaml")]
    password = {"name": "MYSQL_ALLOW_EMPTY_PASSWORD", "value": "true"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "pipeline-install-config"},
            "data": {"dbType": "mysql"},
        },
        deployment("mysql", "mysql", [password]),
        deployment("ml-pipeline", "ml-pipeline-api-server", []),
        *(agent(name) for name in AGENTS),
        *({k: v for k, v in item.items() if k != "$patch"} for item in deleted),
    ]


def deployment(name: str, box: str, env: list[Any], **spec: Any) -> Object:
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": box, "image": "x", "env": env}], **spec},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def agent(name: str) -> Object:
    token = {"path": f"{name}-sa-token", "expirationSeconds": 3600, "audience": "pipelines.kubeflow.org"}
    volume = {"name": f"{name}-sa-token", "projected": {"sources": [{"serviceAccountToken": token}]}}
    identity = {"name": "USER_IDENTITY_VALUE", "value": "system:serviceaccount:$(NAMESPACE_SELF):x"}
    return deployment(
        f"ml-pipeline-{name}",
        f"ml-pipeline-{name}",
        [{"name": "NAMESPACE_SELF", "value": "kubeflow"}, identity],
        volumes=[volume],
    )


def controller() -> Object:
    metadata = {"name": "workflow-controller-configmap"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"artifactRepository": REPOSITORY}}


def _patches(name: str) -> list[Object]:
    return [item for item in yaml.safe_load_all((FOLDER / "kfp" / name).read_text()) if item]
