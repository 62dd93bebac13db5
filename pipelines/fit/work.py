"""What one inner step of a recipe asks of its device: the model, and the rows to sample and to train on, with their lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from instar.components.architecture import Architecture, of_model
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import Checkpoint, FromRun, FromScratch, ImportedConfig, Packaged
from instar.components.rollout.footprint import Sampling
from instar.pipelines.cost.case import TextPieces, text_pieces
from instar.pipelines.cost.constants import Constants
from instar.pipelines.cost.sizes import answers
from instar.pipelines.recipe import Recipe

PROMPTS = {
    "plain": (256, 64),
    "terse": (32, 16),
    "few_shot": (64, 56),
    "boxed": (1024, 256),
    "base_chat": (1024, 256),
    "chat": (1024, 256),
}
"""Longest and mean prompt of a template, in tokens.

1,024 is the limit of SEC's scripts, and 256 is assumed. `few_shot` was counted with SmolLM2's tokenizer. A longer prompt also runs:
then the sampler holds fewer rows, and the update plans again with the real batch.
"""
SHOWN = 2
"""Attempts that the longest generated prompt shows. It asks which of a pair is right."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One inner step of a recipe that samples text. Lengths are in tokens."""

    recipe: Recipe
    model: Architecture

    @cached_property
    def text(self) -> TextPieces:
        """Return the recipe's pieces with their types for text."""
        return text_pieces(self.recipe)

    @property
    def new(self) -> int:
        """Length of the longest answer."""
        return self.text.rollout.max_new_tokens

    @property
    def mean(self) -> float:
        """Mean length of an answer."""
        return self.new * Constants().length_share

    @property
    def _prompts(self) -> tuple[int, int]:
        """Longest and mean prompt. Of imported rows the longest is counted in characters, and a token has at least one."""
        pools = self.text.dataset_prep.pools
        if isinstance(pools, ImportedConfig):
            return pools.longest_prompt, max(1, pools.longest_prompt // 2)
        return PROMPTS[pools.template]

    @property
    def asked(self) -> int:
        """Length of the longest prompt that shows no attempt."""
        return self._prompts[0]

    @property
    def mean_prompt(self) -> float:
        """Mean length of all prompts, generated ones that show attempts included."""
        asked, generated = self._prompts[1], self.recipe.curriculum.generated
        if generated is None:
            return asked
        share = 0.5 if generated.mode == "alternate" else generated.prompts / self.groups
        return asked + share * self.mean

    @property
    def prompt(self) -> int:
        """Length of the longest prompt that is trained on."""
        return self.asked + SHOWN * self.new * (self.recipe.curriculum.generated is not None)

    @property
    def longest(self) -> int:
        """Length of the longest row that is trained on: prompt and answer."""
        return self.prompt + self.new

    @property
    def columns(self) -> int:
        """Length of the longest row of training, evaluation and test, because they share an engine."""
        lengths = [self.longest]
        for config in (self.text.evaluate, self.recipe.test):
            new = int(getattr(config, "max_new_tokens", 0))
            judges = getattr(config, "judge", None) is not None
            lengths.append(self.asked + new * (1 + SHOWN * judges))
        return max(lengths)

    @property
    def groups(self) -> int:
        """Prompts of one step. Generated prompts are included if they come in addition to the others."""
        drawn = self.recipe.curriculum
        extra = drawn.generated.prompts if drawn.generated is not None and drawn.generated.mode == "mixed" else 0
        return drawn.slots + extra

    @property
    def samples(self) -> int:
        """Answers of one step."""
        return self.groups * self.recipe.curriculum.group_size

    def sampling(self, rows: int) -> Sampling:
        """Return the largest request to an engine of `rows` slots. One call asks it for at most four times as many samples."""
        samples = min(self.samples, 4 * rows)
        groups = math.ceil(samples / self.recipe.curriculum.group_size)
        new = max(self.new, self.text.evaluate.max_new_tokens)
        return Sampling(rows=rows, samples=samples, groups=groups, prompt=self.columns - new, new=new)

    @property
    def evaluated(self) -> int:
        """Answers of the evaluation after an iteration."""
        return answers(self.text.evaluate, self.text.dataset_prep.pools.arms)


def work_of(recipe: Recipe) -> Work:
    """Return what `recipe` asks. Raises `ConfigError` if the recipe does not sample text or the sizes of its model are unknown."""
    initial = text_pieces(recipe).dataset_prep.initial
    match initial:
        case Checkpoint():
            model = of_model(initial.path)
        case Packaged():
            model = of_model(initial.name)
        case FromScratch():
            model = of_characters(initial.model)
        case FromRun():
            model = initial.sizes
    return Work(recipe=recipe, model=model)


def of_characters(sizes: CharModelConfig) -> Architecture:
    """Return the sizes of a character model. Its vocabulary has two tokens in addition to the alphabet."""
    return Architecture(
        hidden=sizes.hidden,
        layers=sizes.layers,
        heads=sizes.heads,
        kv_heads=sizes.heads,
        head_dim=sizes.hidden // sizes.heads,
        intermediate=sizes.intermediate,
        vocab=len(sizes.alphabet) + 2,
        tied=True,
    )
