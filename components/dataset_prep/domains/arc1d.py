"""ARC-1D: find the rule that turns one row of digits into another, from example pairs (SEC section 3; data: reasoning-gym).

The same examples in another order are the same task (`key`). In 1 to 5 % of the items the output equals the input. The feature
`copy` marks them, because a policy that only copies the input is right there.
"""

from __future__ import annotations

from collections.abc import Sequence

from instar.components.dataset_prep.domains.gym import VERSION, dataset
from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve

DEFAULTS = {"size": 10, "examples": 3}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`. Parameters: `size` (digits of a row, at least 8) and `examples` (number of example pairs)."""
    p = resolve(params, DEFAULTS, "arc1d")
    require(p["size"] >= 8 and p["examples"] >= 1, "size >= 8 and examples >= 1", p, "arc1d")
    settings = (("min_size", p["size"]), ("max_size", p["size"]), ("num_train", p["examples"]))
    facts = dataset("arc_1d", settings, seed)[index]["metadata"]
    pairs: list[tuple[list[int], list[int]]] = [(e["input"], e["output"]) for e in facts["train_examples"]]
    question, answer = facts["test_example"]["input"], facts["test_example"]["output"]
    shown = "\n".join(f"{_row(a)} -> {_row(b)}" for a, b in pairs)
    examples = [f"{_row(a, '')}>{_row(b, '')};" for a, b in pairs]
    asked = f"{_row(question, '')}>"
    return Item(
        prompt_body=(
            "One rule turns each row of digits on the left into the row on the right.\n"
            f"{shown}\nApply the same rule to this row:\n{_row(question)}"
        ),
        terse="".join([*examples, asked]),
        reference={"answer": _row(answer)},
        features={"size": p["size"], "rule": facts["task_name"], "copy": question == answer},
        key="".join([*sorted(examples), asked]),
    )


def _row(cells: Sequence[int], separator: str = " ") -> str:
    return separator.join(map(str, cells))


DOMAIN = Domain(
    generate=generate,
    generator=f"reasoning-gym.arc_1d/{VERSION}",
    verifier="arc1d",
    answer_form="the digits of the new row, separated by spaces",
)
