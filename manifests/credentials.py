"""Makes the Secrets of an installation, fresh random values each time, as YAML on standard output.

    python -m manifests.credentials | kubectl create -f -

`create`, not `apply`: it refuses to replace what exists, because a database keeps the password it was made with. The
values go nowhere else, and a terminal is refused. With `--external-s3` the keys of the store are the site's own and
their Secrets are left out.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from instar.errors import ConfigError

STORE_KEYS = ("accesskey", "secretkey")
SECRETS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("instar", "instar-store"): STORE_KEYS,
    ("instar-system", "mlflow-store"): STORE_KEYS,
    ("instar-system", "seaweedfs-admin"): STORE_KEYS,
    ("instar-system", "seaweedfs-identities"): ("s3.json",),
    ("instar-system", "postgres"): ("password",),
    ("kubeflow", "mlpipeline-minio-artifact"): STORE_KEYS,
    ("kubeflow", "mysql-secret"): ("username", "password"),
}
"""Every Secret that the manifests refer to, and its keys. None of them is in the tree."""
STORE = [name for name in SECRETS if SECRETS[name] == STORE_KEYS and name[0] != "kubeflow"]


def generate(*, external_s3: bool = False) -> list[dict[str, Any]]:
    """Return the Secret objects of one installation. Values are 32 random bytes in base64 without padding."""
    store = {name: {"accesskey": secrets.token_hex(10), "secretkey": secrets.token_urlsafe(32)} for name in STORE}
    values: dict[tuple[str, str], dict[str, str]] = {
        **store,
        ("instar-system", "seaweedfs-identities"): {"s3.json": json.dumps(identities(store))},
        ("instar-system", "postgres"): {"password": secrets.token_urlsafe(32)},
        ("kubeflow", "mlpipeline-minio-artifact"): {
            "accesskey": secrets.token_hex(10),
            "secretkey": secrets.token_urlsafe(32),
        },
        ("kubeflow", "mysql-secret"): {"username": "root", "password": secrets.token_urlsafe(32)},
    }
    if external_s3:
        values = {k: v for k, v in values.items() if k not in STORE and k[1] != "seaweedfs-identities"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "Opaque",
            "stringData": data,
        }
        for (namespace, name), data in values.items()
    ]


def identities(store: Mapping[tuple[str, str], Mapping[str, str]]) -> dict[str, Any]:
    """Return SeaweedFS's identities: runs and MLflow each read and write one bucket, the bucket job creates both."""
    allowed = {
        "instar-store": ["Read:instar", "Write:instar", "List:instar", "Tagging:instar"],
        "mlflow-store": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"],
        "seaweedfs-admin": ["Admin:instar", "Admin:mlflow"],
    }
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": keys["accesskey"], "secretKey": keys["secretkey"]}],
                "actions": allowed[name],
            }
            for (_, name), keys in store.items()
        ]
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the Secrets. A terminal on standard output is a `ConfigError`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--external-s3", action="store_true", help="leave out what belongs to the store in the cluster")
    options = parser.parse_args(arguments)
    if sys.stdout.isatty():
        raise ConfigError(
            expected="a pipe into `kubectl create -f -`",
            found="a terminal",
            where="standard output",
            action="secrets do not belong on a screen",
        )
    for item in generate(external_s3=options.external_s3):
        sys.stdout.write(f"---\n{json.dumps(item)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
