"""Options of the released Decision Mamba code that say what a recipe says; a dash where it has none.

Read from `aopolin-lv/DecisionMamba` at d37dc82: `run.sh`, `scripts/run_gym.sh`, `mamba_config` and
`experiment-d4rl/{experiment.py, decision_transformer/training/{trainer,seq_trainer}.py}`.
"""

from __future__ import annotations

from instar.components.continuous.config import Arch, BcArch, DecisionMambaArch
from instar.components.curriculum.config import BestConfig, UniformConfig
from instar.components.dataset_prep.offline.config import D4rlSource, OfflineConfig
from instar.components.evaluate.config import SimulateConfig
from instar.components.reward.config import RefineConfig
from instar.components.update.sequence.config import SequenceConfig
from instar.pipelines.recipe import Recipe

NONE = "-"


def released(recipe: Recipe, u: SequenceConfig) -> list[tuple[str, str]]:
    """Return rows of (topic, options) for `u`, the update of `recipe`."""
    rows: list[tuple[str, str]] = []
    if isinstance(recipe.dataset_prep, OfflineConfig):
        prep = recipe.dataset_prep
        rows += [("data", _data(prep)), ("window", f"--K {prep.arch.window}"), ("policy", _policy(prep.arch))]
        rows += _parts(prep.arch)
    if isinstance(recipe.reward, RefineConfig):
        rows += [
            ("target", _target(recipe.reward, recipe.iterations * recipe.inner_steps)),
            ("reward", f"--mode {'delayed' if recipe.reward.delayed else 'normal'}"),
        ]
    schedule = "" if u.schedule == "constant" else f" ({u.schedule} decay: {NONE})"
    rows += [
        (
            "optimiser",
            f"--learning_rate {u.lr:g} --weight_decay {u.weight_decay:g} --warmup_steps {u.warmup_steps}{schedule}",
        ),
        ("clip", "0.25, fixed in the trainer" if u.max_grad_norm == 0.25 else "- (0.25, fixed in the trainer)"),
        (
            "loop",
            f"--max_iters {recipe.iterations} --batch_size {u.batch} "
            f"--num_steps_per_iter {-(-recipe.curriculum.prompts // u.batch) * recipe.inner_steps}",
        ),
        ("curriculum", _curriculum(recipe)),
        ("evaluation", _evaluation(recipe)),
    ]
    return rows


def _data(prep: OfflineConfig) -> str:
    if not isinstance(prep.source, D4rlSource):
        return NONE
    env, _, tier = prep.source.task.partition("-")
    return f"--env {env} --dataset {tier}"


def _policy(arch: Arch) -> str:
    if isinstance(arch, BcArch):
        return f"--model_type bc --embed_dim {arch.width} --n_layer {arch.layers}"
    if not isinstance(arch, DecisionMambaArch):
        return NONE
    return (
        f"mamba_config: hidden_size={arch.width} num_hidden_layers={arch.layers} state_size={arch.state_size} "
        f"expand={arch.expand} conv_kernel={arch.conv}, --from_scratch True (--embed_dim, --n_layer and --dropout are not read)"
    )


def _parts(arch: Arch) -> list[tuple[str, str]]:
    if not isinstance(arch, DecisionMambaArch):
        return []
    leak = "(R_t, s_t, a_t), tiled: the group holds its own target"
    same = "two_mixers" if arch.fusion == "two_mixers" else f"- ({arch.fusion} is the figure of the paper)"
    return [
        ("fine scan", f"{same}, groups {leak}" if arch.grouping == "released" else f"{same}; groups there are {leak}")
        if arch.fine
        else ("fine scan", "- (always on)"),
        ("encoder", f"--mlp_embedding {arch.encoder == 'mlp'}"),
        ("next, loss", f"--predict_sr {arch.auxiliary}; weights 0.9, 0.05, 0.05 fixed in the trainer"),
    ]


def _target(r: RefineConfig, steps: int) -> str:
    if r.schedule == "none":
        return "--pskd False"
    if r.schedule == "fixed":
        return NONE
    end = r.beta_end * steps / r.stages  # there, beta grows over --max_iters
    return (
        f"--pskd True --alpha_T {end:g} --lower_bound {r.beta_cap:g} (applied as a cap); the trainer then sets the "
        "weight to 0, and would blend in the current prediction instead of the past policy's"
    )


def _curriculum(recipe: Recipe) -> str:
    c = recipe.curriculum
    if isinstance(c, BestConfig):
        return f"--pct_traj {c.share:g} (by episodes instead of arms)"
    return "--pct_traj 1 (draws with replacement)" if isinstance(c, UniformConfig) else NONE


def _evaluation(recipe: Recipe) -> str:
    prep = recipe.dataset_prep
    episodes = f"--num_eval_episodes {prep.val_episodes}, " if isinstance(prep, OfflineConfig) else ""
    carried = isinstance(recipe.test, SimulateConfig) and recipe.test.context == "carried"
    read = "; runs the last --K steps again at every step" if carried else ""
    return f"{episodes}targets and return scale fixed per --env in experiment.py{read}"
