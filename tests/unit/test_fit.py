"""Plans for devices against parts worked out by hand, every recipe that samples text on every device, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import config as configs
from instar.cli.explain import explain
from instar.cli.plan import Asked, main
from instar.cli.resolve import resolve
from instar.components.architecture import ARCHITECTURES, Architecture, of_model
from instar.components.evaluate.config import AnswerConfig
from instar.components.rollout import footprint
from instar.errors import ConfigError
from instar.pipelines import fit, preflight
from instar.pipelines.fit import devices, seconds
from instar.pipelines.fit.text import render
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build, method

GIB = 2**30
DEVICES = tuple(devices.DEVICES)
REFUSED = {("sec", "paper", "24g"), ("spark", "paper", "24g")}
"""3B parameters in float32 with gradients and moments are 46 GiB; a gathered piece of 7B, its gradients and moments 37 GiB."""


def account(recipe: Recipe) -> fit.Account:
    return fit.account(recipe, fit.of_name(recipe.device))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_sizes_of_the_table_give_the_published_numbers_of_parameters(name: str, parameters: int) -> None:
    assert ARCHITECTURES[name].parameters == parameters


def test_the_cache_of_512_rows_of_qwen_3b_at_5120_columns_is_90_gib() -> None:
    """512 x 5120 x 36 layers x 2 heads x 128 x keys and values x 2 bytes."""
    model = of_model("Qwen/Qwen2.5-3B-Instruct")
    assert footprint.cache_bytes(model, 512, 5120, 2) == 512 * 5120 * 36 * 2 * 128 * 2 * 2 == 90 * GIB


def test_parts_of_an_update_of_3b_parameters_by_hand() -> None:
    """Float32 weights, gradients and two moments at 4 bytes, a copy at 2; recomputed: 36 widths and one layer a token."""
    sets = ["update.micro_batch_tokens=8192", "update.gradient_checkpointing=on", "update.packing=none"]
    made, num = account(resolve("sec", "paper", None, None, sets)), 3_085_938_688
    assert made.training["trained weights"] == made.training["gradients"] == 4 * num
    assert made.training["moments"] == 8 * num and made.training["copy that computes"] == 2 * num
    by_hand = 8192 * 2 * (36 * 2048 + 12 * 2048 + 4 * 11_008)
    assert made.training["activations of 8192 tokens, checkpointed"] == by_hand
    tile, head = 2 * (2**21 // 151_936) * 151_936 * 4, 151_936 * 2048 * 4
    assert made.training["logits tile and head's gradient"] == tile + head
    assert made.training["batch and mask"] == 8192 * 16 + 2048 * 4096 * 56
    assert "reference" not in made.training and made.rollout["trained weights, resting"] == 4 * num
    assert made.rollout["policy in vLLM"] == made.rollout["published copy, resting"] == 2 * num


def test_processes_share_what_is_trained_and_gather_two_layers_with_the_ends() -> None:
    made, num, model = account(build("spark", "paper")), 7_615_616_512, ARCHITECTURES["qwen2.5-7b"]
    together = 2 * 152_064 * 3584 + 2 * model.layer_parameters
    assert made.processes == 8
    assert made.training["moments"] == 8 * num / 8 and made.training["trained weights"] == 4 * num / 8
    assert made.training["layers gathered from the others"] == together * (2 + 2 + 4)
    assert made.training["reference"] == 2 * num / 8 + 2 * together


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "scale"), [("sec", "single"), ("sec", "paper"), ("spark", "paper")])
def test_every_scale_on_a_gpu_fits_a_device_or_is_refused_with_its_parts(name: str, scale: str, device: str) -> None:
    if (name, scale, device) in REFUSED:
        with pytest.raises(ConfigError, match=rf"on {device}; found .* GiB: .*moments \d") as caught:
            build(name, scale, device=device)
        assert "update.processes" in caught.value.action and "smaller --model" in caught.value.action
        return
    recipe: Any = build(name, scale, device=device)
    made = account(recipe)
    assert recipe.device == device and made.fits
    assert max(made.peaks.values()) <= 0.95 * devices.DEVICES[device].memory
    engines = [recipe.rollout.engine, recipe.evaluate.engine, recipe.test.engine]
    assert {engine.name for engine in engines} == {"vllm"} and len(set(map(repr, engines))) == 1
    assert recipe.update.device == "cuda" and recipe.update.gradient_checkpointing in ("on", "off")
    assert recipe.update.micro_batch_tokens >= made.work.longest, "a pass holds the longest row"
    assert configs.from_dict(Recipe, configs.to_dict(recipe)) == recipe, "the choice stands in the ledger"


def test_vllm_s_share_holds_what_was_planned_for_it_and_leaves_what_rests() -> None:
    for device in ("h200", "h100-80g"):
        recipe: Any = build("sec", "paper", device=device)
        made, total = account(recipe), devices.DEVICES[device].memory
        own = footprint.vllm(made.work.model, made.work.sampling(made.choice.max_rows), 2).peak_bytes
        rest = sum(made.resting.values()) + devices.WORKSPACE
        assert own <= recipe.rollout.engine.memory_share * total <= own + 0.011 * total
        assert own + rest <= 0.95 * total
        wider = dataclasses.replace(made, choice=dataclasses.replace(made.choice, max_rows=made.choice.max_rows + 8))
        assert not wider.fits, "as many slots as fit"


def test_long_answers_no_longer_take_a_pass_each() -> None:
    """2,048 tokens a pass held one row of 600: 991 passes for the 2,048 rollouts of a step."""
    made = account(build("sec", "paper"))
    few, many = (seconds.batch_of(made.work, made.update, n).passes for n in (made.choice.micro_batch_tokens, 2048))
    assert few * 4 <= many


def test_what_is_given_stays_and_the_rest_is_planned_around_it() -> None:
    sets = ["rollout.engine.max_rows=64", "update.micro_batch_tokens=6000", "update.moments=device"]
    recipe: Any = resolve("sec", "paper", None, None, [*sets, "rollout.max_new_tokens=2048"], "h200")
    assert (recipe.rollout.engine.max_rows, recipe.update.micro_batch_tokens) == (64, 6000)
    assert recipe.update.moments == "device" and recipe.evaluate.engine.max_rows == 64
    assert recipe.rollout.max_new_tokens == 2048 and account(recipe).fits
    plain: Any = resolve("sec", "single", None, None, ["rollout.engine.name=transformers"], "24g")
    assert plain.rollout.engine.name == plain.evaluate.engine.name == "transformers"
    assert account(plain).fits and plain.rollout.engine.max_rows < 512


def test_what_is_given_and_cannot_fit_is_refused_unless_that_is_allowed() -> None:
    sets = ["update.micro_batch_tokens=200000", "update.gradient_checkpointing=off"]
    with pytest.raises(ConfigError, match="activations of 200000 tokens, all kept"):
        resolve("sec", "paper", None, None, sets)
    recipe = resolve("sec", "paper", None, None, [*sets, "update.allow_over_memory=true"])
    assert not account(recipe).fits
    rows = ["rollout.engine.max_rows=512", "rollout.engine.name=transformers"]
    with pytest.raises(
        ConfigError, match=r"while sampling on h100-80g; found .*512 rows x 5120 columns 90.0"
    ) as caught:
        resolve("sec", "paper", None, None, rows)
    assert "lower rollout.engine.max_rows" in caught.value.action


@pytest.mark.parametrize("name", ["sec", "decision_mamba"])
def test_a_device_belongs_to_scales_that_are_planned(name: str) -> None:
    with pytest.raises(ConfigError, match="no --device"):
        build(name, "tiny", device="h200")
    with pytest.raises(ConfigError, match="did you mean 'h200'"):
        build("sec", "paper", device="h2000")
    with pytest.raises(ConfigError, match="choose --device"):
        resolve("sec", "paper", None, None, ["device=h200"])


def test_a_model_is_known_by_its_name_or_by_its_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a folder with a config\.json") as caught:
        build("sec", "single", model="owner/Qwen2.5-4B")
    assert caught.value.where == "dataset_prep.initial.path" and "qwen2.5" in caught.value.action
    record = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(record))
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert of_model(str(tmp_path)).parameters == 2 * 100 * 64 + 2 * layer + 64
    assert account(build("sec", "single", model=str(tmp_path), device="24g")).fits
    for text in (
        "{",
        json.dumps(record | {"num_hidden_layers": "many"}),
        json.dumps({**record, "vocab_size": None}),
        "[]",
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            of_model(str(tmp_path))


def test_explain_says_what_was_chosen_and_nothing_where_nothing_was() -> None:
    text = explain(build("sec", "paper", device="h200"))
    assert "planned for h200: engine vllm, " in text and "instar plan sec --scale paper" in text
    assert "planned for" not in explain(build("sec", "tiny"))


def test_the_plan_adds_up() -> None:
    text = render(account(build("sec", "paper")))
    assert max(map(len, text.splitlines())) <= 132
    for phase in ("sampling", "training"):
        block = text.split(f"\nwhile {phase}")[1].split("\n\n")[0].splitlines()[1:]
        numbers = [float(line.split()[-1]) for line in block]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.005 * len(numbers))


def test_the_plan_says_which_part_fills_the_device_and_what_larger_passes_would_change() -> None:
    """Micro-batches of 5,120 tokens on 139 GiB look wrong without it. Those of 8,192 save less than 2 %."""
    made = account(build("sec", "paper", device="h200"))
    lines = render(made).splitlines()
    assert (
        "largest part: keys and values, 584 rows x 5120 columns, 102.7 of 130.8 GiB while sampling; "
        "it has the room of the moments (23.0 GiB)"
    ) in lines
    (passes,) = (line for line in lines if line.startswith("micro-batches of 8192 tokens"))
    assert passes.endswith("would need 94.6 of 132.0 GiB while training, and save 1.9% of a step")
    small = account(build("sec", "single", device="h200"))
    assert "largest part: activations of 32768 tokens, all kept, 44.2 of 56.8 GiB while training" in render(small)


def test_neither_logits_nor_a_sleeping_sampler_take_room_that_grows_with_micro_batches() -> None:
    """The logits exist a tile at a time, whatever the pass; vLLM asleep keeps its graphs and neither weights nor cache."""
    made = account(build("sec", "paper", device="h200"))
    wide = dataclasses.replace(made, choice=dataclasses.replace(made.choice, micro_batch_tokens=65_536, max_rows=8))
    for name in ("logits tile and head's gradient", "vLLM asleep"):
        assert made.training[name] == wide.training[name] <= 2 * GIB


def test_a_machine_without_the_gpu_of_the_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = build("sec", "single")
    monkeypatch.setattr(preflight, "_cuda", lambda: False)
    with pytest.raises(
        ConfigError, match=r"a GPU of 79 GiB: sec at single is planned for h100-80g; found none"
    ) as caught:
        preflight.check(recipe)
    assert "--scale tiny or small" in caught.value.action
    monkeypatch.setattr(preflight, "_cuda", lambda: True)
    monkeypatch.setattr(preflight, "_memory", lambda: int(22.5 * GIB))
    with pytest.raises(ConfigError, match="--device 24g"):
        preflight.check(recipe)
    monkeypatch.setattr(preflight, "_installed", lambda name: True)
    preflight.check(build("sec", "single", device="24g"))


MODELS = st.builds(
    Architecture,
    hidden=st.sampled_from([64, 896]),
    layers=st.integers(1, 40),
    heads=st.just(8),
    kv_heads=st.sampled_from([2, 8]),
    head_dim=st.sampled_from([64, 128]),
    intermediate=st.integers(64, 4096),
    vocab=st.integers(100, 150_000),
    tied=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(model=MODELS, rows=st.integers(1, 512), more=st.integers(1, 64), name=st.sampled_from(DEVICES))
def test_laws(model: Architecture, rows: int, more: int, name: str) -> None:
    """More rows take more memory and no more time; every part is at least 0; a faster device is not slower."""
    asked = [footprint.Sampling(rows=n, samples=2048, groups=64, prompt=128, new=512) for n in (rows, rows + more)]
    for engine in (
        lambda work: footprint.vllm(model, work, 2),
        lambda work: footprint.transformers(model, work, 2, 2, 4),
    ):
        one, two = map(engine, asked)
        assert 0 < one.peak_bytes < two.peak_bytes and min(vars(one).values()) >= 0
    answers = [
        seconds.Answers(samples=2048, groups=64, prompt=128, mean=256, longest=512, rows=n) for n in (rows, rows + more)
    ]
    slow, fast = (seconds.decode_s(model, devices.of_name(name), one, 2) for one in answers)
    assert fast <= slow * (1 + 1e-9)
    assert seconds.decode_s(model, devices.of_name("h200"), answers[0], 2) <= slow * (1 + 1e-9)


def test_seconds_by_hand() -> None:
    """One step of 3B in bfloat16 on an H100: 6.2 GB of weights at .6 of 3.35 TB/s, and the cache of the live rows."""
    model, device = ARCHITECTURES["qwen2.5-3b"], devices.of_name("h100-80g")
    asked = seconds.Answers(samples=8, groups=1, prompt=100, mean=10, longest=10, rows=8)
    streamed = (36 * model.layer_parameters + model.head_parameters) * 2 / (0.6 * 3.35e12)
    cache = 8 * (100 + 5) * 36_864 / (0.6 * 3.35e12)
    assert seconds.decode_s(model, device, asked, 2) == pytest.approx(10 * (streamed + cache + device.rates.step_s))
    batch = seconds.Batch(positions=1000, width=1, tokens=0, passes=0, steps=1)
    plain = account(build("sec", "paper")).update
    flops = 1000 * 3 * (2 * 36 * model.layer_parameters + 2 * 36 * 2048)
    assert seconds.update_s(model, device, batch, plain, False) == pytest.approx(flops / (0.35 * 989e12))


def test_small_scales_have_a_plan_for_this_machine() -> None:
    """Nothing is chosen there: the plan shows the recipe as it is."""
    rates = devices.of_name("24g").rates
    here = devices.Device(name="cpu", title="t", memory=16 * GIB, rates=rates, source="s", cuda=False, workspace=0)
    for name in ("sec", "spark"):
        for scale in ("tiny", "small"):
            made = fit.account(method(name).recipe(scale), here)
            assert made.fits and made.choice.engine == "transformers" and made.step_s > 0
            assert "moments to the host and back" not in made.step_seconds
            assert isinstance(made.work.recipe.test, AnswerConfig)


def test_the_page_shows_the_plan_of_today() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    assert render(account(build("sec", "paper"))) in page


def asked(**changes: Any) -> Asked:
    return dataclasses.replace(Asked(gpus=None, model_size=None, work_s=None, unroll=1, allow=True), **changes)


def test_one_command_prints_the_device_and_with_gpus_the_segment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("sec", "paper", None, None, [], None, asked()) == 0
    alone = capsys.readouterr().out
    assert alone == render(account(build("sec", "paper"))), "without --device the one that the recipe names"
    assert main("sec", "paper", None, None, [], "h200", asked(gpus=1)) == 0
    device, segment = capsys.readouterr().out.split("\n\nsec paper: ")
    made = account(build("sec", "paper", device="h200"))
    assert device.startswith("sec paper on h200") and "3.09B parameters" in segment
    assert f"{made.iteration_s:.0f}" in segment, "the work of an iteration is the one that the device plan predicts"
    assert main("sec", "paper", None, None, [], None, asked(gpus=8, model_size=3.0, work_s=7200.0)) == 0
    assert capsys.readouterr().out.startswith("sec paper: 8 GPUs on 1 node, 3B parameters")


def test_a_recipe_of_any_scale_is_planned_on_any_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = devices.of_name("24g").rates
    here = devices.Device(
        name="cpu", title="this machine", memory=GIB, rates=rates, source="s", cuda=False, workspace=0
    )
    monkeypatch.setattr("instar.pipelines.fit.probe.cpu", lambda *given: here)
    assert main("sec", "tiny", None, None, [], "cpu", asked()) == 0
    assert "sec tiny on cpu" in capsys.readouterr().out
    assert main("sec", "small", None, None, [], "24g", asked()) == 0
    assert "engine transformers" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="on cpu"):
        main("sec", "small", None, None, [], "cpu", asked())  # 1 GiB
    assert "in all" in capsys.readouterr().out, "the parts are shown before it is refused"


@pytest.mark.parametrize(
    ("scale", "device", "changes", "named"),
    [
        ("paper", None, {"model_size": 3.0}, "--model-size without --gpus"),
        ("paper", "h200", {"work_s": 9.0}, "--work-s without --gpus"),
        ("single", "cpu", {}, "because sec at single samples with vLLM"),
        ("tiny", "h2000", {}, "did you mean 'h200'"),
    ],
)
def test_options_that_do_not_go_together(scale: str, device: str | None, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        main("sec", scale, None, None, [], device, asked(**changes))
