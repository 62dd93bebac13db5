"""Who may do what and what may be written down: images, credentials, RBAC, placeholders."""

from __future__ import annotations

import re
from collections.abc import Iterator

from manifests.objects import Finding, World, pods, strings, where

ZERO = "sha256:" + "0" * 64
PLACEHOLDERS = {ZERO: "image digests", "192.0.2.": "address range of the store", "example.com": "host names"}
DEFAULTS = re.compile(r"minio123|minioadmin|changeme|change-me|admin123|(?i:\bpassw0rd\b)|AKIAIOSFODNN7EXAMPLE")
_SENSITIVE = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL|APIKEY|API_KEY")
_POINTER = re.compile(r"_(FILE|PATH|NAME|URI|TTL)$")
_IN_URL = re.compile(r"://[^/\s:@]+:(?!\$\()[^/\s@]+@")
_REFERENCE = re.compile(r"(?P<name>[^:@]+(?::\d+/[^:@]+)?)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?")


def images(world: World) -> Iterator[Finding]:
    """Production refers to images by digest, anything else by the tag that images.toml pins. Names are those of it."""
    for pod in pods(world.objects):
        for box in pod.containers:
            match = _REFERENCE.fullmatch(box["image"])
            path, image = where(pod.owner, f"containers.{box['name']}.image"), box["image"]
            name = match["name"].rpartition("/")[2] if match else ""
            if match is None or name not in world.images:
                known = ", ".join(sorted(world.images))
                yield _fault(f"one of {known}", image, path, "add it to manifests/images.toml or mend the name")
            elif world.production:
                if not re.fullmatch(r"sha256:[0-9a-f]{64}", match["digest"] or ""):
                    yield _fault("a digest", image, path, "pin it: a tag can be moved")
            elif match["digest"] is None and (match["tag"] or "") != world.images[name].get("tag"):
                tag = world.images[name].get("tag", "no tag: this image is for production only")
                yield _fault(f"{name}:{tag}", image, path, "use the tag that manifests/images.toml pins")


def no_placeholder(world: World) -> Iterator[Finding]:
    """An overlay about to be installed has no digest of zeros, no documentation address and no example host left."""
    for item in world.objects if world.site else []:
        for path, text in strings(item):
            for mark in PLACEHOLDERS:
                if mark in text:
                    yield _fault("the site's own value", text[:120], where(item, path), "set it with `manifests.pin`")


def unfilled(world: World) -> list[str]:
    """Return what a site has to set: each placeholder's kind once."""
    found = {mark for item in world.objects for _, text in strings(item) for mark in PLACEHOLDERS if mark in text}
    return [what for mark, what in PLACEHOLDERS.items() if mark in found]


def no_credential(world: World) -> Iterator[Finding]:
    """No Secret object, no literal credential, no well-known default, no password inside a URL."""
    advice = "make it at install time with `python -m manifests.credentials` and refer to it"
    for item in world.objects:
        if item["kind"] == "Secret":
            yield _fault("no Secret in the tree", where(item), where(item), advice)
        for path, text in strings(item):
            if DEFAULTS.search(text) or _IN_URL.search(text):
                yield _fault("no credential", "a default or a password in a URL", where(item, path), advice)
    for pod in pods(world.objects):
        for box in pod.containers:
            for entry in box.get("env", []):
                name, value = entry["name"], entry.get("value", "")
                if _SENSITIVE.search(name) and not _POINTER.search(name) and value and "$(" not in value:
                    place = where(pod.owner, f"containers.{box['name']}.env.{name}")
                    yield _fault("valueFrom.secretKeyRef", "a literal", place, advice)


def least_rights(world: World) -> Iterator[Finding]:
    """No wildcard; secrets only by `get` of named ones; no exec, impersonation, escalation or cluster-wide binding."""
    dangerous = {"escalate", "bind", "impersonate"}
    for item in world.of("Role", "ClusterRole"):
        for index, rule in enumerate(item.get("rules", [])):
            path, verbs = where(item, f"rules[{index}]"), set(rule.get("verbs", []))
            resources = set(rule.get("resources", []))
            if "*" in verbs | resources | set(rule.get("apiGroups", [])):
                yield _fault("named groups, resources and verbs", "*", path, "name what is used")
            if "secrets" in resources and (verbs != {"get"} or not rule.get("resourceNames")):
                yield _fault("get with resourceNames", f"{sorted(verbs)} on secrets", path, "name the one secret")
            if verbs & dangerous or {"pods/exec", "pods/attach", "serviceaccounts/token"} & resources:
                found = f"{sorted(verbs)} on {sorted(resources)}"
                yield _fault("no way to another identity", found, path, "remove the rule")
    for item in world.of("ClusterRoleBinding", "ClusterRole"):
        yield _fault("rights inside one namespace", item["kind"], where(item), "use a Role and a RoleBinding")
    roles = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in world.of("Role")}
    accounts = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in world.of("ServiceAccount")}
    for item in world.of("RoleBinding"):
        if (item["metadata"]["namespace"], item["roleRef"]["name"]) not in roles:
            yield _fault("a Role that exists", item["roleRef"]["name"], where(item, "roleRef"), "mend the name")
        for subject in item["subjects"]:
            named = (subject.get("namespace"), subject["name"])
            if subject["kind"] != "ServiceAccount" or named not in accounts or subject["name"] == "default":
                yield _fault(
                    "a ServiceAccount of ours", str(named), where(item, "subjects"), "name the account of the role"
                )


def _fault(expected: str, found: str, place: str, action: str) -> Finding:
    return Finding(expected=expected, found=found, where=place, action=action)
