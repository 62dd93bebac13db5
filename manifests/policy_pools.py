"""The node pools that pipelines are compiled for, and the cluster's objects, say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from instar.pipelines.pools import Pool, Profile
from manifests.credentials import SECRETS
from manifests.objects import Finding, Object, World, where
from manifests.policy_pods import quantity

RUNS = "instar"


def agreement(world: World) -> Iterator[Finding]:
    """Account, secret, endpoints and queues of the profile exist; pools, gangs among them, fit queue and quota."""
    profile = world.profile
    if profile is None:
        return
    yield from _identities(world, profile)
    yield from _endpoints(world, profile)
    quota = {k: v for o in world.of("ResourceQuota") if o["metadata"]["namespace"] == RUNS for k, v in _hard(o).items()}
    for name, pool in profile.pools.items():
        for resource, amount in _needs(pool).items():
            for side in ("requests", "limits"):
                hard = quota.get(f"{side}.{resource}")
                if hard is not None and _width(pool) * quantity(amount) > quantity(hard):
                    said = f"{_width(pool)} x {amount}"
                    yield _fault(
                        f"at most {hard} {resource}", said, f"pools.{name}", "raise the quota or shrink the pool"
                    )
        if pool.queue:
            yield from _queue(world, name, pool)


def covered(world: World) -> Iterator[Finding]:
    """A queue covers whatever its pods request: what pools ask for, and what a LimitRange gives to those that do not ask.

    Kueue admits no pod with a request that the queue does not cover.
    """
    limits = [x for o in world.of("LimitRange") if o["metadata"]["namespace"] == RUNS for x in o["spec"]["limits"]]
    given = {
        r for x in limits if x["type"] == "Container" for side in ("default", "defaultRequest") for r in x.get(side, {})
    }
    pools = world.profile.pools.values() if world.profile else ()
    for local in (o for o in world.of("LocalQueue") if o["metadata"]["namespace"] == RUNS):
        asked = {r for pool in pools if pool.queue == local["metadata"]["name"] for r in _needs(pool)}
        for queue in _cluster_queues(world, local):
            held = {r for group in queue["spec"]["resourceGroups"] for r in group["coveredResources"]}
            for resource in sorted((given | asked) - held):
                place = where(queue, "coveredResources")
                yield _fault(f"{resource}, which its pods request", str(sorted(held)), place, "add it with a quota")


def _identities(world: World, profile: Profile) -> Iterator[Finding]:
    accounts = {o["metadata"]["name"] for o in world.of("ServiceAccount") if o["metadata"]["namespace"] == RUNS}
    if profile.service_account not in accounts:
        yield _fault(f"one of {sorted(accounts)}", profile.service_account, "pools: service_account", "mend the name")
    if SECRETS.get((RUNS, profile.store_secret)) is None:
        yield _fault("a Secret of manifests.credentials", profile.store_secret, "pools: store_secret", "mend the name")


def _endpoints(world: World, profile: Profile) -> Iterator[Finding]:
    for item in world.of("ConfigMap"):
        name, data = item["metadata"]["name"], item.get("data", {})
        if name == "instar-store" and data.get("endpoint") != profile.store_endpoint:
            yield _fault(
                profile.store_endpoint, str(data.get("endpoint")), f"ConfigMap {name}", "same as in pools.toml"
            )
        if name == "kfp-launcher" and f"endpoint: {profile.store_endpoint}\n" not in data.get("providers", ""):
            yield _fault(profile.store_endpoint, "another endpoint", f"ConfigMap {name}", "same as in pools.toml")
    url = urlsplit(profile.mlflow)
    services = {
        f"{o['metadata']['name']}.{o['metadata']['namespace']}:{p['port']}"
        for o in world.of("Service")
        for p in o["spec"]["ports"]
    }
    if url.netloc not in services:
        yield _fault(f"one of {sorted(services)}", url.netloc, "pools: mlflow", "mend the address")


def _queue(world: World, name: str, pool: Pool) -> Iterator[Finding]:
    place = f"pools.{name}"
    local = {o["metadata"]["name"]: o for o in world.of("LocalQueue") if o["metadata"]["namespace"] == RUNS}
    if pool.queue not in local:
        yield _fault(f"one of {sorted(local)}", pool.queue, f"{place}.queue", "mend the name")
        return
    flavors = {o["metadata"]["name"]: o["spec"] for o in world.of("ResourceFlavor")}
    reasons = []
    groups = (group for queue in _cluster_queues(world, local[pool.queue]) for group in queue["spec"]["resourceGroups"])
    for flavor in (f for group in groups for f in group["flavors"] if f["name"] in flavors):
        reason = _refusal(pool, flavors[flavor["name"]], {r["name"]: r for r in flavor["resources"]})
        if reason is None:
            return
        reasons.append(f"{flavor['name']}: {reason}")
    said = "; ".join(reasons) or "no flavour"
    yield _fault(f"a flavour of queue {pool.queue} for the pool", said, place, "mend the flavour or the pool")


def _cluster_queues(world: World, local: Object) -> list[Object]:
    """Return the ClusterQueue of a LocalQueue; none when there is no such one, which `policy_links.queues` finds."""
    return [o for o in world.of("ClusterQueue") if o["metadata"]["name"] == local["spec"]["clusterQueue"]]


def _refusal(pool: Pool, flavor: Mapping[str, Any], quotas: Mapping[str, Mapping[str, str]]) -> str | None:
    """Return why a flavour does not take pods of the pool, or None."""
    for key, value in flavor.get("nodeLabels", {}).items():
        if pool.node_selector.get(key) != value:
            return f"its nodes have {key}={value}, the pool selects {pool.node_selector.get(key)}"
    for taint in flavor.get("nodeTaints", []):
        if not any(
            t.key == taint["key"]
            and t.effect in ("", taint["effect"])
            and (t.operator == "Exists" or t.value == taint.get("value", ""))
            for t in pool.tolerations
        ):
            return f"taint {taint['key']} is not tolerated"
    for resource, amount in _needs(pool).items():
        quota = quotas.get(resource)
        if quota is None:
            return f"no quota for {resource}"
        most = quantity(quota["nominalQuota"]) + quantity(quota.get("borrowingLimit", "0"))
        if _width(pool) * quantity(amount) > most:
            return f"{_width(pool)} x {amount} {resource} is more than it may ever hold"
    return None


def _needs(pool: Pool) -> dict[str, str]:
    """Return what one pod of the pool requests; disk of a storage class is a claim, beside it a little for logs."""
    disk = "1Gi" if pool.scratch.class_ else pool.scratch.size
    needs = {"cpu": pool.cpu, "memory": pool.memory, "ephemeral-storage": disk}
    return needs | {pool.accelerator: str(pool.count)} if pool.accelerator else needs


def _width(pool: Pool) -> int:
    """Return how many pods of a gang are admitted together."""
    return max(1, pool.parallelism)


def _hard(item: Mapping[str, Any]) -> dict[str, str]:
    return dict(item["spec"]["hard"])


def _fault(expected: str, found: str, place: str, action: str) -> Finding:
    return Finding(expected=expected, found=found, where=place, action=action)
