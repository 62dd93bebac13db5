"""Settings of generated tasks: how many are made from attempts, in which form, and how long they wait."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from instar.components.generated.rule import Rule
from instar.components.generated.templates import Wording, characters
from instar.components.piece import RecipeView
from instar.config import out_of_range
from instar.errors import ConfigError

TEMPLATES_OF = {"terse": ("terse",), "few_shot": ("few_shot",), "words": ("boxed", "base_chat", "chat")}
"""Wording of generated tasks -> templates of the tasks that they can be made from."""
BALANCE = {
    "none": "labels follow the accuracy of the policy, as in the released code: the better it solves, the more often Yes is right",
    "label": "single answers are right as often as wrong, whatever the accuracy of the policy; in pairs A is right as often as B",
    "arm": "single answers of every arm are right as often as wrong; in pairs A is right as often as B",
}


@dataclass(frozen=True, kw_only=True)
class RecycleConfig:
    """Which generated tasks are made from the attempts of a step (SPARK section 2)."""

    wording: Wording = "words"
    """Form of the prompts: `words` suits language models, and `terse` suits character models."""
    rule: Rule = field(default_factory=Rule)
    max_age: int = 8
    """Most updates between the policy that wrote an attempt and the policy that judges it. 0 sets no limit."""
    max_size: int = 512
    """Most tasks in the cache. Beyond it the oldest are dropped. 0 sets no limit."""
    max_chars: int = 16_000
    """Most characters of a prompt. A task with a longer prompt is not made."""
    remember: int = 32
    """For this many steps, no task with the same parent, the same shown texts and the same template family is made again. 0 allows
    repeats."""
    keep_truncated: bool = False
    """Also make tasks from attempts that the length limit cut. Their label is "wrong", whatever they would have said."""

    def __post_init__(self) -> None:
        """Refuse sizes below their minimum, shares outside 0..1, and reflection on right attempts only."""
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
        """Return the fields without effect, each with the setting that would give it one. `terse` has one form of reflection."""
        return {"rule.known_wrong_share": "recycle.wording=words or few_shot"} if self.wording == "terse" else {}

    def most_waiting(self) -> int:
        """Return how many tasks the cache can hold: those of the last `max_age` steps, but not more than `max_size`."""
        limits = [self.max_size] if self.max_size else []
        limits += [(self.rule.judges + self.rule.reflections) * self.max_age] if self.max_age else []
        return min(limits, default=sys.maxsize)

    def check(self, recipe: RecipeView) -> None:
        """Refuse a wording that does not fit the tasks from which generated tasks are made."""
        self._check_template(recipe)
        self._check_alphabet(recipe)

    def _check_template(self, recipe: RecipeView) -> None:
        prep, rollout = recipe.dataset_prep, recipe.rollout
        pools = prep.pools if prep.strategy == "text" else None
        template = pools.template if pools is not None and pools.strategy == "generated" else ""
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
            else "remove the stop strings",
        )

    def _check_alphabet(self, recipe: RecipeView) -> None:
        """Refuse a character model that cannot read or write generated tasks. Unknown characters would become padding."""
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
            f"every step turns attempts into at most {rule.judges} judging tasks and {rule.reflections} correction tasks",
            "a group of attempts gives one judging task; when all its attempts are right, or all are wrong, the task asks about a "
            f"single answer; otherwise, with probability {rule.pair_share:g}, it asks which of two answers is right, else about a "
            "single answer",
            BALANCE[rule.balance],
            f"{rule.confirm_share:.0%} of the attempts in correction tasks are right and must be kept; attempts cut by the length "
            "limit " + ("count as wrong" if self.keep_truncated else "are left out"),
            "the reward is that above and comes from a rule: a verdict is compared with its label, and a correction with the "
            "reference of the parent task",
            f"waiting tasks: first in, first out, {f'at most {self.max_size} tasks' if self.max_size else 'any number of tasks'}, "
            + (f"at most {self.max_age} updates old" if self.max_age else "of any age"),
        ]
        return lines if draw is None else [*lines, draw.explain(recipe)]
