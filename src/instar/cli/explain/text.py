"""The objective of a recipe that samples answers: reward, advantage, loss and its options in TRL, verl and OpenRLHF."""

from __future__ import annotations

from instar.cli.explain import generated
from instar.cli.explain.curriculum import curriculum
from instar.cli.explain.equivalents import equivalents
from instar.cli.explain.gate import gate
from instar.cli.explain.layout import section, table
from instar.components.reward.config import VerifyConfig
from instar.components.rollout.config import SampleConfig
from instar.components.update.config import PolicyGradientConfig
from instar.pipelines import fit
from instar.pipelines.fit.text import chosen
from instar.pipelines.recipe import Recipe
from instar.pipelines.schedule import outlook

LIBRARIES = ("TRL 1.16", "verl 0.9", "OpenRLHF 0.11")
BASELINES = {
    "none": "r_i",
    "batch": "r_i - mean(batch)",
    "group": "r_i - mean(group)",
    "loo": "n/(n-1) (r_i - mean(group)), the mean of the others",
    "critic": "GAE: d_t = r_t + gamma V_t+1 - V_t, A_t = sum_l (gamma lam)^l d_t+l",
}
AGGREGATES = {
    "token_mean": "L = sum_i sum_t l_it / (number of tokens of the optimiser step)",
    "seq_token_mean": "L = 1/B sum_i 1/T_i sum_t l_it",
    "seq_token_sum": "L = 1/B sum_i sum_t l_it",
    "constant": "L = 1/(B {max_length}) sum_i sum_t l_it",
}
KL_TERMS = {
    "k1": "k1 = log pi - log ref, detached",
    "k2": "k2 = (log pi - log ref)^2 / 2, gradient of KL(pi||ref)",
    "k3": "k3 = ref/pi - 1 - log(ref/pi), ref/pi up to e^10, gradient of KL(ref||pi)",
    "k3w": "k3 w = w (ref/pi - 1 - log(ref/pi)), w and ref/pi up to e^10, gradient of KL(pi||ref)",
}


def lines(recipe: Recipe, u: PolicyGradientConfig) -> list[str]:
    """Return the sections, ending in the table of equivalents."""
    return [
        *section("reward", [*reward(recipe), *kl_in_reward(u), *overlong(u)]),
        *generated.lines(recipe),
        *section("advantage", [advantage(u)]),
        *section("filter", [group_filter(u)]),
        *section("loss", [ratio(u), token_loss(u), *entropy(u), *mismatch(u), *kl_in_loss(u)]),
        *section("aggregation", [AGGREGATES[u.aggregate].format(max_length=u.max_length)]),
        *section("optimiser", [optimiser(u), *filter(None, [outlook(recipe)])]),
        *section("curriculum", curriculum(recipe.curriculum, "prompt")),
        *section("loop", loop(recipe)),
        *section("device", device(recipe)),
        *section("gate", gate(recipe)),
        "equivalents (a dash means that the library has none)",
        *table(LIBRARIES, [*equivalents(recipe, u), *generated.rows(recipe)]),
    ]


def reward(recipe: Recipe) -> list[str]:
    """State the reward of one rollout; nothing where no verifier gives it."""
    if not isinstance(recipe.reward, VerifyConfig):
        return []
    shaped = recipe.reward.format_reward
    extra = f" + {shaped:g} (an answer was found and it is wrong)" if shaped else ""
    return [f"r_i = correct_i{extra}; a failed verdict is no number and its rollout is left out"]


def kl_in_reward(u: PolicyGradientConfig) -> list[str]:
    """State the KL term of the reward, if there is one."""
    return [f"r_i is lowered by {u.kl.coef:g} {KL_TERMS[u.kl.kind]}"] if u.kl.place == "reward" else []


def overlong(u: PolicyGradientConfig) -> list[str]:
    """State what happens to answers that reach the length limit."""
    o = u.overlong
    if o.kind == "soft":
        limit, start = o.max_length, o.max_length - o.buffer
        return [f"r_i += 0 up to {start} tokens, ({start} - T_i)/{o.buffer} up to {limit}, -1 above"]
    return ["truncated answers are left out of the loss and of its denominator"] if o.kind == "mask" else []


def advantage(u: PolicyGradientConfig) -> str:
    """State A."""
    base = BASELINES[u.baseline]
    scales = {
        "none": f"A_i = {base}",
        "group_std": f"A_i = ({base}) / (std(group) + {u.eps:g})",
        "batch_std": f"A_i = ({base}) / (std(batch) + {u.eps:g})",
        "whiten": f"A = ({base}), centred and divided by (std over the batch's tokens + {u.eps:g})",
    }
    tail = f", gamma {u.gamma:g}, lam {u.lam:g}" if u.baseline == "critic" else "; 0 in groups of equal rewards"
    return scales[u.scale] + (tail if u.baseline in ("critic", "group", "loo") else "")


def group_filter(u: PolicyGradientConfig) -> str:
    """State which groups are trained on."""
    f = u.filter
    kinds = {
        "none": "all groups are trained on",
        "zero_variance": "groups whose answers are all right or all wrong are dropped",
        "band": f"only groups with {f.low:g} < mean(correct) < {f.high:g} are trained on",
    }
    keep = f"; of those, the first {f.keep_prompts}" if f.keep_prompts else ""
    return f"{kinds[f.kind]}{keep}; groups with fewer than {u.min_group} valid scores are dropped and counted"


def ratio(u: PolicyGradientConfig) -> str:
    """State w."""
    if u.objective == "reinforce":
        return "no ratio: one optimiser step per batch"
    if u.ratio == "sequence":
        return "w_i = exp(mean_t(log pi - log old)), one ratio for the sequence, gradient through each token's log pi"
    return "w_it = pi(o_it) / old(o_it) up to e^10, old = the policy before this update, scored by the trainer"


def token_loss(u: PolicyGradientConfig) -> str:
    """State l."""
    if u.objective == "reinforce":
        return "l_it = -A log pi(o_it)"
    once = "; w is 1 in the only step of a batch, so no bound on it is reached" if u.epochs * u.minibatches == 1 else ""
    if u.objective == "cispo":
        return f"l_it = -sg[min(w, {u.cap:g})] A log pi(o_it){once}"
    text = f"l_it = -min(w A, clip(w, 1 - {u.clip_low:g}, 1 + {u.clip_high:g}) A)"
    return text + (f"; for A < 0 at most {u.clip_dual:g} |A|" if u.clip_dual is not None else "") + once


def entropy(u: PolicyGradientConfig) -> list[str]:
    """State the entropy bonus, if there is one."""
    return [f"l_it -= {u.entropy_coef:g} entropy_it"] if u.entropy_coef else []


def mismatch(u: PolicyGradientConfig) -> list[str]:
    """State the correction of sampler against trainer; the measurement is always on."""
    m, twice = u.mismatch, 2 if u.dtype == "bfloat16" else 1  # as `instar.components.update.mismatch.limits`
    limits = f"error when mean |log rho| > {twice * m.alarm_mean:g} or over {twice * m.alarm_gap:g}"
    limits += f" in > {m.alarm_share:.0%} of tokens"
    if m.kind == "off":
        return [f"rho = old/sampler is measured, not corrected; {limits}"]
    level, action = m.kind.split("_")
    what = "rho_it" if level == "token" else "product of rho" if m.agg == "sum" else "geometric mean of rho"
    rule = f"min({what}, {m.high:g})" if action == "trunc" else f"{what} inside [{m.low:g}, {m.high:g}], 0 outside"
    return [f"l_it *= {rule}, rho = old/sampler; {limits}"]


def kl_in_loss(u: PolicyGradientConfig) -> list[str]:
    """State the KL term of the loss."""
    if u.kl.place == "loss":
        return [f"l_it += {u.kl.coef:g} {KL_TERMS[u.kl.kind]}"]
    return ["no KL term"] if u.kl.place == "none" else []


def optimiser(u: PolicyGradientConfig) -> str:
    """State the optimiser steps of one update."""
    steps = u.epochs * u.minibatches
    end = f", {u.schedule} to 0 at {u.total_steps}" if u.schedule != "constant" else ""
    warm = f", {u.warmup_steps} warm-up steps" if u.warmup_steps else ""
    lora = ""
    if u.lora:
        lora = f"; LoRA r {u.lora.r}, alpha {u.lora.alpha:g} on {', '.join(u.lora.targets) or 'all linear layers below the head'}"
    return (
        f"AdamW lr {u.lr:g}{warm}{end}, betas {u.betas[0]:g}/{u.betas[1]:g}, weight decay {u.weight_decay:g}, "
        f"gradient norm <= {u.max_grad_norm:g}; {steps} step(s) per batch ({u.epochs} epoch(s) x {u.minibatches} "
        f"minibatch(es)), arithmetic {u.dtype}{lora}"
    )


def loop(recipe: Recipe) -> list[str]:
    """State loop shape and batch sizes."""
    c, r, total = recipe.curriculum, recipe.rollout, recipe.iterations * recipe.inner_steps
    drawn = f" ({c.slots} drawn)" if c.slots != c.prompts else ""
    sampled = f"{c.prompts} prompts{drawn} x {c.group_size} rollouts = {c.prompts * c.group_size} rollouts"
    limits = ""
    if isinstance(r, SampleConfig):
        limits = f" of at most {r.max_new_tokens} tokens at temperature {r.temperature:g}"
    return [
        f"{recipe.iterations} iterations x {recipe.inner_steps} inner steps = {total} updates, clock '{recipe.clock}'; "
        "evaluation and gate after each iteration",
        f"per update {sampled}{limits}",
    ]


def device(recipe: Recipe) -> list[str]:
    """State what a plan for a GPU chose; nothing where none was named."""
    if not recipe.device:
        return []
    made = fit.account(recipe, fit.of_name(recipe.device))
    peaks = " and ".join(f"{peak / 2**30:.0f} GiB while {phase}" for phase, peak in made.peaks.items())
    options = f"`instar plan {recipe.name} --scale {recipe.scale} --device {recipe.device}`"
    return [f"planned for {recipe.device}: {'; '.join(chosen(made))}", f"predicted {peaks}; every part: {options}"]
