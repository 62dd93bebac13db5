"""The engine against unpadded full forward passes. Runs in about fifteen seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from instar.components.rollout import batching, transformers_engine
from instar.components.rollout.engine import Request, Sample
from instar.components.rollout.transformers_engine import TransformersEngine, precision
from instar.errors import NumericsError

KINDS = ["llama", "llama-eager", "gpt2", "qwen2", "qwen3", "llama-wide"]
LENGTHS = [3, 9, 1, 5, 5, 12, 2]
STOPS = [1, 2, 3, 4]  # four stop ids of 32, so that rows finish at different times


class Adapted(torch.nn.Linear):
    """A linear layer that computes something else, as adapters and quantised layers do."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False)
        self.base = base

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * self.base(input)


def make(model: Any, max_rows: int = 512, eos: list[int] | None = None, **options: Any) -> TransformersEngine:
    return TransformersEngine(model, digest="d", eos_ids=STOPS if eos is None else eos, max_rows=max_rows, **options)


def watch(engine: TransformersEngine) -> list[tuple[str, Any]]:
    """Return what the engine does while it samples: prompt lengths of every reading, rows of every step."""
    events: list[tuple[str, Any]] = []
    forward: Any = engine.forward
    read, step = forward.read, forward.step
    forward.read = lambda prompts: (events.append(("read", [len(p) for p in prompts])), read(prompts))[1]
    forward.step = lambda token, *rest: (events.append(("step", len(token))), step(token, *rest))[1]
    return events


@pytest.mark.parametrize("forward", ["auto", "stock"])
@pytest.mark.parametrize("max_rows", [512, 7, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_logprob_equals_the_full_forward(
    kind: str, max_rows: int, forward: Any, tiny: Any, prompts: Any, full_logits: Any
) -> None:
    """Mixed prompt lengths, rows that end early, slots filled again, against one unpadded pass per sample."""
    model, wanted = tiny(kind), prompts(LENGTHS, 5)
    engine = make(model, max_rows, forward=forward)
    assert engine.forward.name == ("stock" if kind == "gpt2" or forward == "stock" else "packed")
    worst, num_tokens, lengths = 0.0, 0, set[int]()
    groups = engine.sample(wanted, max_new_tokens=20, temperature=1.0)
    for request, samples in zip(wanted, groups, strict=True):
        for sample in samples:
            first = len(request.prompt_ids) - 1
            exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)
            lengths.add(len(sample.token_ids))
            for i, (token, logprob) in enumerate(zip(sample.token_ids, sample.logprobs, strict=True)):
                worst, num_tokens = max(worst, abs(exact[first + i, token].item() - logprob)), num_tokens + 1
    assert num_tokens > 100
    assert len(lengths) > 3 or kind == "llama-wide"
    assert worst < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_argmax_of_the_full_forward(kind: str, tiny: Any, prompts: Any, full_logits: Any) -> None:
    model, wanted = tiny(kind), prompts(LENGTHS, 1)
    for request, (sample,) in zip(wanted, make(model).sample(wanted, max_new_tokens=15, temperature=0.0), strict=True):
        logits = full_logits(model, request.prompt_ids + sample.token_ids)[len(request.prompt_ids) - 1 : -1]
        assert sample.token_ids == logits.argmax(-1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_generate(kind: str, tiny: Any, prompts: Any) -> None:
    model, wanted = tiny(kind), prompts([6, 6, 6], 2)
    batch = torch.tensor([request.prompt_ids for request in wanted])
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    theirs = model.generate(batch, attention_mask=torch.ones_like(batch), do_sample=False, max_new_tokens=24)
    ours = make(model, eos=[]).sample(wanted, max_new_tokens=24, temperature=0.0)
    assert [group[0].token_ids for group in ours] == theirs[:, 6:].tolist()
    assert all(group[0] == group[1] for group in ours)


def test_a_sample_depends_on_its_own_seed_only(tiny: Any, prompts: Any) -> None:
    """Alone, in another order, in few slots, with other neighbours: same tokens."""
    model, wanted = tiny("llama"), prompts(LENGTHS, 6)
    run = {"max_new_tokens": 12, "temperature": 1.0}
    together = make(model).sample(wanted, **run)
    tokens = [[s.token_ids for s in group] for group in together]
    assert [[s.token_ids for s in g] for g in make(model, 4).sample(wanted, **run)] == tokens
    assert [[s.token_ids for s in g] for g in make(model).sample(wanted[::-1], **run)][::-1] == tokens
    for request, expected in zip(wanted, tokens, strict=True):
        for seed, ids in zip(request.seeds, expected, strict=True):
            alone = Request(request_id="a", prompt_ids=request.prompt_ids, seeds=[seed])
            assert make(model).sample([alone], **run)[0][0].token_ids == ids
    assert len({tuple(ids) for group in tokens for ids in group}) > 20


def test_same_seed_same_sample_other_seed_other_sample(tiny: Any, prompts: Any) -> None:
    (request,) = prompts([6], 1)
    twice = Request(request_id="a", prompt_ids=request.prompt_ids, seeds=[7, 7, 8])
    first, second, third = make(tiny("llama"), eos=[]).sample([twice], max_new_tokens=16, temperature=1.0)[0]
    assert first == second
    assert first.token_ids != third.token_ids


def test_first_token_frequencies_follow_the_model(tiny: Any, prompts: Any, full_logits: Any) -> None:
    """Chi-square over 32 tokens, cells under 5 expected pooled; 0.999 quantile bounded by df + 4 sqrt(2 df) + 8."""
    model, (request,) = tiny("llama"), prompts([6], 1)
    many = Request(request_id="a", prompt_ids=request.prompt_ids, seeds=list(range(4000)))
    (samples,) = make(model, eos=[], max_rows=4000).sample([many], max_new_tokens=1, temperature=1.0)
    expected = full_logits(model, request.prompt_ids)[-1].softmax(-1).double() * 4000
    found = torch.bincount(torch.tensor([s.token_ids[0] for s in samples]), minlength=32).double()
    large = expected >= 5
    pooled = (found[~large].sum() - expected[~large].sum()) ** 2 / expected[~large].sum().clamp(min=1)
    statistic = ((found[large] - expected[large]) ** 2 / expected[large]).sum() + pooled
    degrees = int(large.sum())
    assert degrees >= 4
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5 + 8


def test_stop_token_ends_the_sample_and_is_kept(tiny: Any, prompts: Any) -> None:
    limit, groups = 10, make(tiny("gpt2")).sample(prompts(LENGTHS, 8), max_new_tokens=10, temperature=1.0)
    samples: list[Sample] = [sample for group in groups for sample in group]
    for sample in samples:
        stops = [i for i, token in enumerate(sample.token_ids) if token in STOPS]
        assert stops == ([] if sample.truncated else [len(sample.token_ids) - 1])
        assert len(sample.token_ids) == len(sample.logprobs) <= limit
        assert not sample.truncated or len(sample.token_ids) == limit
    assert {s.truncated for s in samples} == {True, False}


def test_a_stop_at_the_limit_is_not_truncation(tiny: Any, prompts: Any) -> None:
    """Every token is a stop token, and the limit is one token."""
    groups = make(tiny("llama"), eos=list(range(32))).sample(prompts([4, 6], 3), max_new_tokens=1, temperature=1.0)
    assert all(not sample.truncated and len(sample.token_ids) == 1 for group in groups for sample in group)


@pytest.mark.parametrize("forward", ["auto", "stock"])
def test_each_distinct_prompt_is_read_once(forward: Any, tiny: Any, prompts: Any) -> None:
    """Eight samples of each of two prompts, one of them asked for twice: two prompts read, two steps of 24 rows."""
    engine, wanted = make(tiny("llama"), eos=[], forward=forward), prompts([6, 6], 8)
    events = watch(engine)
    engine.sample([*wanted, wanted[0]], max_new_tokens=3, temperature=1.0)
    assert events == [("read", [6, 6]), ("step", 24), ("step", 24)]


def test_a_prompt_is_read_once_when_its_group_does_not_fit_the_slots(tiny: Any, prompts: Any) -> None:
    """Ten samples of one prompt in three slots: read once, and 10 x 3 steps of one row at three rows a time."""
    engine = make(tiny("llama"), 3, eos=[])
    events = watch(engine)
    engine.sample(prompts([6], 10), max_new_tokens=4, temperature=1.0)
    assert events == [("read", [6]), *[("step", 3)] * 9, *[("step", 1)] * 3]


def test_a_free_slot_is_filled_before_the_longest_row_ends(tiny: Any, prompts: Any) -> None:
    """Rows end at different tokens; a step with an empty slot is followed by a reading while prompts wait."""
    engine, slots = make(tiny("llama"), 4), 4
    events = watch(engine)
    groups = engine.sample(prompts([5] * 12, 1), max_new_tokens=30, temperature=1.0)
    lengths = [len(sample.token_ids) for group in groups for sample in group]
    steps = [rows for kind, rows in events if kind == "step"]
    assert sum(steps) == sum(lengths) - len(lengths)  # the first token of a row comes from reading its prompt
    last = max(i for i, (kind, _) in enumerate(events) if kind == "read")
    empty = [i for i, event in enumerate(events[:last]) if event[0] == "step" and event[1] < slots]
    assert all(events[i + 1][0] == "read" for i in empty)
    assert sum(len(lengths) for kind, lengths in events if kind == "read") == 12
    assert len(steps) < sum(max(lengths[i : i + slots]) - 1 for i in range(0, 12, slots))  # one batch after the other


@pytest.mark.parametrize("max_rows", [1, 3, 5, 64])
def test_results_keep_the_order_of_the_requests(max_rows: int, tiny: Any, prompts: Any) -> None:
    """The seeds of equal prompts stand in different requests, of different sizes, one of them empty."""
    model, (a, b) = tiny("llama"), prompts([4, 7], 6)
    wanted = [
        Request(request_id="0", prompt_ids=b.prompt_ids, seeds=[1, 2]),
        Request(request_id="1", prompt_ids=a.prompt_ids, seeds=[]),
        Request(request_id="2", prompt_ids=a.prompt_ids, seeds=[3, 4, 5]),
        Request(request_id="3", prompt_ids=b.prompt_ids, seeds=[6]),
    ]
    groups = make(model, max_rows).sample(wanted, max_new_tokens=9, temperature=1.0)
    assert [len(group) for group in groups] == [2, 0, 3, 1]
    for request, group in zip(wanted, groups, strict=True):
        for seed, sample in zip(request.seeds, group, strict=True):
            alone = Request(request_id="x", prompt_ids=request.prompt_ids, seeds=[seed])
            assert make(model).sample([alone], max_new_tokens=9, temperature=1.0)[0][0].token_ids == sample.token_ids


def test_bfloat16_rows_stay_near_the_bfloat16_forward(tiny: Any, prompts: Any, full_logits: Any) -> None:
    model, wanted = tiny("llama").to(torch.bfloat16), prompts([3, 8], 4)
    for request, samples in zip(wanted, make(model).sample(wanted, max_new_tokens=8, temperature=1.0), strict=True):
        for sample in samples:
            exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[
                len(request.prompt_ids) - 1 :
            ]
            near = [exact[i, token].item() for i, token in enumerate(sample.token_ids)]
            assert sample.logprobs == pytest.approx(near, abs=0.3)


def test_another_precision_leaves_the_model_as_it_is(tiny: Any, prompts: Any) -> None:
    for forward in ("auto", "stock"):
        model = tiny("llama")
        engine = make(model, dtype=torch.bfloat16, forward=forward)
        engine.sample(prompts([3], 2), max_new_tokens=3, temperature=1.0)
        assert model.dtype == torch.float32
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny("llama").parameters(), strict=True))


def test_bfloat16_is_computed_in_float32_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = torch.bfloat16, torch.float32
    for has in (True, False):
        monkeypatch.setattr(transformers_engine, "has_bfloat16", lambda has=has: has)
        assert precision("bfloat16", wide, "cpu") == (narrow if has else wide)
        assert precision("bfloat16", wide, "cuda") == narrow
        assert precision("auto", narrow, "cpu") == narrow
        assert precision("float32", narrow, "cpu") == wide


def test_long_samples_outgrow_the_first_block(tiny: Any, prompts: Any, full_logits: Any) -> None:
    """50 new tokens after a prompt of 2 make the cache grow past its first allocation."""
    model, (request,) = tiny("llama"), prompts([2], 1)
    (sample,) = make(model, eos=[]).sample([request], max_new_tokens=50, temperature=1.0)[0]
    exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[1:]
    assert sample.logprobs == pytest.approx([exact[i, t].item() for i, t in enumerate(sample.token_ids)], abs=2e-5)


def test_no_request_gives_no_sample(tiny: Any) -> None:
    assert make(tiny("llama")).sample([], max_new_tokens=4, temperature=1.0) == []


@pytest.mark.parametrize("forward", ["auto", "stock"])
def test_prefill_in_several_passes_changes_nothing(
    forward: Any, tiny: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted = tiny("qwen3"), prompts(LENGTHS, 3)
    whole = make(model, forward=forward).sample(wanted, max_new_tokens=8, temperature=1.0)
    monkeypatch.setattr(batching, "_PREFILL_TOKENS", 11)
    split = make(model, forward=forward).sample(wanted, max_new_tokens=8, temperature=1.0)
    assert [[s.token_ids for s in g] for g in split] == [[s.token_ids for s in g] for g in whole]
    for a, b in zip((s for g in whole for s in g), (s for g in split for s in g), strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-5)


@pytest.mark.parametrize("forward", ["auto", "stock"])
def test_logits_that_are_not_numbers_are_an_error(forward: Any, tiny: Any, prompts: Any) -> None:
    """One word of the head is NaN: the first row that ends says so, and no sample comes back."""
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(NumericsError, match="NaN or infinity"):
        make(model, forward=forward).sample(prompts([4, 6], 3), max_new_tokens=5, temperature=1.0)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda m: setattr(m.config, "hidden_act", "gelu"), "activation gelu"),
        (lambda m: m.model.layers[1].register_forward_hook(lambda *a: None), "model.layers.1 has hooks"),
        (
            lambda m: setattr(
                m.model.layers[0].self_attn, "q_proj", torch.nn.Sequential(m.model.layers[0].self_attn.q_proj)
            ),
            "model.layers.0.self_attn.q_proj is not a plain linear layer",
        ),
        (
            lambda m: setattr(m.model.layers[1].mlp, "up_proj", Adapted(m.model.layers[1].mlp.up_proj)),
            "model.layers.1.mlp.up_proj is not a plain linear layer",
        ),
    ],
)
def test_a_changed_llama_goes_the_stock_way_and_says_why(plant: Any, reason: str, tiny: Any) -> None:
    model = tiny("llama")
    plant(model)
    forward = make(model).forward
    assert (forward.name, forward.reason) == ("stock", reason)
