"""The policies in the order they are applied. Each is a function from a rendered overlay to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from manifests import network, policy_access, policy_links, policy_pods, policy_pools, policy_runs, rights
from manifests.objects import Finding, World

Policy = Callable[[World], Iterator[Finding]]

POLICIES: tuple[Policy, ...] = (
    policy_pods.restricted,
    policy_pods.bounded,
    policy_pods.probed,
    policy_access.images,
    policy_access.no_placeholder,
    policy_access.no_credential,
    policy_access.least_rights,
    rights.granted,
    network.denied,
    network.narrow,
    policy_links.namespaces,
    policy_links.configuration,
    policy_links.selectors,
    policy_links.queues,
    policy_pools.agreement,
    policy_pools.covered,
    policy_runs.archived,
    policy_runs.expanded,
    policy_runs.audiences,
)

INSTALL: tuple[Policy, ...] = (policy_runs.archived, policy_runs.expanded, policy_runs.audiences)
"""What the pipelines install is judged by, together with the objects of an overlay: the rest of it is upstream's."""


def findings(world: World, policies: tuple[Policy, ...] = POLICIES) -> list[Finding]:
    """Return everything that any of the policies finds."""
    return [finding for policy in policies for finding in policy(world)]
