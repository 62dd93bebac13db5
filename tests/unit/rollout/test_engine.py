"""The engine against unpadded full forward passes. Runs in about eight seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from instar.components.rollout import transformers_engine
from instar.components.rollout.engine import Request, Sample
from instar.components.rollout.transformers_engine import TransformersEngine

KINDS = ["llama", "llama-eager", "gpt2", "qwen3"]
LENGTHS = [3, 9, 1, 5, 5, 12, 2]
STOPS = [1, 2, 3, 4]  # four stop ids of 32, so that rows finish at different times


def make(model: Any, max_rows: int = 512, eos: list[int] | None = None) -> TransformersEngine:
    return TransformersEngine(model, digest="d", eos_ids=STOPS if eos is None else eos, max_rows=max_rows)


@pytest.mark.parametrize("max_rows", [512, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_every_logprob_equals_the_full_forward(
    kind: str, max_rows: int, tiny: Any, prompts: Any, full_logits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed prompt lengths in one batch, with finished rows compacted away, against one unpadded pass per sample."""
    kept: list[int] = []
    select = transformers_engine._State.select
    monkeypatch.setattr(transformers_engine._State, "select", lambda s, k: (kept.append(len(k)), select(s, k))[1])
    model, wanted = tiny(kind), prompts(LENGTHS, 5)
    worst, num_tokens = 0.0, 0
    for request, samples in zip(
        wanted, make(model, max_rows).sample(wanted, max_new_tokens=20, temperature=1.0), strict=True
    ):
        for sample in samples:
            first = len(request.prompt_ids) - 1
            exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)
            for i, (token, logprob) in enumerate(zip(sample.token_ids, sample.logprobs, strict=True)):
                worst, num_tokens = max(worst, abs(exact[first + i, token].item() - logprob)), num_tokens + 1
    assert kept and num_tokens > 100
    assert worst < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_argmax_of_the_full_forward(kind: str, tiny: Any, prompts: Any, full_logits: Any) -> None:
    model, wanted = tiny(kind), prompts(LENGTHS, 1)
    for request, (sample,) in zip(wanted, make(model).sample(wanted, max_new_tokens=15, temperature=0.0), strict=True):
        logits = full_logits(model, request.prompt_ids + sample.token_ids)[len(request.prompt_ids) - 1 : -1]
        assert sample.token_ids == logits.argmax(-1).tolist()


def test_a_sample_depends_on_its_own_seed_only(tiny: Any, prompts: Any) -> None:
    """Alone, in another order, in small batches, with other neighbours: same tokens."""
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


def test_each_distinct_prompt_is_read_once(tiny: Any, prompts: Any) -> None:
    """Eight samples of each of two prompts, one of them asked for twice, cost 2 x 6 prompt tokens."""
    model, wanted = tiny("llama"), prompts([6, 6], 8)
    read: list[tuple[int, ...]] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda m, args, out: read.append(tuple(args[0].shape)))
    make(model, eos=[]).sample([*wanted, wanted[0]], max_new_tokens=3, temperature=1.0)
    hook.remove()
    assert read == [(2, 6), (24, 1), (24, 1)]


def test_bfloat16_rows_stay_near_the_bfloat16_forward(tiny: Any, prompts: Any, full_logits: Any) -> None:
    model, wanted = tiny("llama").to(torch.bfloat16), prompts([3, 8], 4)
    for request, samples in zip(wanted, make(model).sample(wanted, max_new_tokens=8, temperature=1.0), strict=True):
        for sample in samples:
            exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[
                len(request.prompt_ids) - 1 :
            ]
            near = [exact[i, token].item() for i, token in enumerate(sample.token_ids)]
            assert sample.logprobs == pytest.approx(near, abs=0.3)


def test_long_samples_outgrow_the_first_block(tiny: Any, prompts: Any, full_logits: Any) -> None:
    """50 new tokens after a prompt of 2 make the cache grow past its first allocation."""
    model, (request,) = tiny("llama"), prompts([2], 1)
    (sample,) = make(model, eos=[]).sample([request], max_new_tokens=50, temperature=1.0)[0]
    exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[1:]
    assert sample.logprobs == pytest.approx([exact[i, t].item() for i, t in enumerate(sample.token_ids)], abs=2e-5)


def test_no_request_gives_no_sample(tiny: Any) -> None:
    assert make(tiny("llama")).sample([], max_new_tokens=4, temperature=1.0) == []


def test_prefill_in_several_passes_changes_nothing(tiny: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted = tiny("qwen3"), prompts(LENGTHS, 3)
    whole = make(model).sample(wanted, max_new_tokens=8, temperature=1.0)
    monkeypatch.setattr(transformers_engine, "_PREFILL_TOKENS", 11)
    split = make(model).sample(wanted, max_new_tokens=8, temperature=1.0)
    assert [[s.token_ids for s in g] for g in split] == [[s.token_ids for s in g] for g in whole]
    for a, b in zip((s for g in whole for s in g), (s for g in split for s in g), strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-5)
