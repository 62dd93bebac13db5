"""Decision Mamba: a multi-grained state-space model with self-evolution regularisation for offline RL (arXiv 2406.05427).

An iteration is one stage of the self-evolution: the policy of the previous stage acts on logged windows, targets are blended
from what was logged and what it would have done, and its weight in the blend grows. No rollout enters the training data.
`tiny` makes graded Pendulum-v1 data here; `single` and `paper` read a data set given by path.
"""

from __future__ import annotations

from instar.components.continuous.config import DecisionMambaArch
from instar.components.curriculum.config import UniformConfig
from instar.components.dataset_prep.offline.config import D4rlSource, MinariSource, OfflineConfig, PendulumSource
from instar.components.evaluate.config import SimulateConfig
from instar.components.reward.config import RefineConfig
from instar.components.rollout.config import ProposeConfig
from instar.components.update.sequence.config import SequenceConfig
from instar.pipelines.gate import GateConfig
from instar.pipelines.recipe import Recipe, Scale


def decision_mamba(scale: Scale, model: str | None) -> Recipe:
    """Decision Mamba: offline RL, the past policy refines the targets of the next (arXiv 2406.05427)."""
    del model
    return tiny() if scale == "tiny" else published(scale)


def tiny() -> Recipe:
    """Two CPU cores, minutes: swing a pendulum up from data of which a third is random."""
    arch = DecisionMambaArch(width=64, layers=2, state_size=16, window=10)
    return Recipe(
        name="decision_mamba", scale="tiny", paper="arXiv 2406.05427", iterations=6, threads=1,
        dataset_prep=OfflineConfig(source=PendulumSource(rates=(1.0, 0.7, 0.4), episodes=100), arch=arch),
        curriculum=UniformConfig(prompts=6400, group_size=1),  # 100 updates of 64 windows
        rollout=ProposeConfig(), reward=RefineConfig(),  # the published slope: beta grows by 0.85 / 40 per stage
        update=SequenceConfig(batch=64, lr=1e-3, warmup_steps=50, weight_decay=1e-4),
        evaluate=SimulateConfig(splits=("val",)), test=SimulateConfig(splits=("id",)), gate=GateConfig(select="last"),
    )  # fmt: skip


def published(scale: Scale) -> Recipe:
    """Return 40 stages of 2500 updates of 64 windows, K = 20, 20 episodes per target, as released; the task is a setting.

    `paper` has the size of the released run; `single` that of the Decision Transformer it is compared with.
    """
    width, layers = (768, 24) if scale == "paper" else (128, 3)
    arch = DecisionMambaArch(width=width, layers=layers, window=20, encoder="auto", head="auto")
    d4rl = D4rlSource(path="data/hopper_medium-v2.hdf5", task="hopper-medium")
    source = d4rl if scale == "paper" else MinariSource(path="data")
    return Recipe(
        name="decision_mamba", scale=scale, paper="arXiv 2406.05427", iterations=40,
        dataset_prep=OfflineConfig(source=source, arch=arch, val_episodes=20, test_episodes=20, probe_episodes=20),
        curriculum=UniformConfig(prompts=2500 * 64, group_size=1),
        rollout=ProposeConfig(), reward=RefineConfig(),  # beta_T 0.85, cap 0.5, 40 stages
        update=SequenceConfig(),  # AdamW, lr 1e-4, warm-up 2500, decay 1e-5, clip 0.25, loss weights 0.9, 0.05, 0.05
        evaluate=SimulateConfig(splits=("val",), context="window"), test=SimulateConfig(splits=("id",), context="window"),
        gate=GateConfig(select="last"),
    )  # fmt: skip
