"""The objective of a recipe that learns a continuous-continuous-control policy from logged trajectories (Decision Mamba,
its baselines, its swaps)."""

from __future__ import annotations

from instar.cli.explain.curriculum import curriculum
from instar.cli.explain.gate import gate
from instar.cli.explain.layout import section, table
from instar.cli.explain.released import released
from instar.components.continuous.config import Arch, BcArch, DecisionMambaArch, DecisionTransformerArch
from instar.components.dataset_prep.offline.config import (
    D4rlSource,
    EpisodesSource,
    MinariSource,
    OfflineConfig,
    PendulumSource,
    Source,
)
from instar.components.evaluate.config import SimulateConfig
from instar.components.reward.config import RefineConfig
from instar.components.update.sequence.config import SequenceConfig
from instar.pipelines.recipe import Recipe
from instar.pipelines.schedule import outlook

SHOWN = 6
"""Values of a schedule that are written out."""


def lines(recipe: Recipe, u: SequenceConfig) -> list[str]:
    """Return the sections, ending in the released code's options."""
    return [
        *section("data", data(recipe)),
        *section("policy", policy(recipe)),
        *section("return", returns(recipe)),
        *section("target", target(recipe)),
        *section("loss", loss(recipe, u)),
        *section("optimiser", [optimiser(u), *filter(None, [outlook(recipe)])]),
        *section("curriculum", curriculum(recipe.curriculum, "slice")),
        *section("loop", loop(recipe, u)),
        *section("evaluation", evaluation(recipe)),
        *section("gate", gate(recipe)),
        "options of the released code (a dash means that it has none)",
        *table([""], released(recipe, u)),
    ]


def data(recipe: Recipe) -> list[str]:
    """State where trajectories come from and what an arm is."""
    prep = recipe.dataset_prep
    if not isinstance(prep, OfflineConfig):
        return []
    arm = f"{prep.buckets} quantiles of the return" if prep.buckets else "the tiers of the data"
    noise = prep.noise
    wrong = [f"Gaussian noise of {noise.std:g} on the actions of {noise.share:.0%} of all steps"] if noise.share else []
    return [
        source(prep.source),
        *wrong,
        f"a task is a slice of one episode: about {prep.arch.window} consecutive starts of windows of K = {prep.arch.window} "
        f"steps; an arm is one of {arm}; states are standardised, actions scaled to [-1, 1]",
    ]


def source(s: Source) -> str:
    """Name a source of trajectories."""
    match s:
        case PendulumSource():
            rates = ", ".join(f"{rate:g}" for rate in s.rates)
            return f"Pendulum-v1, a scripted swing-up with random actions at rate {rates}: {s.episodes} episodes each"
        case EpisodesSource():
            return f"episodes in {s.path}" + (f", tiers {', '.join(s.tiers)}" if s.tiers else "")
        case MinariSource():
            return f"Minari data set in {s.path}"
        case D4rlSource():
            return f"D4RL data set {s.task} in {s.path}"


def policy(recipe: Recipe) -> list[str]:
    """State what a_hat depends on."""
    if not isinstance(recipe.dataset_prep, OfflineConfig):
        return []
    arch = recipe.dataset_prep.arch
    if isinstance(arch, BcArch):
        return [f"a_hat_t = tanh f(s_t), multi-layer perceptron of {arch.layers} x {arch.width}: no return, no history"]
    leaks = isinstance(arch, DecisionMambaArch) and arch.grouping == "released"
    never = ", and of a_t: the target leaks" if leaks else " and never of a_t"
    read = f"a_hat_t = tanh head(s_t), a function of R_1, s_1, a_1, ..., R_t, s_t{never}"
    heads = "; s_hat_t+1 and R_hat_t+1 from the token of a_t" if arch.auxiliary else ""
    return [f"{arch.strategy}: {layers(arch)}", f"{read}{heads}; encoder {arch.encoder}, head {arch.head}"]


def layers(arch: Arch) -> str:
    """Describe the layers of a sequence model."""
    if isinstance(arch, DecisionTransformerArch):
        return f"{arch.layers} layers of width {arch.width}, causal attention with {arch.heads} head(s) over 3K tokens"
    assert isinstance(arch, DecisionMambaArch)
    text = f"{arch.layers} layers of width {arch.width}, selective scan with state {arch.state_size} over 3K tokens"
    if not arch.fine:
        return f"{text}, no fine scan"
    group = "(a_t-1, R_t, s_t)" if arch.grouping == "shifted" else "(R_t, s_t, a_t), which shows the model its target"
    return f"{text} and over K groups {group}; fusion {arch.fusion}"


def returns(recipe: Recipe) -> list[str]:
    """State the label of a window: what the policy is told that it will get."""
    r, prep = recipe.reward, recipe.dataset_prep
    if not isinstance(r, RefineConfig) or not isinstance(prep, OfflineConfig):
        return []
    scale = f"{prep.return_scale:g}" if prep.return_scale else "the task's scale"
    rule = "the return of the whole episode at every step" if r.delayed else "r_t + r_t+1 + ..., undiscounted"
    return [f"R_t = ({rule}) / {scale}"]


def target(recipe: Recipe) -> list[str]:
    """State the action target of PSER and its schedule."""
    r = recipe.reward
    if not isinstance(r, RefineConfig):
        return []
    if r.schedule == "none":
        return ["a~_t = a_t, the logged action"]
    unit = "iteration" if recipe.inner_steps == 1 else "inner step"
    grown = f"min({r.beta_cap:g}, {r.beta_end:g} k/{r.stages})" if r.schedule == "progressive" else f"{r.beta_cap:g}"
    return [
        f"a~_t = (1 - beta_k) a_t + beta_k a^past_t, a^past of the policy that {unit} k starts from: frozen, same window",
        f"beta_1 = 0, beta_k = {grown}: {_schedule(r, recipe.iterations * recipe.inner_steps)}",
    ]


def _schedule(r: RefineConfig, stages: int) -> str:
    shown = [f"{r.beta(k):.3g}" for k in range(1, stages + 1)]
    return ", ".join(shown if stages <= SHOWN + 1 else [*shown[:SHOWN], "...", shown[-1]])


def loss(recipe: Recipe, u: SequenceConfig) -> list[str]:
    """State L."""
    prep = recipe.dataset_prep
    auxiliary = isinstance(prep, OfflineConfig) and not isinstance(prep.arch, BcArch) and prep.arch.auxiliary
    action = "|a_hat_t - a~_t|^2"
    if not auxiliary:
        return [f"L = mean {action}, over the steps of a window that are not padding"]
    act, state, rtg = u.weights
    return [
        f"L = {act:g} mean {action} + {state:g} mean Huber(s_hat_t+1 - s_t+1) + {rtg:g} mean Huber(R_hat_t+1 - R_t+1)",
        "means over the steps of a window that are not padding; the last step of an episode has no next one; Huber with delta 1",
    ]


def optimiser(u: SequenceConfig) -> str:
    """State one optimiser step."""
    end = f", {u.schedule} to 0 at {u.total_steps}" if u.schedule != "constant" else ""
    warm = f", {u.warmup_steps} warm-up steps over the evolution" if u.warmup_steps else ""
    decayed = "of all but biases and LayerNorm" if u.decay_ssm_params else "not of A_log, D, norms and biases"
    return (
        f"AdamW lr {u.lr:g}{warm}{end}, betas {u.betas[0]:g}/{u.betas[1]:g}, eps {u.adam_eps:g}, weight decay "
        f"{u.weight_decay:g} ({decayed}), gradient norm <= {u.max_grad_norm:g}; {u.batch} windows per step"
    )


def loop(recipe: Recipe, u: SequenceConfig) -> list[str]:
    """State loop shape and batch sizes."""
    drawn, total = recipe.curriculum.prompts, recipe.iterations * recipe.inner_steps
    steps = -(-drawn // u.batch)
    return [
        f"{recipe.iterations} iterations x {recipe.inner_steps} inner step(s), clock '{recipe.clock}'; evaluation and gate after "
        "each iteration; what the policy does in evaluation never enters the data",
        f"per inner step {drawn} windows, each used once: {steps} optimiser steps, {steps * total} in all",
    ]


def evaluation(recipe: Recipe) -> list[str]:
    """State how a policy is measured and which one is reported."""
    e, prep = recipe.test, recipe.dataset_prep
    if not isinstance(e, SimulateConfig) or not isinstance(prep, OfflineConfig):
        return []
    target = "the task's target return" if prep.target is None else f"a return of {prep.target:g}"
    asked = "the task's" if prep.probes is None else ", ".join(f"{p:g}" for p in prep.probes) or "none"
    context = (
        "state carried from step to step" if e.context == "carried" else "the last K steps run again at every step"
    )
    last = recipe.gate.select == "last"
    out = [
        f"episodes asked for {target}, from start states that all policies share: {prep.val_episodes} to watch, "
        f"{prep.test_episodes} other ones to report; R falls by the reward received; {context}",
        "score = (return - random) / (expert - random): 0 as a random policy, 1 as the expert",
        f"reported: {'the last policy, with the best of all iterations beside it' if last else 'the champion of the gate'}; "
        f"{e.confidence:.0%} intervals over episodes",
    ]
    if e.probes and prep.probes != ():
        out.append(
            f"probes: {prep.probe_episodes} episodes for each other return ({asked}); they show whether the policy does as it "
            "is told and enter no verdict"
        )
    return out
