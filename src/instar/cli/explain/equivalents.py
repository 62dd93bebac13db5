"""The options of TRL 1.16.0, verl 0.9.0 and OpenRLHF 0.11.2 that mean the same as a recipe's update. A dash means none.

They were read in the released wheels: `trl/trainer/{grpo,rloo}_config.py`, `verl/trainer/{config,ppo/core_algos.py}` and
`openrlhf/cli/train_ppo_ray.py`. Prefixes are shortened: `actor.` of verl stands for `actor_rollout_ref.actor.`.
"""

from __future__ import annotations

from instar.components.reward.config import VerifyConfig
from instar.components.update.config import PolicyGradientConfig
from instar.pipelines.recipe import Recipe

Row = tuple[str, str, str, str]
NONE = "-"


def equivalents(recipe: Recipe, u: PolicyGradientConfig) -> list[Row]:
    """Return rows of (topic, TRL, verl, OpenRLHF) for `u`, the update of `recipe`."""
    c = recipe.curriculum
    return [
        ("advantage", *_advantage(u)),
        ("ratio, loss", *_loss(u)),
        ("clip", *_clip(u)),
        ("aggregation", *_aggregate(u)),
        ("KL", *_kl(u)),
        ("filter", *_filter(u)),
        ("overlong", *_overlong(u)),
        ("mismatch", *_mismatch(u)),
        (
            "batch",
            f"num_generations={c.group_size}, {c.prompts * c.group_size} completions per generation, "
            f"num_iterations={u.epochs}",
            f"rollout.n={c.group_size}, data.train_batch_size={c.prompts}, "
            f"actor.ppo_mini_batch_size={max(c.prompts // u.minibatches, 1)}, actor.ppo_epochs={u.epochs}",
            f"--rollout.n_samples_per_prompt {c.group_size} --rollout.batch_size {c.prompts} "
            f"--train.batch_size {max(c.prompts * c.group_size // u.minibatches, 1)} --train.max_epochs {u.epochs}",
        ),
        ("curriculum", NONE, NONE, "- (fixed prompt probabilities)"),
        *_generated(recipe),
    ]


def _generated(recipe: Recipe) -> list[Row]:
    """Return the rows of tasks that the evolution makes itself, if it makes any."""
    if not isinstance(recipe.reward, VerifyConfig) or recipe.reward.recycle is None:
        return []
    place = "- (a data.custom_cls dataset can add prompts in on_batch_end; experimental, makes none itself)"
    rows = [("own tasks", NONE, place, "- (the release of SPARK is a fork)")]
    if recipe.curriculum.generated is not None and recipe.curriculum.generated.mode == "alternate":
        rows.append(("two updates", NONE, NONE, "- (in that fork)"))
    return [*rows, ("test time", NONE, NONE, NONE)]


def _advantage(u: PolicyGradientConfig) -> tuple[str, str, str]:
    known: dict[tuple[str, str], tuple[str, str, str]] = {
        ("group", "group_std"): (
            "scale_rewards='group'",
            "algorithm.adv_estimator=grpo",
            "--algo.advantage.estimator group_norm",
        ),
        ("group", "none"): (
            "scale_rewards='none'",
            "algorithm.adv_estimator=grpo algorithm.norm_adv_by_std_in_grpo=False",
            "--algo.advantage.estimator dr_grpo",
        ),
        ("group", "batch_std"): ("scale_rewards='batch'", NONE, NONE),
        ("group", "whiten"): (
            NONE,
            "algorithm.adv_estimator=reinforce_plus_plus_baseline",
            "--algo.advantage.estimator reinforce_baseline",
        ),
        ("loo", "none"): (
            "RLOOTrainer, normalize_advantages=False",
            "algorithm.adv_estimator=rloo",
            "--algo.advantage.estimator rloo",
        ),
        ("critic", "whiten"): (
            "- (PPO was removed)",
            f"algorithm.adv_estimator=gae algorithm.gamma={u.gamma:g} algorithm.lam={u.lam:g}",
            f"--algo.advantage.estimator gae --algo.advantage.gamma {u.gamma:g} --algo.advantage.lambd {u.lam:g}",
        ),
    }
    return known.get((u.baseline, u.scale), (NONE, NONE, NONE))


def _loss(u: PolicyGradientConfig) -> tuple[str, str, str]:
    if u.objective == "cispo":
        return "loss_type='cispo'", "actor.policy_loss.loss_mode=cispo", NONE
    if u.objective == "reinforce":
        return NONE, "actor.policy_loss.loss_mode=gpg", NONE
    if u.ratio == "sequence":
        return (
            "importance_sampling_level='sequence'",
            "actor.policy_loss.loss_mode=gspo",
            "--actor.policy_loss_type gspo",
        )
    return "importance_sampling_level='token'", "actor.policy_loss.loss_mode=vanilla", "--actor.policy_loss_type ppo"


def _clip(u: PolicyGradientConfig) -> tuple[str, str, str]:
    low, high, dual = u.clip_low, u.clip_high, u.clip_dual
    if u.objective == "reinforce":
        return NONE, NONE, NONE
    if u.objective == "cispo":
        cap = u.cap or 0.0
        verl = f"actor.clip_ratio_high={cap - 1:g} (cap is 1 + it), actor.clip_ratio_low=1"
        return f"epsilon_high={cap:g} (default .2 scales every gradient)", verl, NONE
    verl = f"actor.clip_ratio_low={low:g} actor.clip_ratio_high={high:g}, "
    verl += f"actor.clip_ratio_c={dual:g}" if dual else "actor.clip_ratio_c: set it very high (3 is on)"
    openrlhf = f"--actor.eps_clip_low_high {low:g} {high:g}" + (f" --actor.dual_clip {dual:g}" if dual else "")
    trl = f"epsilon={low:g}, epsilon_high={high:g}" + (f", delta={dual:g} (bounds w, not |A|)" if dual else "")
    return trl, verl, openrlhf


def _aggregate(u: PolicyGradientConfig) -> tuple[str, str, str]:
    cispo = u.objective == "cispo"
    mode = "actor.loss_agg_mode="
    known = {
        "token_mean": (
            "loss_type='cispo'" if cispo else "loss_type='dapo'",
            f"{mode}token-mean",
            "--actor.loss_agg_mode token-mean",
        ),
        "seq_token_mean": (
            "loss_type='grpo'",
            f"{mode}seq-mean-token-mean",
            "--actor.loss_agg_mode seq-mean-token-mean",
        ),
        "seq_token_sum": (NONE, f"{mode}seq-mean-token-sum", NONE),
        "constant": (
            f"loss_type='dr_grpo', max_completion_length={u.max_length}",
            f"{mode}seq-mean-token-sum-norm actor.loss_scale_factor={u.max_length}",
            NONE,
        ),
    }
    return known[u.aggregate]


def _kl(u: PolicyGradientConfig) -> tuple[str, str, str]:
    if u.kl.place == "none":
        return "beta=0", "actor.use_kl_loss=False algorithm.use_kl_in_reward=False", "--algo.kl.init_coef 0"
    coef = f"{u.kl.coef:g}"
    if u.kl.place == "reward":
        return (
            f"RLOOTrainer, beta={coef}",
            f"algorithm.use_kl_in_reward=True algorithm.kl_penalty=kl algorithm.kl_ctrl.kl_coef={coef}",
            f"--algo.kl.init_coef {coef} --algo.kl.estimator k1",
        )
    trl = {
        "k2": NONE,
        "k3": f"beta={coef}, use_bias_correction_kl=False",
        "k3w": f"beta={coef}, use_bias_correction_kl=True",
    }
    verl = f"actor.use_kl_loss=True actor.kl_loss_coef={coef} actor.kl_loss_type="
    openrlhf = f"--algo.kl.use_loss --algo.kl.init_coef {coef} --algo.kl.estimator "
    return (
        trl[u.kl.kind],
        {"k2": verl + "k2", "k3": verl + "low_var_kl", "k3w": NONE}[u.kl.kind],
        {"k2": openrlhf + "k2", "k3": openrlhf + "k3", "k3w": NONE}[u.kl.kind],
    )


def _filter(u: PolicyGradientConfig) -> tuple[str, str, str]:
    f = u.filter
    if f.kind == "none":
        return "(no filter)", "algorithm.filter_groups.enable=False", "(off)"
    openrlhf = "--algo.dynamic_filtering_enable --algo.dynamic_filtering_range "
    if f.kind == "band":
        return NONE, NONE, f"{openrlhf}{f.low:g} {f.high:g} (on the reward)"
    verl = "algorithm.filter_groups.enable=True algorithm.filter_groups.metric=acc"
    return NONE, verl, f"{openrlhf}0 1 (on the reward)"


def _overlong(u: PolicyGradientConfig) -> tuple[str, str, str]:
    o = u.overlong
    if o.kind == "none":
        return "mask_truncated_completions=False", "(off)", "(off)"
    if o.kind == "mask":
        return "mask_truncated_completions=True", NONE, NONE
    return (
        "get_soft_overlong_punishment as a reward function",
        f"DAPO reward manager, overlong_buffer_cfg.len={o.buffer}",
        f"--reward.overlong_buffer_len {o.buffer}",
    )


def _mismatch(u: PolicyGradientConfig) -> tuple[str, str, str]:
    m = u.mismatch
    if m.kind == "off":
        return (
            "vllm_importance_sampling_correction=False",
            "algorithm.rollout_correction.rollout_is=null",
            "--algo.advantage.is_correction_level off",
        )
    level, action = m.kind.split("_")
    if level == "seq" and m.agg == "mean":
        return NONE, NONE, NONE
    word = "token" if level == "token" else "sequence"
    trl = f"vllm_importance_sampling_mode='{word}_{'truncate' if action == 'trunc' else 'mask'}', "
    trl += f"vllm_importance_sampling_clip_max={m.high:g} (vLLM only)"
    band, bounds = f"{m.high:g}", f"clip --algo.advantage.is_correction_threshold {m.high:g}"
    if action == "mask":
        band, bounds = f"{m.low:g}_{m.high:g}", f"mask --algo.advantage.is_correction_threshold {m.low:g} {m.high:g}"
        trl = trl.replace(" (vLLM", f", vllm_importance_sampling_clip_min={m.low:g} (vLLM")
    where = "algorithm.rollout_correction."
    verl = f"{where}rollout_is={word} {where}rollout_is_threshold={band}"
    openrlhf = f"--algo.advantage.is_correction_level token --algo.advantage.is_correction_mode {bounds}"
    return trl, verl, openrlhf if level == "token" else NONE
