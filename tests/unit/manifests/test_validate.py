"""Strict schemas: a typo, a wrong type or a missing field in any object is refused, for both versions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from manifests.objects import World
from manifests.validate import SCHEMAS, VERSIONS, validate

Overlay = Callable[[str], World]
OPEN = {"labels", "annotations", "nodeLabels", "matchLabels"}
"""Fields that hold names of the user's choice."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("Deployment", "spec/replicas", "1", "spec.replicas"),
        ("Deployment", "spec/template/spec/contianers", [], "contianers"),
        ("Deployment", "spec/template/spec/containers/0/securityContext/readonly", True, "readonly"),
        ("CronJob", "spec/schedule", None, "schedule"),
        ("NetworkPolicy", "spec/podselector", {}, "podselector"),
    ],
)
def test_faults_are_found(overlay: Overlay, version: str, kind: str, path: str, value: Any, said: str) -> None:
    item = overlay("gpu-prod").of(kind)[0]
    assert list(validate([item], [version])) == []
    *steps, last = [int(s) if s.isdigit() else s for s in path.split("/")]
    place: Any = item
    for step in steps:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    (found,) = validate([item], [version])
    assert said in found.found and version in found.expected


def test_a_kind_without_a_schema_is_refused() -> None:
    item = {"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "w"}}
    assert "no schema" in next(validate([item], ["1.37"])).found


def test_another_version_of_a_known_kind_is_refused(overlay: Overlay) -> None:
    item = overlay("gpu-prod").of("LocalQueue")[0]
    item["apiVersion"] = "kueue.x-k8s.io/v1beta1"
    assert "no schema" in next(validate([item], ["1.37"])).found


def test_every_schema_of_ours_is_closed_at_every_level(overlay: Overlay) -> None:
    kinds = set()
    for item in overlay("airgap").objects:
        if not (SCHEMAS / f"{item['kind'].lower()}.json").exists():
            continue
        kinds.add(item["kind"].lower())
        assert list(validate([item], ["1.37"])) == []
        for spoiled, path in _with_unknown_key(item):
            assert list(validate([spoiled], ["1.37"])), f"{item['kind']} takes an unknown key at {path}"
    assert kinds == {p.stem for p in SCHEMAS.iterdir()}, "a schema that no object uses"


def _with_unknown_key(item: Any) -> Iterator[tuple[Any, str]]:
    for path in _mappings(item, []):
        spoiled = copy.deepcopy(item)
        place = spoiled
        for step in path:
            place = place[step]
        place["unknownKey"] = "x"
        yield spoiled, ".".join(map(str, path))


def _mappings(value: Any, path: list[Any]) -> Iterator[list[Any]]:
    if isinstance(value, dict):
        if not (path and path[-1] in OPEN) and "containers" not in value:
            yield path
        for key, child in value.items():
            if key not in OPEN and "containers" not in value:
                yield from _mappings(child, [*path, key])
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _mappings(child, [*path, index])
