"""Writes a site's overlay over one of ours: images of the site's registry by digest, endpoint and range of its store.

    python -m manifests.pin deploy --overlay gpu-prod --registry REGISTRY/PREFIX --lock images.lock
                                   --endpoint https://s3.mine --range 10.20.0.0/16
    python -m manifests.check --site deploy && kubectl apply -k deploy

The lock is JSON, image name -> {"digest": "sha256:..."}, and must hold every image that the overlay uses.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from instar.errors import ConfigError, InstarError
from instar.pipelines.pools import Images, load_images
from manifests.objects import Object, pods
from manifests.tools import ROOT, kubectl, render


def overlay(
    objects: list[Object], base: str, registry: str, lock: Images, store: tuple[str, str] | None
) -> dict[str, Any]:
    """Return the kustomization of a site. `store` is endpoint and address range of an S3 service outside the cluster."""
    names = sorted({_bare(box["image"]) for pod in pods(objects) for box in pod.containers})
    made: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [base],
        "images": [_image(lock.reference(name, registry), name) for name in names],
    }
    return made | {"patches": _store(objects, *store)} if store else made


def _image(reference: str, name: str) -> dict[str, str]:
    new_name, _, digest = reference.partition("@")
    return {"name": name, "newName": new_name, "digest": digest}


def _store(objects: list[Object], endpoint: str, addresses: str) -> list[dict[str, Any]]:
    ipaddress.ip_network(addresses)
    patches: list[dict[str, Any]] = []
    for item in objects:
        name, kind, data = item["metadata"]["name"], item["kind"], item.get("data", {})
        operations = []
        if kind == "ConfigMap" and name == "instar-store":
            operations.append({"op": "replace", "path": "/data/endpoint", "value": endpoint})
            old = data["endpoint"]
        elif kind == "ConfigMap" and name == "kfp-launcher":
            old = next(o["data"]["endpoint"] for o in objects if o["metadata"]["name"] == "instar-store")
            providers = data["providers"].replace(old, endpoint)
            operations.append({"op": "replace", "path": "/data/providers", "value": providers})
        elif kind == "ConfigMap" and name == "artifact-repositories":
            operations.append({"op": "replace", "path": "/data/runs", "value": _repository(data["runs"], endpoint)})
        elif kind == "NetworkPolicy" and name in ("store", "store-clients"):
            operations.append({"op": "replace", "path": "/spec/egress/0/to/0/ipBlock/cidr", "value": addresses})
        if operations:
            target = {"kind": kind, "name": name, "namespace": item["metadata"]["namespace"]}
            patches.append({"target": target, "patch": json.dumps(operations)})
    return patches


def _repository(text: str, endpoint: str) -> str:
    """Return Argo's artifact repository with another endpoint, which it writes without the scheme."""
    import yaml

    url, value = urlsplit(endpoint), yaml.safe_load(text)
    value["s3"] |= {"endpoint": url.netloc, "insecure": url.scheme == "http"}
    return str(yaml.safe_dump(value))


def _bare(image: str) -> str:
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write FOLDER/kustomization.yaml. An existing one is a `ConfigError`: a site's file is not overwritten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--overlay", choices=["gpu-prod", "airgap"], required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--endpoint", help="S3 service outside the cluster (overlay gpu-prod)")
    parser.add_argument("--range", dest="addresses", help="its addresses, as CIDR")
    options = parser.parse_args(arguments)
    try:
        return _write(options)
    except InstarError as error:
        sys.stderr.write(f"{error.render()}\n")
        return error.exit_code


def _write(options: argparse.Namespace) -> int:
    path = options.folder / "kustomization.yaml"
    outside = options.overlay == "gpu-prod"
    given = bool(options.endpoint and options.addresses)
    if path.exists() or outside != given:
        raise ConfigError(
            expected="a new folder; --endpoint and --range with gpu-prod, neither with airgap",
            found="an existing file" if path.exists() else f"overlay {options.overlay}, endpoint {options.endpoint}",
            where=str(path),
            action="name another folder, or give both options",
        )
    source = ROOT / "manifests" / "overlays" / options.overlay
    options.folder.mkdir(parents=True, exist_ok=True)
    base = os.path.relpath(source, options.folder.resolve())
    store = (options.endpoint, options.addresses) if given else None
    made = overlay(render(kubectl(), source), base, options.registry, load_images(options.lock), store)
    path.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(f"{path}: {len(made['images'])} images by digest\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
