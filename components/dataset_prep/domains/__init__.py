"""The task families of Self-Evolving Curriculum, and the sorting ladder of the tiny scale, by name.

| domain | the task | made by |
|---|---|---|
| `countdown` | reach a target with all given numbers | instar |
| `zebra` | who lives in house 1, from clues | instar |
| `arc1d` | continue a rule over a row of digits | reasoning-gym |
| `arithmetic` | evaluate a sum | reasoning-gym |
| `sorting` | write digits in ascending order | instar |
"""

from __future__ import annotations

from instar.components.dataset_prep.domains import arc1d, arithmetic, countdown, sorting, zebra
from instar.components.dataset_prep.domains.item import Domain, Item

__all__ = ["DOMAINS", "Domain", "Item"]

DOMAINS: dict[str, Domain] = {
    "countdown": countdown.DOMAIN,
    "zebra": zebra.DOMAIN,
    "arc1d": arc1d.DOMAIN,
    "arithmetic": arithmetic.DOMAIN,
    "sorting": sorting.DOMAIN,
}
