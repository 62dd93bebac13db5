"""Decision Mamba: a multi-grained state-space model with self-evolution regularisation for offline RL (arXiv 2406.05427).

An iteration is one stage of the self-evolution. The policy of the previous stage acts on logged windows. A target is a blend of
the logged action and the action of that policy, whose weight in the blend grows. No rollout enters the training data. `tiny`
makes graded Pendulum-v1 data here; `single` and `paper` read a data set given by path.

Where the numbers of `paper` come from, as the comments beside them say:
`code`: `run.sh`, `mamba_config` and `experiment-d4rl` of aopolin-lv/DecisionMamba at d37dc82; `ours`: our own choice.
"""

from __future__ import annotations

from instar import config as configs
from instar.components.continuous.config import DecisionMambaArch
from instar.components.curriculum.config import UniformConfig
from instar.components.dataset_prep.offline.config import D4rlSource, OfflineConfig, PendulumSource
from instar.components.evaluate.config import SimulateConfig
from instar.components.reward.config import RefineConfig
from instar.components.rollout.config import ProposeConfig
from instar.components.update.sequence.config import SequenceConfig
from instar.pipelines.gate import GateConfig
from instar.pipelines.method import Method
from instar.pipelines.recipe import Recipe

PAPER = "arXiv 2406.05427"


def paper() -> Recipe:
    """The released run on one D4RL data set: 40 stages of 2500 updates of 64 windows. The data set is a setting."""
    return Recipe(
        name="decision_mamba",
        scale="paper",
        paper=PAPER,
        iterations=40,  # code: --max_iters
        dataset_prep=OfflineConfig(
            source=D4rlSource(
                path="data/hopper_medium-v2.hdf5",
                task="hopper-medium",  # its targets and scales are in components/dataset_prep/offline/tasks.py
            ),
            arch=DecisionMambaArch(
                width=768,  # code: mamba_config, the size of mamba-130m
                layers=24,  # code: mamba_config
                state_size=16,  # code: mamba_config
                expand=2,  # code: mamba_config
                conv=4,  # code: mamba_config
                window=20,  # code: --K
                max_timestep=1000,  # code: max_ep_len
                fusion="two_mixers",  # code; the paper's figure 1 has one gate for both scans
                grouping="shifted",  # the paper's figure 1; the code shows the model its target
                encoder="auto",  # code: linear for Hopper, an MLP elsewhere
                head="auto",  # code: as the encoder
                auxiliary=True,  # code: --predict_sr
            ),
            val_episodes=20,  # code: --num_eval_episodes
            test_episodes=20,  # ours: as many, on start states of their own
            probe_episodes=20,  # code: --num_eval_episodes for every target return
        ),
        curriculum=UniformConfig(
            prompts=2500 * 64,  # code: --num_steps_per_iter x --batch_size
            group_size=1,  # a window is drawn once
        ),
        rollout=ProposeConfig(),
        reward=RefineConfig(
            schedule="progressive",  # the paper's figure 2; the trainer of the code sets the weight to 0
            beta_end=0.85,  # code: --alpha_T in the example of the README
            beta_cap=0.5,  # code: --lower_bound, which it applies as a cap
            stages=40,  # code: --max_iters
        ),
        update=SequenceConfig(
            batch=64,  # code: --batch_size
            weights=(0.9, 0.05, 0.05),  # code: fixed in the trainer
            lr=1e-4,  # code: --learning_rate
            betas=(0.9, 0.999),  # code
            adam_eps=1e-6,  # code
            weight_decay=1e-5,  # code: --weight_decay
            decay_ssm_params=False,  # ours; the code decays A_log, D and the norms by mistake
            max_grad_norm=0.25,  # code: fixed in the trainer
            schedule="constant",  # code
            warmup_steps=2500,  # code: --warmup_steps
        ),
        evaluate=SimulateConfig(
            splits=("val",),
            context="window",  # code: the last K steps are run again at every step
        ),
        test=SimulateConfig(
            splits=("id",),
            context="window",  # code
        ),
        gate=GateConfig(select="last"),  # ours: the paper does not say which stage it reports
    )


def single() -> Recipe:
    """One GPU: `paper` on a Minari data set, with a policy of the size of the Decision Transformer that it is compared with."""
    return configs.merge(
        paper(),
        {
            "scale": "single",
            "dataset_prep": {
                "source": {"strategy": "minari", "path": "data"},
                "arch": {"width": 128, "layers": 3},  # the Decision Transformer in the same family of code
            },
        },
    )


def tiny() -> Recipe:
    """Two CPU cores, minutes: swing a pendulum up from data of which a third is random."""
    return Recipe(
        name="decision_mamba",
        scale="tiny",
        paper=PAPER,
        iterations=6,
        threads=1,  # results are the same for equal counts only, and every machine has one
        dataset_prep=OfflineConfig(
            source=PendulumSource(
                rates=(1.0, 0.7, 0.4),
                episodes=100,  # 60,000 steps in all
            ),
            arch=DecisionMambaArch(  # 182,000 parameters
                width=64,
                layers=2,
                state_size=16,  # as published
                window=10,
            ),
        ),
        curriculum=UniformConfig(
            prompts=6400,  # 100 updates of 64 windows
            group_size=1,
        ),
        rollout=ProposeConfig(),
        reward=RefineConfig(
            beta_end=0.85,  # as published
            beta_cap=0.5,  # as published
            stages=40,  # as published: beta grows by 0.85 / 40 per stage. All of it in six stages costs 4 points
        ),
        update=SequenceConfig(
            batch=64,  # as published
            lr=1e-3,  # ten times the published rate: 600 updates instead of 100,000
            warmup_steps=50,
            weight_decay=1e-4,
        ),
        evaluate=SimulateConfig(splits=("val",)),
        test=SimulateConfig(splits=("id",)),
        gate=GateConfig(select="last"),
    )


DECISION_MAMBA = Method(
    name="decision_mamba",
    paper=PAPER,
    summary="Decision Mamba: offline RL, the past policy refines the targets of the next",
    scales={"tiny": tiny, "single": single, "paper": paper},
)
