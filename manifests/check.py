"""`python -m manifests.check`: render every overlay twice, validate for two Kubernetes versions, apply the policies.

Prints a table and each finding with its four fields; exit code 1 on any. `--site FOLDER` checks one overlay that is about
to be installed, where no placeholder may be left. The pipelines install in `manifests/kfp` refers to upstream by tag and
is checked as text; `--network` renders it, too, and judges it beside each overlay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from instar.errors import InstarError
from instar.pipelines import pools
from manifests import policy_access
from manifests.objects import Finding, Object, World
from manifests.policy import INSTALL, findings
from manifests.tools import ROOT, kubectl, render
from manifests.validate import VERSIONS, validate

FOLDER = ROOT / "manifests"
INSIDE = "http://seaweedfs.instar-system:8333"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one overlay came to."""

    name: str
    objects: int
    seconds: float
    found: list[Finding]
    unfilled: list[str]


def images() -> Mapping[str, Mapping[str, str]]:
    """Return images.toml."""
    return tomllib.loads((FOLDER / "images.toml").read_text())


def world(name: str, objects: list[Object], *, site: bool = False) -> World:
    """Return the objects with what the overlay `name` is measured against; an unknown name is a site's overlay.

    The store of a site may be anywhere, so its endpoint in the pools file is taken from the objects.
    """
    development = name == "kind-dev"
    profile = pools.load("kind-dev" if development else "gpu-prod")
    if name == "airgap":
        profile = dataclasses.replace(profile, store_endpoint=INSIDE)
    if site:
        stores = [o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "instar-store"]
        profile = dataclasses.replace(profile, store_endpoint=stores[0]["data"]["endpoint"]) if stores else profile
    return World(objects=objects, images=images(), production=not development, site=site, profile=profile)


def examine(binary: Path, folder: Path, *, site: bool = False) -> Report:
    """Render, validate and judge one overlay."""
    began = time.perf_counter()
    objects, again = render(binary, folder), render(binary, folder)
    made = world(folder.name, objects, site=site)
    # Policies read fields that a valid object has, so they come after the schemas.
    found = [*(list(validate(objects)) or findings(made)), *_unequal(objects, again, folder)]
    return Report(
        name=folder.name,
        objects=len(objects),
        seconds=time.perf_counter() - began,
        found=found,
        unfilled=policy_access.unfilled(made),
    )


def by_reference(folder: Path = FOLDER / "kfp") -> Iterator[Finding]:
    """Yield the remote resources of the pipelines install that do not name one and the same full release tag."""
    import yaml

    path = folder / "kustomization.yaml"
    remote = [str(r) for r in yaml.safe_load(path.read_text())["resources"] if "://" in str(r)]
    tags = {(re.search(r"[?&]ref=([^&]+)", r) or ["", ""])[1] for r in remote}
    if len(tags) != 1 or not re.fullmatch(r"\d+\.\d+\.\d+", next(iter(tags))):
        yield Finding(
            expected="one release tag, major.minor.patch, for every remote resource",
            found=str(sorted(tags)),
            where=str(path),
            action="pin ?ref= to the release",
        )


def installed(binary: Path, kfp: Path, overlays: Sequence[Path]) -> Iterator[Finding]:
    """Render the pipelines install in `kfp` and yield what is wrong with it, alone and beside each overlay."""
    objects = render(binary, kfp)
    yield from validate(objects)
    for folder in overlays:
        yield from findings(world(folder.name, [*render(binary, folder), *objects]), INSTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and print. Return 0, 1 on findings, or the exit code of the error that stopped it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=Path, help="check this overlay as one that is about to be installed")
    parser.add_argument("--kubectl", type=Path, help="use this kubectl 1.37 instead of the pinned one")
    parser.add_argument("--network", action="store_true", help="render manifests/kfp, too: clones two repositories")
    options = parser.parse_args(arguments)
    try:
        binary = options.kubectl or kubectl()
        overlays = [options.site] if options.site else sorted((FOLDER / "overlays").iterdir())
        reports = [examine(binary, folder.resolve(), site=bool(options.site)) for folder in overlays]
        text = [*by_reference(), *(installed(binary, FOLDER / "kfp", overlays) if options.network else ())]
    except InstarError as error:
        sys.stderr.write(f"{error.render()}\n")
        return error.exit_code
    _print(reports, text, "by reference, rendered" if options.network else "by reference, not rendered here")
    return 1 if text or any(r.found for r in reports) else 0


def _unequal(first: list[Object], second: list[Object], folder: Path) -> Iterator[Finding]:
    if json.dumps(first) != json.dumps(second):
        yield Finding(expected="two equal renders", found="a difference", where=str(folder), action="find what varies")


def _print(reports: list[Report], text: list[Finding], how: str) -> None:
    write = sys.stdout.write
    write(f"{'overlay':<12} {'objects':>7}  {'Kubernetes':<12} {'seconds':>7}  {'findings':>8}  left to the site\n")
    for r in reports:
        versions, left = ", ".join(VERSIONS), ", ".join(r.unfilled) or "nothing"
        write(f"{r.name:<12} {r.objects:>7}  {versions:<12} {r.seconds:>7.1f}  {len(r.found):>8}  {left}\n")
    write(f"{'kfp':<12} {'-':>7}  {'-':<12} {'-':>7}  {len(text):>8}  {how}\n")
    for name, found in [*((r.name, r.found) for r in reports), ("kfp", text)]:
        for f in found:
            write(f"\n{name}: {f.where}\n  expected: {f.expected}\n  found:    {f.found}\n  do:       {f.action}\n")


if __name__ == "__main__":
    sys.exit(main())
