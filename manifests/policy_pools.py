"""The node pools that pipelines are compiled for, and the cluster's objects, say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from instar.pipelines.pools import Pool, Profile
from manifests.credentials import SECRETS
from manifests.objects import Finding, World
from manifests.policy_pods import quantity

RUNS = "instar"


def agreement(world: World) -> Iterator[Finding]:
    """Account, secret, endpoints and queues of the profile exist; every pool is admitted by its queue and quota."""
    profile = world.profile
    if profile is None:
        return
    yield from _identities(world, profile)
    yield from _endpoints(world, profile)
    quota = {k: v for o in world.of("ResourceQuota") if o["metadata"]["namespace"] == RUNS for k, v in _hard(o).items()}
    for name, pool in profile.pools.items():
        for resource, amount in _needs(pool).items():
            hard = quota.get(f"requests.{resource}")
            if hard is not None and quantity(amount) > quantity(hard):
                yield _fault(
                    f"at most {hard} {resource}", amount, f"pools.{name}", "raise the quota or shrink the pool"
                )
        if pool.queue:
            yield from _queue(world, name, pool)


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
    cluster = local[pool.queue]["spec"]["clusterQueue"]
    queue = next(o for o in world.of("ClusterQueue") if o["metadata"]["name"] == cluster)
    flavors = {o["metadata"]["name"]: o["spec"] for o in world.of("ResourceFlavor")}
    reasons = []
    for flavor in (f for group in queue["spec"]["resourceGroups"] for f in group["flavors"]):
        reason = _refusal(pool, flavors[flavor["name"]], {r["name"]: r for r in flavor["resources"]})
        if reason is None:
            return
        reasons.append(f"{flavor['name']}: {reason}")
    yield _fault(f"a flavour of {cluster} for the pool", "; ".join(reasons), place, "mend the flavour or the pool")


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
        if quantity(amount) > most:
            return f"{amount} {resource} is more than it may ever hold"
    return None


def _needs(pool: Pool) -> dict[str, str]:
    needs = {"cpu": pool.cpu, "memory": pool.memory}
    return needs | {pool.accelerator: str(pool.count)} if pool.accelerator else needs


def _hard(item: Mapping[str, Any]) -> dict[str, str]:
    return dict(item["spec"]["hard"])


def _fault(expected: str, found: str, place: str, action: str) -> Finding:
    return Finding(expected=expected, found=found, where=place, action=action)
