"""What policies work on: rendered objects, the pods inside them, and findings with the four fields of every error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from instar.pipelines.pools import Profile

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault: what was expected, what was found, where, what to do."""

    expected: str
    found: str
    where: str
    action: str


@dataclass(frozen=True, kw_only=True)
class World:
    """All objects of one overlay and what it is measured against.

    `production` overlays refer to images by digest, others by the tag of `images`. `site` is an overlay about to be
    installed: no placeholder may be left. `profile` holds the node pools of the clusters it is for.
    """

    objects: list[Object]
    images: Mapping[str, Mapping[str, str]]
    production: bool = True
    site: bool = False
    profile: Profile | None = None

    def of(self, *kinds: str) -> list[Object]:
        """Return the objects of these kinds."""
        return [o for o in self.objects if o["kind"] in kinds]


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod template inside an object."""

    owner: Object
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """Namespace of the pods made from the template."""
        return str(self.owner["metadata"].get("namespace", ""))

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """Init containers and containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def where(item: Object, path: str = "") -> str:
    """Return `Kind namespace/name: path`."""
    meta = item["metadata"]
    name = "/".join(filter(None, [meta.get("namespace"), meta.get("name")]))
    return f"{item['kind']} {name}{': ' if path else ''}{path}"


def pods(objects: Iterable[Object]) -> Iterator[Pod]:
    """Yield every pod template, however deep: whatever has a `spec` with `containers` makes pods, known kind or not."""
    for item in objects:
        for template in _templates(item):
            labels = template.get("metadata", {}).get("labels", {})
            yield Pod(owner=item, labels=labels, spec=template["spec"])


def _templates(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
            yield value
            return
        for child in value.values():
            yield from _templates(child)
    elif isinstance(value, list):
        for child in value:
            yield from _templates(child)


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a nested value with its path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from strings(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from strings(child, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a Kubernetes label selector matches; an empty one matches all, None nothing."""
    if selector is None:
        return False
    if any(labels.get(k) != v for k, v in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value, operator = labels.get(rule["key"]), rule["operator"]
        held = {
            "In": value is not None and value in rule.get("values", []),
            "NotIn": value is None or value not in rule.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[operator]
        if not held:
            return False
    return True
