"""Stop strings: where they end a sample, and what passes for such an ending. Runs in about three seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from instar import config as configs
from instar.artifact import Policy
from instar.components.evaluate.config import AnswerConfig
from instar.components.rollout.config import EngineConfig, SampleConfig
from instar.components.rollout.engine import Request, Sample
from instar.components.rollout.engines import open_engine
from instar.components.rollout.sample import check_sample
from instar.components.rollout.stops import stop_rule
from instar.components.rollout.transformers_engine import TransformersEngine
from instar.components.tokenizer import TextTokenizer, load_tokenizer
from instar.contract import Context
from instar.errors import ConfigError, EngineError

PIECES = ["<eos>", "a", "b", "\n", "a\n", "\n\n", "\nb", "ab", "</", "an", "s>", ">", "\u00e2", "\u0122", "\u0135", "0"]
# The three before the last are the bytes E2 80 93 of an en dash, one byte each, as byte-level tokenizers write them.


def words(path: Path) -> TextTokenizer:
    """Return a byte-level tokenizer over `PIECES`, in which several tokens contain or complete a line break."""
    vocab = {piece.replace("\n", "\u010a"): i for i, piece in enumerate(PIECES)}
    made: Any = Tokenizer(models.WordLevel(vocab, unk_token="<eos>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.ByteLevel()
    made.add_special_tokens(["<eos>"])
    made.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text('{"eos_token_id": 0, "pad_token_id": 0}')
    return load_tokenizer(Policy(path, ""))


def ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("stop", "tokens", "length"),
    [
        ("\n", ids("a", "b", "\n", "a"), 3),
        ("\n", ids("a", "a\n", "b"), 2),  # the stop stands at the end of a longer token
        ("\n", ids("\nb", "a"), 1),  # and at its start: the rest of the token stays
        ("\n\n", ids("a\n", "b", "a\n", "\n", "a"), 4),  # completed by a token that alone is no stop
        ("\n\n", ids("a", "\n\n"), 2),
        ("</ans>", ids("</", "an", "a", "</", "an", "s>", "b"), 6),  # three tokens, after a false start
        ("\u2013", ids("a", "\u00e2", "\u0122", "\u0135", "a"), 4),  # completed by its last byte
        ("ba", ids("a", "b", "b", "a\n"), 4),
    ],
)
def test_the_rule_ends_at_the_first_token_that_completes_the_text(
    stop: str, tokens: list[int], length: int, tmp_path: Path
) -> None:
    """Walked as the engine walks: the text is looked at only after a candidate."""
    rule = stop_rule((stop,), words(tmp_path), len(PIECES))
    assert rule is not None
    ends = [i + 1 for i, token in enumerate(tokens) if token in rule.candidates and rule.ends(tokens[: i + 1])]
    assert ends[0] == length
    exact = [i + 1 for i in range(len(tokens)) if stop in rule.decode(tokens[: i + 1])]
    assert exact[0] == length


def test_only_tokens_that_can_complete_a_stop_are_candidates(tmp_path: Path) -> None:
    """Line breaks, and single bytes of which the decoder cannot say what they will become; never `a` or a stop token."""
    rule = stop_rule(("\n",), words(tmp_path), len(PIECES) + 8)  # the logits are wider than the vocabulary
    assert rule is not None
    assert {PIECES[i] for i in rule.candidates} == {"\n", "a\n", "\n\n", "\nb", "\u00e2", "\u0122", "\u0135"}
    assert stop_rule((), words(tmp_path), len(PIECES)) is None


@pytest.mark.parametrize("max_rows", [2, 64])
@pytest.mark.parametrize("stop", [("b",), ("de", "7"), ("a", "1+", "\n")])
def test_the_engine_ends_where_the_text_first_holds_a_stop(
    stop: tuple[str, ...], max_rows: int, tiny: Any, folder: Any, prompts: Any, tmp_path: Path
) -> None:
    """Samples with stops are exactly the free-running samples cut behind the token that completes the first stop."""
    policy = folder(tiny("llama"), "a")
    config = EngineConfig(max_rows=max_rows)
    engine = open_engine(config, policy, Context(evolution="e", step=0, stage="s", scratch=tmp_path))
    tokenizer, wanted = load_tokenizer(policy), prompts([3, 5, 5], 8)
    free = engine.sample(wanted, max_new_tokens=12, temperature=1.0)
    cut = engine.sample(wanted, max_new_tokens=12, temperature=1.0, stop=stop)
    ended = 0
    for request, group, short in zip(wanted, free, cut, strict=True):
        for whole, sample in zip(group, short, strict=True):
            texts = [tokenizer.decode(whole.token_ids[: i + 1]) for i in range(len(whole.token_ids))]
            first = next((i + 1 for i, text in enumerate(texts) if any(s in text for s in stop)), None)
            assert sample.token_ids == whole.token_ids[:first]
            assert sample.logprobs == pytest.approx(whole.logprobs[:first], abs=1e-5)
            assert sample.truncated == (first is None and whole.truncated)
            check_sample(sample, request, tokenizer, SampleConfig(max_new_tokens=12, stop=stop))
            ended += first is not None
    assert ended > 3 or stop[0] == "de"


def test_stop_strings_need_a_tokenizer(tiny: Any, prompts: Any) -> None:
    engine = TransformersEngine(tiny("llama"), digest="d", eos_ids=[1], max_rows=8)
    with pytest.raises(EngineError, match="a tokenizer, because stop strings need one"):
        engine.sample(prompts([3], 1), max_new_tokens=3, temperature=1.0, stop=("\n",))


@pytest.mark.parametrize(
    ("pieces", "truncated", "accepted"),
    [
        (["a", "b", "a\n"], False, True),
        (["a", "b", "<eos>"], False, True),
        (["a", "b", "a", "b", "a"], True, True),
        (["a", "b"], False, False),  # neither a stop nor the limit
        (["a", "\n", "b"], False, False),  # went on behind the stop string
        (["a\n", "a\n"], False, False),
        (["\n", "<eos>"], False, False),
        (["a", "b", "a", "b", "\n"], True, False),  # ended at the limit, reported as cut
        (["a", "b", "a", "<eos>", "\n"], False, False),
        (["a", "b", "a", "b", "a", "\n"], False, False),  # longer than the limit
        ([], False, False),
    ],
)
def test_endings_that_pass_for_what_was_sampled(
    pieces: list[str], truncated: bool, accepted: bool, tmp_path: Path
) -> None:
    config = SampleConfig(max_new_tokens=5, stop=("\n",))
    request = Request(request_id="r", prompt_ids=[1], seeds=[0])
    sample = Sample(token_ids=ids(*pieces), logprobs=[-1.0] * len(pieces), truncated=truncated)
    if accepted:
        check_sample(sample, request, words(tmp_path), config)
        with pytest.raises(EngineError, match="never ids encoded from text"):  # a log-probability is missing
            check_sample(dataclasses.replace(sample, logprobs=[-1.0]), request, words(tmp_path), config)
    else:
        with pytest.raises(EngineError, match="tokens up to the first of"):
            check_sample(sample, request, words(tmp_path), config)


def test_row_8_tokens_encoded_again_from_text_that_ended_at_a_stop_string(tmp_path: Path) -> None:
    """`a`, `\\n` was sampled; its text encodes to other tokens, and the count of log-probabilities gives it away."""
    config, tokenizer = SampleConfig(max_new_tokens=5, stop=("\n",)), words(tmp_path)
    request = Request(request_id="r", prompt_ids=[1], seeds=[0])
    sampled = Sample(token_ids=ids("a", "\n"), logprobs=[-1.0, -2.0], truncated=False)
    check_sample(sampled, request, tokenizer, config)
    again = dataclasses.replace(sampled, token_ids=ids("a\n"))
    assert tokenizer.decode(again.token_ids) == tokenizer.decode(sampled.token_ids)
    with pytest.raises(EngineError, match="1 tokens, 2 log-probabilities"):
        check_sample(again, request, tokenizer, config)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one character"):
        configs.from_dict(SampleConfig, {"max_new_tokens": 4, "stop": ["\n", ""]})
    with pytest.raises(ConfigError, match="at least one character"):
        AnswerConfig(max_new_tokens=4, stop=("",))
    assert "stop" in AnswerConfig(max_new_tokens=4).protocol
    assert configs.from_dict(SampleConfig, {"max_new_tokens": 4, "stop": ["\n"]}).stop == ("\n",)
