"""Configuration of pools that were imported: the arms with their sizes, and what a recipe must know of the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from instar.components.reward.function_config import FunctionConfig
from instar.components.reward.scorer_config import ScorerConfig
from instar.components.rollout.config import EngineConfig
from instar.components.sandbox.config import SandboxConfig
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.artifact import ImportedTasks

Sizes: TypeAlias = dict[str, int]
MOST_CHARACTERS = 256
"""Most different characters of a character model."""


@dataclass(frozen=True, kw_only=True)
class ImportedArm:
    """One arm of imported rows, with the number of its tasks in every pool."""

    name: str
    level: float
    train: int = 0
    val: int = 0
    id: int = 0
    ood: int = 0

    def sizes(self) -> Sizes:
        """Return pool -> number of tasks."""
        return {"train": self.train, "val": self.val, "id": self.id, "ood": self.ood}


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """One rollout of the initial policy, whose solve rates become the levels of rows that have none."""

    tasks: int = 512
    """Training tasks that are answered. The others form the arm `unprobed`."""
    held_out: int = 512
    """Tasks of every held-out pool that are answered."""
    samples: int = 4
    """Answers to each task. With n of them a solve rate has n + 1 values."""
    levels: int = 4
    """Most levels."""
    max_new_tokens: int
    """Most tokens of an answer."""
    temperature: float = 1.0
    """Temperature of the answers."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, as in training."""
    style: Literal["boxed", "line", "tag", "whole"] = "whole"
    """Where in a completion the answer stands, as in training."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    functions: tuple[FunctionConfig, ...] = ()
    """The user's own reward functions, as in training."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """What a function of the user's may use."""
    scorer: ScorerConfig | None = None
    """The model that scores answers, as in training."""

    def __post_init__(self) -> None:
        """Refuse numbers that are too small."""
        least = {"tasks": 1, "held_out": 0, "samples": 1, "levels": 1, "max_new_tokens": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise out_of_range(f"dataset_prep.pools.probe.{name}", f">= {low}", getattr(self, name))
        if not self.temperature > 0:
            raise out_of_range("dataset_prep.pools.probe.temperature", "> 0", self.temperature)


@dataclass(frozen=True, kw_only=True)
class ImportedConfig:
    """Pools of rows that a user brought. `instar import` writes it, and the run reads the rows themselves from its input."""

    strategy: Literal["imported"] = "imported"
    arms: tuple[ImportedArm, ...]
    form: Literal["text", "chat", "messages"] = "text"
    """How prompts are encoded: as they are, as one message of a user, or as a conversation."""
    answers: Literal["text", "nested", "none"] = "text"
    """What the rows have as answers. Only texts can be compared without a reward function."""
    levels: bool = False
    """Whether the levels of the arms come from the rows. If not, all levels are 0."""
    longest_prompt: int
    """Characters of the longest prompt."""
    longest_answer: int
    """Characters of the longest answer."""
    answers_have_lines: bool = False
    """Whether an answer has a line break."""
    alphabet: str = ""
    """All characters of prompts and answers in order, or empty if there are more than a character model can have."""

    probe: ProbeConfig | None = None
    """Give the rows levels by the solve rate of the initial policy. None keeps their arms."""

    def __post_init__(self) -> None:
        """Refuse two arms with one name, and pools without training tasks."""
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise _wrong("arms with different names", f"{names}", "arms", "import the rows again")
        if not any(arm.train for arm in self.arms):
            raise _wrong("training tasks", "none", "arms", "import more rows, or pass a smaller --val and --test")

    def sizes(self) -> dict[str, Sizes]:
        """Return arm -> pool -> number of tasks."""
        return {arm.name: arm.sizes() for arm in self.arms}

    def check_style(self, style: str, name: str) -> None:
        """Accept every style, because nobody but the user knows what the prompts ask for."""
        del style, name

    def explain(self) -> list[str]:
        """State how many rows there are, and where their levels come from."""
        pools = {"train": "training", "val": "validation", "id": "test", "ood": "out of distribution"}
        totals = {split: sum(arm.sizes()[split] for arm in self.arms) for split in pools}
        sizes = ", ".join(f"{totals[split]:,} {word}" for split, word in pools.items() if totals[split])
        lines = [f"imported rows: {sizes}; {len(self.arms)} arm(s); prompts of form {self.form}"]
        if self.probe is not None:
            lines.append(
                f"levels: the first policy answers {self.probe.tasks} training tasks {self.probe.samples} times; its solve rates "
                f"become at most {self.probe.levels} arms"
            )
        return lines

    def graded(self) -> bool:
        """Return whether the arms have different levels, so that some are easier than others."""
        return self.levels and len({arm.level for arm in self.arms if arm.train}) > 1

    def easiest(self) -> tuple[str, ...]:
        """Return the arms of the lowest level that has training tasks. Without different levels, these are all arms."""
        trained = [arm for arm in self.arms if arm.train]
        lowest = min(arm.level for arm in trained)
        return tuple(arm.name for arm in trained if not self.graded() or arm.level == lowest)


def config_of(tasks: ImportedTasks) -> ImportedConfig:
    """Return the configuration that goes with an imported folder. Raises `ArtifactError` if the folder is incomplete."""
    from instar import config as configs

    tasks.require()
    value: ImportedConfig = configs.from_dict(ImportedConfig, tasks.read_json("import.json")["config"], "import.json")
    return value


def _wrong(expected: str, found: str, where: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=found, where=f"dataset_prep.pools.{where}", action=action)
