"""The cost model against numbers worked out by hand, and the laws it must keep."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import config as configs
from instar.components.evaluate.config import AnswerConfig
from instar.errors import ConfigError
from instar.pipelines import cost
from instar.pipelines.cost import Constants, plan
from instar.pipelines.cost.case import text_pieces
from instar.pipelines.cost.run import fan_out, longest, pull_seconds, segment
from instar.pipelines.cost.sizes import answers
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.pipelines.trace import trace

IDEAL = Constants(base_bytes=2, policy_bytes=2, master_bytes=0, moment_bytes=0, hashes_pulled=0, hashes_pushed=0)
"""bfloat16 policies alone move, and nothing is hashed."""
GB = 1e9


def recipe(**changes: Any) -> Recipe:
    return dataclasses.replace(build("sec", "paper"), **changes)


ROUNDS = recipe(clock="rounds", inner_steps=1)


@pytest.mark.parametrize(
    ("tasks", "cold", "warm", "trainers", "copies", "fixed_s", "work_min", "half_hour", "two_hours"),
    [
        pytest.param(7, 2, 0, 1, None, 956, 302, 35, 12, id="A: weights through the launcher, cold engines"),
        pytest.param(7, 0, 2, 1, 4, 351, 111, 16, 5, id="B: digests, parallel reads, warm caches"),
        pytest.param(6, 0, 1, 1, 3, 246, 78, 12, 3, id="C: B, evaluation beside the loop"),
        pytest.param(6, 0, 0, 1, 3, 164, 52, 8, 2, id="D: C, the engine stays up"),
        pytest.param(5, 0, 1, 1, 2, 223, 71, 11, 3, id="E: fused"),
    ],
)
def test_five_designs(
    tasks: int,
    cold: int,
    warm: int,
    trainers: int,
    copies: int | None,
    fixed_s: int,
    work_min: int,
    half_hour: int,
    two_hours: int,
) -> None:
    """An 8B policy in bfloat16 (16 GB). A's four copies go through one stream of 0.3 GB/s."""
    c = IDEAL
    copied = 4 * 16 / 0.3 if copies is None else copies * 16 / c.node_gb_s
    fixed = c.driver_s + tasks * (c.driver_s + c.executor_s)
    fixed += cold * c.engine_cold_s + warm * c.engine_warm_s + trainers * c.trainer_s + copied
    assert fixed == pytest.approx(fixed_s, abs=0.5)
    assert fixed * 0.95 / 0.05 / 60 == pytest.approx(work_min, abs=1)
    assert [100 * fixed / (fixed + w) for w in (1800, 7200)] == pytest.approx([half_hour, two_hours], abs=0.5)


def test_plan_of_rounds_is_design_b_and_two_reads_more() -> None:
    """Our reward and update also fetch a policy that they may not need: 8 s each."""
    found = plan(ROUNDS, gpus=1, model_size_b=8, work_s=7200, constants=IDEAL).segments["iterate"]
    assert found.chain == ("open", "curriculum", "rollout", "reward", "update", "evaluate", "advance")
    assert (found.fixed["pods"], found.fixed["engine"], found.fixed["trainer"]) == (110, 164, 45)
    assert found.fixed_s == pytest.approx(351 + 2 * 8, abs=0.2)
    assert found.work_s == pytest.approx(7200)


def test_plan_of_fused_is_design_e_with_our_evaluation() -> None:
    """One task fewer (-15), an engine (+82) and a read (+8) for the evaluation, a read of the reference (+8)."""
    found = plan(recipe(), gpus=1, model_size_b=8, work_s=7200, constants=IDEAL).segments["iterate"]
    assert found.chain == ("open", "fused", "evaluate", "advance")
    assert found.fixed_s == pytest.approx(223 - 15 + 82 + 8 + 8, abs=0.2)


@pytest.mark.parametrize(
    ("gpus", "pulled_gb", "seconds", "delta_gb", "rollout_mb", "pods"),
    [
        (1, 16, (8, 8, 8), 3, 16, (4, 3)),
        (8, 16, (8, 8, 8), 3, 127, (4, 3)),
        (64, 128, (32, 13, 8), 26, 1018, (25, 10)),
        (512, 1024, (256, 102, 26), 205, 8141, (193, 66)),
    ],
)
def test_bytes_of_1_to_512_gpus(
    gpus: int, pulled_gb: int, seconds: tuple[int, ...], delta_gb: int, rollout_mb: int, pods: tuple[int, int]
) -> None:
    """Ten minutes of rollouts; every node reads 16 GB; a delta is a fifth of that."""
    made = plan(recipe(), gpus=gpus, model_size_b=8, work_s=1, constants=IDEAL)
    c, nodes = made.case.constants, made.case.machines
    whole = nodes * 16 * GB
    assert whole / GB == pulled_gb
    found = [pull_seconds(c, 16 * GB, whole, store) for store in (4, 10, 40)]
    assert found == pytest.approx(seconds, abs=0.5)
    assert 0.2 * whole / GB == pytest.approx(delta_gb, abs=0.5)
    assert gpus * 600 * c.rollout_tokens_per_s * c.rollout_bytes / 1e6 == pytest.approx(rollout_mb, rel=0.01)
    assert (1 + 3 * nodes, 2 + nodes) == pods


def test_fan_out_becomes_a_gang_above_16_shards() -> None:
    assert [fan_out(n) for n in (1, 8, 16, 17, 64)] == [4, 25, 49, 19, 66]


def test_bytes_of_an_iteration_by_class() -> None:
    """1B parameters, rounds, one step: 2 GB policy and 12 GB trainer state out; curriculum and reward read no trainer."""
    made = plan(ROUNDS, gpus=1, model_size_b=1, work_s=100)
    assert (made.stored["Policy"], made.stored["TrainerState"]) == (2 * GB, 12 * GB)
    # the policy by rollout, reward, update and evaluate; the bfloat16 reference by update
    assert (made.pulled["Policy"], made.pulled["TrainerState"]) == (4 * 2 * GB + 2 * GB, 12 * GB)
    # 256 prompts x 8 answers x 4096 tokens x 0.5 at 5.3 bytes, read by reward and update
    assert made.stored["Rollouts"] == pytest.approx(22.2e6, rel=0.01)
    # rollout, reward and update are also handed the logged trajectories, of which there are none
    assert made.pulled["Rollouts"] == 2 * made.stored["Rollouts"] + 3 * 5300
    assert made.stored["Scores"] == 2048 * 9
    assert made.stored["ledger"] == 14_000 * 7


def test_a_gang_reads_weights_once_per_node() -> None:
    one = plan(recipe(), gpus=8, model_size_b=1, work_s=100)
    four = plan(recipe(), gpus=32, model_size_b=1, work_s=100)
    # fused: policy and reference, 2 GB each, per node; evaluate: 2 GB
    assert (one.pulled["Policy"], four.pulled["Policy"]) == (6 * GB, 4 * 4 * GB + 2 * GB)
    assert four.segments["iterate"].pods == one.segments["iterate"].pods + 4


@pytest.mark.parametrize("processes", [1, 2])
def test_an_inner_step_of_a_fused_segment_hashes_nothing_and_starts_no_process(processes: int) -> None:
    update = dataclasses.replace(build("sec", "paper").update, processes=processes)
    made = [plan(recipe(inner_steps=s, update=update), gpus=2, model_size_b=1, work_s=9) for s in (10, 11)]
    ten, eleven = (p.segments["iterate"].fixed for p in made)
    assert {cause: eleven[cause] - ten[cause] for cause in ten} == pytest.approx(
        dict.fromkeys(("pods", "engine", "trainer", "bytes", "hashes"), 0), abs=1e-9
    )


def test_the_published_settings_fit_the_limit_with_fewer_and_longer_segments() -> None:
    """240 steps on 8 GPUs: 10 steps of 76 s each cannot carry 399 s around them, 120 can."""
    made = [plan(recipe(inner_steps=s), gpus=8, model_size_b=3) for s in (10, 120)]
    assert [round(p.overhead, 3) for p in made] == [0.338, 0.042]
    assert made[0].steps_needed == 100


def test_shards_store_their_rollouts_and_gather_stores_them_again() -> None:
    one, eight = (plan(ROUNDS, gpus=gpus, model_size_b=1) for gpus in (8, 64))
    assert eight.stored["Rollouts"] == pytest.approx(2 * one.stored["Rollouts"])
    # gather besides reward and update; an empty table of logged trajectories for each of 8 shards instead of one
    assert eight.pulled["Rollouts"] - 10 * 5300 == pytest.approx(1.5 * (one.pulled["Rollouts"] - 3 * 5300))


@pytest.mark.parametrize(("clock", "trainer"), [("fused", 0), ("rounds", 8)])
def test_cpu_pods_import_once_per_task(clock: Any, trainer: float) -> None:
    """A sampling task and the evaluation import torch; under `fused` sampling and training share a process."""
    found = plan(recipe(clock=clock, inner_steps=1), gpus=0, model_size_b=0.001, work_s=60).segments["iterate"]
    assert (found.fixed["engine"], found.fixed["trainer"]) == (16, trainer)


def test_throughput_model_by_hand() -> None:
    """8B on 8 GPUs: 2048 answers of 2048 tokens at 5000 tokens/s/GPU; 8 FLOP per parameter and token at 35 % of 989 T.

    The plan for an H100 computes activations again: a second forward pass."""
    found = plan(ROUNDS, gpus=8, model_size_b=8).segments["iterate"]
    tokens = 2048 * 2048
    evaluated = 3 * 50 * 8 * 2048  # val: 3 arms of 50 tasks, 8 answers each
    by_hand = tokens / 40_000 + 8 * 8e9 * tokens / (0.35 * 989e12 * 8) + max(evaluated / 40_000, 40.96)
    assert found.work_s == pytest.approx(by_hand)


def _drawing(prompts: int) -> Recipe:
    """Return the recipe with so few prompts, in one minibatch."""
    return configs.merge(ROUNDS, {"curriculum": {"prompts": prompts}, "update": {"minibatches": 1}})


def test_longest_answer_bounds_a_rollout_from_below() -> None:
    found = plan(_drawing(1), gpus=8, model_size_b=8).segments["iterate"]
    assert found.work_s > 2 * 4096 / 100


def test_answers_of_an_evaluation() -> None:
    sec, test = text_pieces(build("sec", "paper")), build("sec", "paper").test
    arms = sec.dataset_prep.pools.arms
    assert isinstance(test, AnswerConfig)
    assert answers(sec.evaluate, arms) == 3 * 50 * 8
    assert answers(test, arms) == (3 * 200 + 200) * 8
    everything = dataclasses.replace(test, tasks_per_arm=0, greedy=True)
    assert answers(everything, arms) == (3 * 200 + 200) * 9


def test_tasks_of_unrolled_iterations() -> None:
    """A gate stands between two iterations; the last one is decided by `advance`."""
    found = [segment(plan(recipe(), gpus=1, model_size_b=1, unroll=k).case, "iterate", k) for k in (1, 3)]
    assert [s.chain.count("gate") for s in found] == [0, 2]
    assert [s.tasks for s in found] == [4, 2 + 3 * 2 + 2]
    assert [s.pods for s in found] == [1 + 2 * 4, 1 + 2 * 10]


def test_evaluations_of_begin_run_side_by_side() -> None:
    begin = plan(recipe(), gpus=1, model_size_b=1).segments["begin"]
    assert begin.tasks == 5 and begin.chain == ("open", "dataset_prep", "evaluate", "advance")
    assert begin.fixed["engine"] == Constants().engine_cold_s


def test_shards_run_side_by_side() -> None:
    made = plan(ROUNDS, gpus=64, model_size_b=8, constants=IDEAL)
    found = made.segments["iterate"]
    assert made.case.recipe.rollout.shards == 8
    assert found.chain == ("open", "curriculum", "rollout", "gather", "reward", "update", "evaluate", "advance")
    # 1 root, 7 plain tasks of 2, ParallelFor of 8 items, and the update's gang of 8
    assert found.pods == 1 + 7 * 2 + 25 + 8
    # 5 root, 8 in series, two more drivers of the ParallelFor, the members of the gang
    assert found.fixed["pods"] == 5 + 8 * 15 + 10 + 10
    # 16 GB to 8 shards, 32 GB to 8 trainers, both from a store of 10 GB/s; reward, evaluation and the new policy alone
    assert found.fixed["bytes"] == pytest.approx(12.8 + 25.6 + 3 * 8, abs=0.5)


def test_more_shards_than_prompts_are_not_planned() -> None:
    assert plan(_drawing(3), gpus=64, model_size_b=8).case.recipe.rollout.shards == 3


def test_longest_chain_is_by_seconds_not_by_tasks() -> None:
    graph = trace(ROUNDS, "begin")
    slow = longest(graph, lambda task: 100.0 if task.name == "evaluate-2" else 1.0)
    assert [task.name for task in slow] == ["open", "dataset-prep", "evaluate-2", "advance"]


def test_too_much_overhead_is_refused_with_the_k_or_s_that_would_do() -> None:
    made = plan(recipe(), gpus=1, model_size_b=0.5, work_s=3600)
    assert made.overhead > cost.LIMIT and made.steps_needed is not None
    with pytest.raises(ConfigError, match=rf"inner_steps={made.steps_needed}\b"):
        cost.check(made)
    cost.check(made, allow=True)
    enough = recipe(inner_steps=made.steps_needed)
    per_step = made.step_work_s * (made.steps_needed - 10)
    cost.check(plan(enough, gpus=1, model_size_b=0.5, work_s=3600 + per_step))


def test_unrolling_is_proposed_where_it_is_enough() -> None:
    """Of 351 + 16 s, open, advance and the root driver (35 s) and, of a second iteration, a gate in their place."""
    made = plan(ROUNDS, gpus=1, model_size_b=8, work_s=6800, constants=IDEAL)
    assert made.overhead > cost.LIMIT
    k = made.unroll_needed
    assert k is not None and k > 1
    shares = [plan(ROUNDS, gpus=1, model_size_b=8, work_s=6800, unroll=u, constants=IDEAL).overhead for u in (k - 1, k)]
    assert shares[0] > cost.LIMIT >= shares[1]
    assert f"--unroll {k}" in cost.remedy(made)


def test_more_than_eight_iterations_are_not_proposed() -> None:
    """306 s for one fused iteration and 286 s for each more: with 288 s allowed per iteration, ten would be needed."""
    made = plan(recipe(), gpus=1, model_size_b=8, work_s=288 * 19, unroll=8, constants=IDEAL)
    assert made.overhead > cost.LIMIT and made.unroll_needed is None
    ten = [segment(made.case, "iterate", k) for k in (1, 2)]
    assert ten[0].fixed_s == pytest.approx(306, abs=0.2) and ten[1].fixed_s == pytest.approx(306 + 286, abs=0.4)


def test_graphs_that_are_too_large_are_not_proposed() -> None:
    """Ten inner steps of rounds are 43 tasks; two iterations would be within the limit, and are 85 tasks."""
    long = recipe(clock="rounds", inner_steps=10)
    fixed_s = segment(plan(long, gpus=1, model_size_b=8, work_s=1, constants=IDEAL).case, "iterate").fixed_s
    work_s = 19 * (fixed_s - 9)  # open, advance and the root driver are paid once, a gate is added: 20 s less for two
    made = plan(long, gpus=1, model_size_b=8, work_s=work_s, constants=IDEAL)
    two = segment(made.case, "iterate", 2)
    assert made.segments["iterate"].overhead > cost.LIMIT > two.overhead
    assert two.tasks == 85 and made.unroll_needed is None


def test_little_overhead_needs_nothing() -> None:
    made = plan(recipe(), gpus=1, model_size_b=1, work_s=1e7)
    assert (made.unroll_needed, made.steps_needed) == (1, 1)
    cost.check(made)


@settings(max_examples=12, deadline=None)
@given(
    gpus=st.integers(0, 600),
    size=st.floats(0.01, 500),
    work=st.floats(1, 1e6),
    clock=st.sampled_from(["rounds", "fused"]),
    steps=st.integers(1, 4),
)
def test_laws(gpus: int, size: float, work: float, clock: Any, steps: int) -> None:
    """Shares lie in (0, 1), longer work lowers them, larger models raise them, and a proposed S is the smallest one."""
    shape = recipe(clock=clock, inner_steps=steps)
    made = plan(shape, gpus=gpus, model_size_b=size, work_s=work)
    assert 0 < made.overhead < 1
    assert made.segments["iterate"].work_s == pytest.approx(work)
    assert plan(shape, gpus=gpus, model_size_b=size, work_s=2 * work).overhead < made.overhead
    assert plan(shape, gpus=gpus, model_size_b=2 * size, work_s=work).overhead > made.overhead - 1e-12
    s = made.steps_needed
    if s is not None:
        case = dataclasses.replace(
            made.case, recipe=dataclasses.replace(made.case.recipe, clock="fused", inner_steps=s)
        )
        assert segment(case, "iterate").overhead <= cost.LIMIT + 1e-9
        if s > 1:
            shorter = dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, inner_steps=s - 1))
            assert segment(shorter, "iterate").overhead > cost.LIMIT - 1e-9


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gpus": -1, "model_size_b": 1}, "--gpus"),
        ({"gpus": 1, "model_size_b": 0}, "--model-size"),
        ({"gpus": 1, "model_size_b": float("nan")}, "--model-size"),
        ({"gpus": 0, "model_size_b": 1}, "--work-s"),
        ({"gpus": 1, "model_size_b": 1, "work_s": 0}, "--work-s"),
        ({"gpus": 1, "model_size_b": 1, "unroll": 9}, "1 to 8 iterations"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan(recipe(), **options)


def test_main_prints_the_plan_before_it_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.main(build("sec", "tiny"), 0, 0.0001, 50.0, 1, allow=True) == 0
    text = capsys.readouterr().out
    assert "CPU pods" in text and "predicted overhead" in text and "would keep the limit" in text
    lines = [line for line in text.splitlines() if line.startswith(("segment", "begin", "iterate ", "finish"))]
    assert len({len(line) for line in lines}) == 1, "the columns line up"
    with pytest.raises(ConfigError):
        cost.main(build("sec", "tiny"), 0, 0.0001, 50.0, 1, allow=False)
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("scale", ["tiny", "single", "paper"])
def test_a_recipe_without_text_is_refused_by_name(scale: str) -> None:
    """The model counts tokens of a language model; a continuous-control policy has none, and no number would be
    right."""
    with pytest.raises(ConfigError) as caught:
        plan(build("decision_mamba", scale), gpus=1, model_size_b=0.001, work_s=60)
    assert caught.value.where == "instar plan"
    assert caught.value.found == "decision_mamba with offline, propose, sequence, simulate"


@pytest.mark.parametrize(("number", "shown"), [(0, "0 B"), (999, "999 B"), (16e9, "16 GB"), (1.024e12, "1.02 TB")])
def test_bytes_for_people(number: float, shown: str) -> None:
    from instar.pipelines.cost.text import human

    assert human(number) == shown
