"""Settings of generated tasks: how many are made of attempts, in which form, and how long they wait."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from instar.components.generated.rule import Rule
from instar.components.generated.templates import Wording, characters
from instar.components.piece import RecipeView
from instar.config import out_of_range
from instar.errors import ConfigError

TEMPLATES_OF = {"terse": ("terse",), "few_shot": ("few_shot",), "words": ("boxed", "base_chat", "chat")}
"""Wording of generated tasks -> templates of the tasks they are made from."""
BALANCE = {
    "none": "labels follow the policy's accuracy, as in the release: the better it solves, the more often Yes is right",
    "label": "among single answers as many are right as wrong, at every accuracy; of pairs A is right as often as B",
    "arm": "among single answers of every arm as many are right as wrong; of pairs A is right as often as B",
}


@dataclass(frozen=True, kw_only=True)
class RecycleConfig:
    """Generated tasks made of every step's attempts (SPARK section 2)."""

    wording: Wording = "words"
    """`words` for language models, `terse` for character models."""
    rule: Rule = field(default_factory=Rule)
    max_age: int = 8
    """Most updates between the policy that wrote an attempt and the one that judges it; 0 has no limit."""
    max_size: int = 512
    """Most tasks in the cache, the oldest go first; 0 has no limit."""
    max_chars: int = 16_000
    """Longest prompt; a longer one is not made."""
    remember: int = 32
    """Steps in which no task of equal parent, shown texts and template family is made again; 0 allows repeats."""
    keep_truncated: bool = False
    """Make tasks of attempts that the length limit cut. Their label is "wrong" whatever they were about to say."""

    def __post_init__(self) -> None:
        """Refuse sizes below zero, shares that are none, and a reflection that only confirms."""
        rule = self.rule
        shares = {"rule.pair_share": rule.pair_share, "rule.known_wrong_share": rule.known_wrong_share}
        counts = {"rule.judges": rule.judges, "rule.reflections": rule.reflections, "max_age": self.max_age}
        counts |= {"max_size": self.max_size, "max_chars": self.max_chars, "remember": self.remember}
        checks = [(name, 0.0 <= value <= 1.0, "in 0..1", value) for name, value in shares.items()]
        checks += [
            (name, value >= (least := int(name == "max_chars")), f">= {least}", value) for name, value in counts.items()
        ]
        checks.append(("rule.confirm_share", 0.0 <= rule.confirm_share <= 0.9, "in 0..0.9", rule.confirm_share))
        for name, holds, expected, found in checks:
            if not holds:
                raise out_of_range(f"reward.recycle.{name}", expected, found)

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them: `terse` has one form of reflection."""
        return {"rule.known_wrong_share": "recycle.wording=words or few_shot"} if self.wording == "terse" else {}

    def most_waiting(self) -> int:
        """Return how many tasks the cache can hold: all of the last `max_age` steps, and no more than `max_size`."""
        limits = [self.max_size] if self.max_size else []
        limits += [(self.rule.judges + self.rule.reflections) * self.max_age] if self.max_age else []
        return min(limits, default=sys.maxsize)

    def check(self, recipe: RecipeView) -> None:
        """Refuse generated tasks in a wording that does not go with the tasks they are made of."""
        self._check_template(recipe)
        self._check_alphabet(recipe)

    def _check_template(self, recipe: RecipeView) -> None:
        prep, rollout = recipe.dataset_prep, recipe.rollout
        template = prep.pools.template if prep.strategy == "text" else ""
        stop = rollout.stop if rollout.strategy == "sample" else ()
        words, able = self.wording == "words", TEMPLATES_OF[self.wording]
        fitting = next((name for name, fits in TEMPLATES_OF.items() if template in fits), "")
        if template in able and not (words and stop):
            return
        raise ConfigError(
            expected=f"template {' or '.join(able)}" + (" and no stop strings" if words else ""),
            found=f"template '{template}', stop {list(stop)}",
            where="recipe.reward.recycle.wording",
            action=f"set reward.recycle.wording={fitting}"
            if fitting and fitting != self.wording
            else "take out the stop strings",
        )

    def _check_alphabet(self, recipe: RecipeView) -> None:
        """Refuse a character model that cannot read or write generated tasks: unknown characters become padding."""
        prep = recipe.dataset_prep
        if prep.strategy != "text" or prep.initial.strategy != "from_scratch":
            return
        alphabet = prep.initial.model.alphabet
        missing = characters(self.wording) - set(alphabet)
        if missing:
            raise ConfigError(
                expected=f"an alphabet with every character of wording '{self.wording}'",
                found=f"'{alphabet}' without '{''.join(sorted(missing))}'",
                where="recipe.dataset_prep.initial.model.alphabet",
                action=f"set dataset_prep.initial.model.alphabet='{alphabet}{''.join(sorted(missing))}'",
            )

    def explain(self, recipe: RecipeView) -> list[str]:
        """State which tasks are made, what their labels are, and how they are drawn."""
        rule, draw = self.rule, recipe.curriculum.generated
        lines = [
            f"of every step's attempts: at most {rule.judges} to judge (per group of attempts one: an answer where all are "
            f"right or all wrong; where they differ with probability {rule.pair_share:g} which of two is right, else one "
            f"answer) and {rule.reflections} to correct",
            BALANCE[rule.balance],
            f"{rule.confirm_share:.0%} of the attempts to correct are right and have to be kept; attempts cut by the length "
            "limit " + ("count as wrong" if self.keep_truncated else "are left out"),
            "reward as above, by a rule verifier: of a verdict against the label, of a correction against the parent's reference",
            f"waiting tasks: first in, first out, {f'at most {self.max_size} tasks' if self.max_size else 'any number of tasks'}, "
            + (f"at most {self.max_age} updates old" if self.max_age else "of any age"),
        ]
        return lines if draw is None else [*lines, draw.explain(recipe)]
