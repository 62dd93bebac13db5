"""Generators of text tasks. `DOMAINS` lists them by name: those of Self-Evolving Curriculum, and those of the scales `tiny` and
`small`.

    parameters, seed, index ──► generate ──► Item (prompt in words, terse form, reference, features, key) ──► pools

| domain | the task | made by |
|---|---|---|
| `countdown` | reach a target with all given numbers | instar |
| `zebra` | who lives in house 1, from clues | instar |
| `arc1d` | continue a rule over a row of digits | reasoning-gym |
| `arithmetic` | evaluate a sum | reasoning-gym |
| `sorting` | write digits in ascending order | instar |
| `facts` | add or multiply two numbers | instar |
| `ones` | count the ones in a row | instar |

Every domain is a file of its name. `item.py` has `Item`, which a generator returns, and `Domain`, which describes a generator.
`gym.py` opens the data sets of reasoning-gym. `zebra_solver.py` and `zebra_words.py` belong to `zebra.py`: an exact solver, and the
vocabulary.
"""

from __future__ import annotations

from instar.components.dataset_prep.domains import arc1d, arithmetic, countdown, facts, ones, sorting, zebra
from instar.components.dataset_prep.domains.item import Domain, Item

__all__ = ["DOMAINS", "Domain", "Item"]

DOMAINS: dict[str, Domain] = {
    "countdown": countdown.DOMAIN,
    "zebra": zebra.DOMAIN,
    "arc1d": arc1d.DOMAIN,
    "arithmetic": arithmetic.DOMAIN,
    "sorting": sorting.DOMAIN,
    "facts": facts.DOMAIN,
    "ones": ones.DOMAIN,
}
