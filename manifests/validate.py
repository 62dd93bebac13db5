"""Strict schema validation without a cluster: unknown fields, wrong types and missing fields of every object.

Kinds of Kubernetes itself are checked against its published schemas for two versions. Kinds of Kueue and the
Prometheus operator are checked against closed schemas of exactly the fields used here (`manifests/schemas`), written from
their Go types.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from manifests.objects import Finding, Object, where

VERSIONS = ("1.34", "1.37")
SCHEMAS = Path(__file__).with_name("schemas")


def validate(objects: Iterable[Object], versions: Iterable[str] = VERSIONS) -> Iterator[Finding]:
    """Yield what the schemas refuse. An object whose kind has no schema is a finding too."""
    chosen = tuple(versions)
    for item in objects:
        own = _own(item["kind"], item["apiVersion"])
        if own is None:
            yield from _kubernetes(item, chosen)
        else:
            yield from _closed(item, own)


def _kubernetes(item: Object, versions: tuple[str, ...]) -> Iterator[Finding]:
    for version in versions:
        message = _check(json.dumps(item, sort_keys=True), version)
        if message:
            yield Finding(
                expected=f"a valid {item['kind']} {item['apiVersion']} of Kubernetes {version}",
                found=message,
                where=where(item),
                action="mend the field; `kubectl explain` shows the type",
            )


@functools.cache
def _check(text: str, version: str) -> str:
    """Return the first refusal, or an empty string. Overlays share most objects, so results are kept."""
    from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

    data = json.loads(text)
    validator = _validator(data["kind"], data["apiVersion"], version)
    if validator is None:
        return "no schema for this kind: write one in manifests/schemas"
    error = best_match(validator.iter_errors(data))
    return "" if error is None else f"{'.'.join(map(str, error.absolute_path))}: {error.message}"[:300]


@functools.cache
def _validator(kind: str, api_version: str, version: str) -> Any:
    import jsonschema  # type: ignore[import-untyped]
    from referencing import Registry, Resource

    group, _, bare = api_version.rpartition("/")
    name = f"{kind.lower()}-{group.split('.')[0]}-{bare}.json" if group else f"{kind.lower()}-{bare}.json"
    folder = _published(version)
    if not (folder / name).exists():
        return None
    schema = json.loads((folder / name).read_text())
    registry: Registry[Any] = Resource.from_contents(schema) @ Registry()
    registry = _definitions(folder) @ registry
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(folder: Path) -> Any:
    from referencing import Resource

    return Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))


def _published(version: str) -> Path:
    import kubernetes_validate

    return Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{version}.0-local-strict"


@functools.cache
def _own(kind: str, api_version: str) -> Any:
    import jsonschema

    path = SCHEMAS / f"{kind.lower()}.json"
    if not path.exists():
        return None
    schema = json.loads(path.read_text())
    return (
        jsonschema.Draft202012Validator(schema) if schema["properties"]["apiVersion"]["const"] == api_version else None
    )


def _closed(item: Object, validator: Any) -> Iterator[Finding]:
    for error in validator.iter_errors(item):
        yield Finding(
            expected=f"a valid {item['kind']} {item['apiVersion']}",
            found=f"{'.'.join(map(str, error.absolute_path))}: {error.message}"[:300],
            where=where(item),
            action="mend the field, or add it to the schema in manifests/schemas from the project's API types",
        )
