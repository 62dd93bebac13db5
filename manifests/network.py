"""Which pod may reach which, computed from NetworkPolicies, and the policies about them.

A connection needs the sender's egress and the receiver's ingress. A pod that no policy selects for a direction is open in
that direction; one that any policy selects may do only what some policy allows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.objects import Finding, Object, World, selects, where

METADATA_SERVICE = ipaddress.ip_address("169.254.169.254")
MAX_ADDRESSES = 2**24


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One end of a connection: a pod by namespace and labels, or (`address`) something outside the pod network."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def reaches(policies: Sequence[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Return whether `source` may open a connection to `port` of `target`."""
    out = _allowed(policies, source, target, port, protocol, "Egress")
    return out and _allowed(policies, target, source, port, protocol, "Ingress")


def denied(world: World) -> Iterator[Finding]:
    """Every namespace of ours starts from nothing: a policy that selects all its pods, both ways, and allows nothing."""
    for item in world.of("Namespace"):
        name = item["metadata"]["name"]
        closed = {
            direction
            for policy in world.of("NetworkPolicy")
            if policy["metadata"]["namespace"] == name and policy["spec"]["podSelector"] == {}
            for direction in policy["spec"]["policyTypes"]
            if not policy["spec"].get(direction.lower())
        }
        for direction in ("Ingress", "Egress"):
            if direction not in closed:
                yield _fault(f"{direction} denied by default", "open", where(item), "add the default-deny policy")


def narrow(world: World) -> Iterator[Finding]:
    """An allow rule names peers and ports; address ranges are at most a /8 and never hold the metadata service."""
    for item in world.of("NetworkPolicy"):
        gang = item["metadata"]["name"] == "gang"
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for index, rule in enumerate(item["spec"].get(direction, [])):
                path = where(item, f"{direction}[{index}]")
                if not rule.get(side):
                    yield _fault("named peers", "everything", path, f"write `{side}`")
                if not rule.get("ports") and not gang:
                    yield _fault("named ports", "all ports", path, "write `ports`")
                for peer in rule.get(side, []):
                    yield from _narrow_peer(peer, path)


def _narrow_peer(peer: Mapping[str, Any], path: str) -> Iterator[Finding]:
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        if network.num_addresses > MAX_ADDRESSES or METADATA_SERVICE in network:
            yield _fault("a range of at most a /8 without the metadata service", str(network), path, "narrow it")
    elif peer.get("namespaceSelector") == {} or not peer:
        yield _fault("a named namespace", "every namespace", path, "select one by kubernetes.io/metadata.name")
    elif not peer.get("podSelector"):
        yield _fault("named pods", "every pod of a namespace", path, "write `podSelector`")


def _allowed(policies: Sequence[Object], pod: Peer, other: Peer, port: int, protocol: str, direction: str) -> bool:
    if pod.address:
        return True
    chosen = [
        p
        for p in policies
        if p["metadata"]["namespace"] == pod.namespace
        and direction in p["spec"]["policyTypes"]
        and selects(p["spec"]["podSelector"], pod.labels)
    ]
    side = "to" if direction == "Egress" else "from"
    rules = [rule for p in chosen for rule in p["spec"].get(direction.lower(), [])]
    return not chosen or any(_rule(rule, side, pod.namespace, other, port, protocol) for rule in rules)


def _rule(rule: Mapping[str, Any], side: str, home: str, other: Peer, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    if ports and not any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports):
        return False
    return not rule.get(side) or any(_peer(peer, home, other) for peer in rule[side])


def _peer(peer: Mapping[str, Any], home: str, other: Peer) -> bool:
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return bool(other.address) and ipaddress.ip_address(other.address) in network
    if other.address:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != home:
        return False
    return selects(peer.get("podSelector", {}), other.labels)


def _fault(expected: str, found: str, place: str, action: str) -> Finding:
    return Finding(expected=expected, found=found, where=place, action=action)
