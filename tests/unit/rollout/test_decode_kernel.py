"""The C++ kernel of decode steps against plain torch, and the engine on it. Needs a C++ compiler; about ten seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.rollout.llama_forward import LlamaForward
from instar.components.rollout.sampling import draw, uniforms
from instar.components.rollout.transformers_engine import TransformersEngine
from instar.errors import ConfigError, MissingDependencyError
from instar.kernels.decode import cpp, dispatch, reference
from instar.kernels.decode.reference import Where

pytestmark = pytest.mark.usefixtures("kernel")
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}  # one unit of bfloat16 at 1 to 2 is 0.8e-2


def angles(rows: int, width: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    half = torch.rand(rows, 1, width // 2, generator=generator) * 6
    full = torch.cat([half, half], -1)
    return full.cos().to(dtype), full.sin().to(dtype)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from([(1, 1), (3, 1), (4, 2), (9, 3), (14, 2), (5, 5)]),
    st.sampled_from(cpp.WIDTHS),
    st.integers(1, 70),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 1000),
)
def test_attention_equals_the_reference(
    rows: int, heads: tuple[int, int], width: int, columns: int, dtype: torch.dtype, seed: int
) -> None:
    """Every grouping of heads, every width, rows at columns of their own; new keys and values land in their column alone."""
    (queries, kv), generator = heads, torch.Generator().manual_seed(seed)
    qkv = torch.randn(rows, queries + 2 * kv, width, generator=generator).to(dtype)
    keys, values = (torch.randn(rows + 2, kv, columns, width, generator=generator).to(dtype) for _ in range(2))
    position = torch.randint(0, columns, (rows,), generator=generator)
    cos, sin = angles(rows, width, dtype, generator)
    where = Where(cos=cos, sin=sin, position=position, columns=columns, ragged=True)
    keys2, values2 = keys.clone(), values.clone()
    expected, found = reference.attend(qkv, keys, values, where), cpp.attend(qkv, keys2, values2, where)
    assert torch.allclose(found.float(), expected.float(), atol=CLOSE[dtype], rtol=CLOSE[dtype])
    assert torch.allclose(keys2.float(), keys.float(), atol=CLOSE[dtype], rtol=CLOSE[dtype])
    assert torch.equal(values2, values)


def test_attention_by_hand() -> None:
    """One head of 32 numbers, no turn, equal keys: the mean of the values seen so far, never of those behind."""
    qkv = torch.zeros(2, 3, 32)
    qkv[:, 2] = 6.0
    keys, values = torch.zeros(2, 1, 4, 32), torch.full((2, 1, 4, 32), 1e9)
    values[:, :, 0], values[:, :, 1] = 1.0, 2.0
    where = Where(
        cos=torch.ones(2, 1, 32), sin=torch.zeros(2, 1, 32), position=torch.tensor([2, 1]), columns=3, ragged=True
    )
    out = cpp.attend(qkv, keys, values, where)
    assert out[0].tolist() == pytest.approx([3.0] * 32)  # (1 + 2 + 6) / 3
    assert out[1].tolist() == pytest.approx([3.5] * 32)  # (1 + 6) / 2: its own value replaced the 2
    assert values[1, 0, 1].tolist() == [6.0] * 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_gate_equal_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, delta = (torch.randn(7, 48, generator=generator).to(dtype) for _ in range(2))
    weight, again = torch.randn(48, generator=generator).to(dtype), x.clone()
    for added in (None, delta):
        expected, found = reference.add_norm(x, added, weight, 1e-5), cpp.add_norm(again, added, weight, 1e-5)
        assert torch.allclose(found.float(), expected.float(), atol=CLOSE[dtype], rtol=CLOSE[dtype])
        assert torch.equal(x, again)
    gate_up = (torch.randn(7, 96, generator=generator) * 20).to(dtype)
    found = cpp.silu_mul(gate_up).float()
    assert torch.allclose(found, reference.silu_mul(gate_up).float(), atol=1e-5, rtol=CLOSE[dtype])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3000),
    st.integers(0, 2**32),
    st.floats(0, 1),
    st.floats(0.1, 20),
    st.sampled_from([1.0, 0.6, 1.7]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_drawn_token_brackets_the_quantile(
    vocab: int, seed: int, quantile: float, spread: float, temperature: float, dtype: torch.dtype
) -> None:
    """No token of probability 0 is drawn, whatever the size of the vocabulary."""
    logits = (torch.randn(1, vocab, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)
    logits[0, 1::3] = float("-inf")
    token, logprob = cpp.draw(logits, torch.tensor([quantile], dtype=torch.float64), temperature)
    exact = (logits[0].double() / temperature).softmax(0)
    upper = exact[: int(token) + 1].sum().item()
    assert upper - exact[token].item() - 1e-6 <= quantile <= upper + 1e-6
    assert exact[token].item() > 0
    assert logprob.item() == pytest.approx(exact[token].log().item(), abs=2e-5, rel=1e-6)
    best, score = cpp.draw(logits, None, 0.0)
    top, expected = draw(logits, None, 0.0)
    assert logits[0, best] == logits[0, top] and score.item() == pytest.approx(expected.item(), abs=2e-5)


def test_it_draws_what_torch_draws() -> None:
    logits, uniform = (
        torch.randn(300, 5000, generator=torch.Generator().manual_seed(0)) * 2,
        uniforms(range(300), 1)[:, 0],
    )
    assert torch.equal(cpp.draw(logits, uniform, 1.0)[0], draw(logits, uniform, 1.0)[0])


def test_rows_that_are_not_numbers_stay_so() -> None:
    logits = torch.zeros(3, 40)
    logits[0, 7], logits[1, 3], logits[2] = float("nan"), float("inf"), float("-inf")
    for uniform in (torch.full((3,), 0.5, dtype=torch.float64), None):
        assert not torch.isfinite(cpp.draw(logits, uniform, 1.0)[1]).any()
    x = torch.ones(1, 16)
    x[0, 3] = float("nan")
    assert cpp.add_norm(x.bfloat16(), None, torch.ones(16).bfloat16(), 1e-5).isnan().all()
    assert cpp.silu_mul(x.repeat(1, 2))[0, 3].isnan()


@pytest.mark.parametrize("max_rows", [4, 64])
def test_samples_on_the_kernel_equal_the_full_forward(
    max_rows: int, tiny: Any, prompts: Any, full_logits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed weights, kernel attention and kernel draws against one unpadded pass per sample; torch gives the same tokens."""
    model, wanted = tiny("llama-wide"), prompts([3, 9, 1, 5, 12], 4)
    engine = TransformersEngine(model, digest="d", eos_ids=range(0, 1003, 9), max_rows=max_rows)
    assert engine.forward.reason.startswith("LlamaForCausalLM; cpp: ")
    groups = engine.sample(wanted, max_new_tokens=14, temperature=1.0)
    for request, samples in zip(wanted, groups, strict=True):
        for sample in samples:
            exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[
                len(request.prompt_ids) - 1 :
            ]
            near = [exact[i, token].item() for i, token in enumerate(sample.token_ids)]
            assert sample.logprobs == pytest.approx(near, abs=2e-5)
    monkeypatch.setenv("INSTAR_DECODE_CPP", "0")
    plain = TransformersEngine(model, digest="d", eos_ids=range(0, 1003, 9), max_rows=max_rows)
    assert plain.forward.reason == "LlamaForCausalLM; torch: INSTAR_DECODE_CPP=0"
    again = plain.sample(wanted, max_new_tokens=14, temperature=1.0)
    assert [[s.token_ids for s in g] for g in again] == [[s.token_ids for s in g] for g in groups]


def test_a_kernel_that_only_draws_takes_part(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of another width step by torch and draw by the kernel, whose log-probabilities are rounded otherwise."""
    forward = LlamaForward(tiny("llama"), torch.float32, "cpu")
    assert "torch: heads of" in forward.reason and forward.compiled
    monkeypatch.setenv("INSTAR_DECODE_CPP", "0")
    assert not LlamaForward(tiny("llama"), torch.float32, "cpu").compiled


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, uniform = torch.randn(37, 999, generator=torch.Generator().manual_seed(1)), uniforms(range(37), 1)[:, 0]
    one = cpp.draw(logits, uniform, 1.0)
    monkeypatch.setattr(cpp, "_threads", lambda work: 3)
    three = cpp.draw(logits, uniform, 1.0)
    assert torch.equal(one[0], three[0]) and torch.equal(one[1], three[1])


def test_what_cannot_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = {"width": 64, "sizes": (576, 1536)}
    assert dispatch.choose(torch.float32, "cpu", **usual).name == "cpp"
    assert (
        dispatch.choose(torch.float32, "cpu", width=8, sizes=(32,)).reason
        == "heads of 8 numbers, not of 32, 64, 96, 128"
    )
    assert dispatch.choose(torch.float32, "cpu", width=64, sizes=(50,)).reason == "50 numbers are no multiple of 16"
    assert dispatch.choose(torch.float16, "cpu", **usual).reason == "torch.float16 on cpu"
    assert dispatch.choose(torch.float32, "cpu", **usual, backend="torch").reason == "named by the caller"
    with pytest.raises(ConfigError, match=r"cpp: torch\.float16 on cpu"):
        dispatch.choose(torch.float16, "cpu", **usual, backend="cpp")
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path))
    cpp._function.cache_clear()
    assert (
        dispatch.choose(torch.float32, "cpu", **usual).reason == f"the C++ kernel is not built: `{cpp.LIBRARY.command}`"
    )
    assert not dispatch.draws(torch.float32, "cpu")
    with pytest.raises(MissingDependencyError, match=r"decode\.cpp build"):
        cpp.draw(torch.zeros(1, 3), None, 0.0)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match="no program no-such-compiler"):
        dispatch.choose(torch.float32, "cpu", **usual, backend="cpp")
    assert cpp.LIBRARY.path().is_relative_to(tmp_path)
    cpp._function.cache_clear()
