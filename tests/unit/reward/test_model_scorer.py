"""Models that score answers: a reward model against transformers' own logits, a judge with planted verdicts. Fifteen seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from instar.artifact import Code, Policy
from instar.components.policy_io import take_model
from instar.components.reward import model_scorer
from instar.components.reward.config import FunctionConfig, VerifyConfig
from instar.components.reward.model_scorer import open_model
from instar.components.reward.scorer_config import ScorerConfig
from instar.components.reward.scorer_folder import copy_scorer, read_scorer
from instar.components.reward.scoring import Completion, open_scorer
from instar.components.reward.verifiers import Abstain, Failed, Score, Verdict
from instar.components.rollout import engines
from instar.components.rollout.config import EngineConfig
from instar.contract import Context
from instar.errors import ArtifactError, ConfigError, InstarError, NumericsError
from instar.rows import TaskRow
from support import scorers
from support.attempts import task
from support.brought import brought
from unit.rollout.test_tokenizer_chat import CHATML, folder_with

DIGEST = "s" * 64
ASKS = ScorerConfig(kind="judge", template="{prompt}{answer}", max_new_tokens=4)
CONVERSATION = json.dumps({"messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": "312"}]})


def completion(text: str, prompt: str = "12=", **changes: Any) -> Completion:
    return Completion(task=task(0, prompt=prompt, **changes), text=text, token_ids=[])


def numbers(verdicts: Sequence[Verdict]) -> list[float]:
    return [verdict.correct for verdict in verdicts if isinstance(verdict, Score)]


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(evolution="e", step=1, stage="reward", scratch=tmp_path)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy(scorers.judge(tmp_path_factory.mktemp("judge")), DIGEST)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A reward model with a chat template."""
    folder = folder_with(tmp_path_factory.mktemp("rm"), CHATML)
    return Policy(scorers.reward_model(folder, 300, eos_token_id=2, pad_token_id=0), DIGEST)


def logit_of(folder: Path, row: Completion) -> float:
    """Return what transformers alone makes of one row."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    fast: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    prompt, reply = row.task.prompt, {"role": "assistant", "content": row.text}
    if row.task.form == "text":
        ids = fast(prompt + row.text)["input_ids"]
    else:
        user = [{"role": "user", "content": prompt}]
        before = user if row.task.form == "chat" else json.loads(prompt)["messages"]
        ids = fast.apply_chat_template([*before, reply], tokenize=True, return_dict=False)
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


def test_a_reward_is_the_logit_of_transformers(chatty: Policy, ctx: Context) -> None:
    rows = [
        completion("12"),
        completion("the longest of these completions, by far"),
        completion("123", "312", form="chat"),
        completion("1 2 3", CONVERSATION, form="messages"),
        completion("", "312="),
    ]
    config = ScorerConfig(kind="reward_model", engine=EngineConfig(max_rows=2))
    verdicts = open_model(config, chatty, ctx).score(rows, "whole")
    expected = [logit_of(chatty.path, row) for row in rows]
    assert [v.reward for v in verdicts if isinstance(v, Score)] == pytest.approx(expected, abs=1e-5)
    assert numbers(verdicts) == pytest.approx([1 / (1 + math.exp(-logit)) for logit in expected], abs=1e-5)
    assert max(expected) - min(expected) > 0.1
    assert [v.format_ok for v in verdicts if isinstance(v, Score)] == [True, True, True, True, False]


def test_a_row_that_the_model_cannot_score_is_failed_alone(tmp_path: Path, ctx: Context) -> None:
    """It is too long, or it has a character whose embedding is not finite, or one that the tokenizer does not know."""
    tokens = scorers.characters(tmp_path / "rm")
    folder = scorers.reward_model(tmp_path / "rm", len(tokens))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][tokens.index("7")] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    rows = [completion("12"), completion("1" * 80), completion("17"), completion("21")]
    verdicts = open_model(ScorerConfig(kind="reward_model"), Policy(folder, DIGEST), ctx).score(rows, "whole")
    assert [type(v) for v in verdicts] == [Score, Failed, Failed, Score]
    assert isinstance(verdicts[1], Failed) and "83 + 0 tokens are more than the 64 positions" in verdicts[1].reason
    assert isinstance(verdicts[2], Failed) and "logit of the reward model is nan" in verdicts[2].reason


def test_a_judge_gives_the_probability_of_its_verdict(judge: Policy, ctx: Context) -> None:
    rows = [completion("1"), completion("2"), completion("3"), completion(" "), completion("2" * 80)]
    yes, no, unreadable, empty, long = open_model(ASKS, judge, ctx).score(rows, "whole")
    assert numbers([yes, no]) == pytest.approx([0.8, 0.4], abs=1e-5)
    assert isinstance(yes, Score) and yes.reward == yes.correct
    assert unreadable == Abstain(reason="the judge says neither Yes nor No")
    assert empty == Score(correct=0.0, format_ok=False, reward=0.0)
    assert isinstance(long, Failed) and "83 + 4 tokens are more than" in long.reason


def test_a_judge_is_asked_in_the_wording_that_it_knows(judge: Policy, ctx: Context) -> None:
    rows = [completion("12", features="{}")]
    config = ScorerConfig(kind="judge", wording="terse")
    assert numbers(open_model(config, judge, ctx).score(rows, "whole")) == pytest.approx([0.7], abs=1e-5)


def test_the_engines_of_judge_and_policy_stay_side_by_side(judge: Policy, ctx: Context, tmp_path: Path) -> None:
    policy = Policy(scorers.judge(tmp_path / "policy"), "p" * 64)
    acting = engines.open_engine(EngineConfig(), policy, ctx)
    open_model(ASKS, judge, ctx)
    asked = ctx.resident.get(model_scorer.ENGINE, DIGEST)
    assert engines.open_engine(EngineConfig(), policy, ctx) is acting
    assert ctx.resident.get(model_scorer.ENGINE, DIGEST) is asked is not None


def test_a_judge_that_is_also_the_policy_does_not_learn(judge: Policy, ctx: Context) -> None:
    """The update changes the resident weights of the policy. The judge is read again from its folder."""
    before = open_model(ASKS, judge, ctx).score([completion("1")], "whole")
    learner: Any = take_model(judge, ctx)
    with torch.no_grad():
        learner.lm_head.weight.mul_(-1.0)
    assert open_model(ASKS, judge, ctx).score([completion("1")], "whole") == before


class Inputs:
    def __init__(self, reward_code: Code | None, scorer: Policy | None) -> None:
        self.reward_code, self.scorer = reward_code, scorer


def test_beside_functions_a_model_adds_to_the_reward(judge: Policy, ctx: Context, tmp_path: Path) -> None:
    code = brought(tmp_path / "code", "def reward(answer): return {'1': 1.0, '2': 0.0, '3': 1.0}.get(answer)")
    scorer = ScorerConfig(kind="judge", template="{prompt}{answer}", weight=0.5, max_new_tokens=4)
    config = VerifyConfig(functions=(FunctionConfig(entry="rew.py:reward"),), scorer=scorer, style="whole")
    opened = open_scorer(config, Inputs(code, judge), judge, ctx)
    rows = [completion(text) for text in ("1", "2", "3", "21")]
    right, wrong, silent, abstained = opened.score(rows)
    assert isinstance(right, Score) and (right.correct, right.reward) == (1.0, pytest.approx(1.4, abs=1e-5))
    assert isinstance(wrong, Score) and (wrong.correct, wrong.reward) == (0.0, pytest.approx(0.2, abs=1e-5))
    assert right.components == {"reward": 1.0, "judge": pytest.approx(0.8, abs=1e-5)}
    assert isinstance(silent, Score) and silent.reward == 1.0, "a judge without a verdict adds nothing"
    assert isinstance(abstained, Abstain)
    assert opened.name(rows[0].task) == f"rew.py:reward {code.digest} + judge {DIGEST}"
    alone = open_scorer(VerifyConfig(scorer=scorer, style="whole"), Inputs(None, judge), judge, ctx)
    (verdict,) = alone.score(rows[:1])
    assert isinstance(verdict, Score)
    assert (verdict.correct, verdict.reward) == (pytest.approx(0.8, abs=1e-5), pytest.approx(0.4, abs=1e-5))
    assert alone.name(rows[0].task) == f"judge {DIGEST}"


def test_a_generated_task_keeps_its_own_rule(judge: Policy, ctx: Context) -> None:
    asked: TaskRow = task(
        1,
        arm="judge-point",
        prompt="12=12?",
        verifier="label",
        reference='{"answer": "n", "labels": ["y", "n"], "chance": 0.5}',
        features='{"wording": "terse"}',
    )
    config = VerifyConfig(scorer=ASKS, style="whole")
    opened = open_scorer(config, Inputs(None, judge), judge, ctx)
    rows = [Completion(task=asked, text="n", token_ids=[]), completion("2")]
    ruled, judged = opened.score(rows)
    assert isinstance(ruled, Score) and ruled.correct == 1.0
    assert numbers([judged]) == pytest.approx([0.4], abs=1e-5)
    assert opened.name(asked).startswith("label/")


# --- folders


def test_what_a_folder_holds_is_read_from_it(judge: Policy, chatty: Policy, tmp_path: Path) -> None:
    assert read_scorer(judge.path, "--scorer") == ("judge", "text")
    assert read_scorer(chatty.path, "--scorer") == ("reward_model", "chat")
    (judge.path / "evil.py").write_text("raise SystemExit")
    copy_scorer(judge.path, tmp_path / "copy")
    (judge.path / "evil.py").unlink()
    names = {file.name for file in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names and "evil.py" not in names
    assert read_scorer(tmp_path / "copy", "--scorer") == ("judge", "text")


def two_labels(folder: Path) -> None:
    scorers.reward_model(folder, len(scorers.characters(folder)), num_labels=2)


def no_head(folder: Path) -> None:
    """The body of a language model under the name of a classifier."""
    scorers.judge(folder)
    record = json.loads((folder / "config.json").read_text())
    record |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(record))


def no_task(folder: Path) -> None:
    scorers.judge(folder)
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"architectures": ["LlamaModel"]}))


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    scorers.reward_model(folder, len(scorers.characters(folder)))
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    scorers.reward_model(folder, len(scorers.characters(folder)))
    (folder / "tokenizer.json").unlink()


def pickled(folder: Path) -> None:
    scorers.judge(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("plant", "error", "words"),
    [
        (two_labels, ArtifactError, "2 labels in LlamaForSequenceClassification"),
        (no_head, ArtifactError, r"none for 1, first score\.weight"),
        (no_task, ArtifactError, "found LlamaModel"),
        (not_finite, NumericsError, r"NaN or infinity in 1 tensors, first score\.weight"),
        (no_tokenizer, ArtifactError, r"a tokenizer\.json"),
        (pickled, ArtifactError, "weights as safetensors"),
    ],
)
def test_a_folder_that_cannot_score_is_refused(
    plant: Callable[[Path], None], error: type[InstarError], words: str, tmp_path: Path
) -> None:
    plant(tmp_path)
    with pytest.raises(error, match=words):
        read_scorer(tmp_path, "--scorer rm")


# --- configuration


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight": math.inf}, "scorer.weight"),
        ({"template": "Is {answer} right?"}, "with {prompt}"),
        ({"template": "Is it right: {prompt}"}, "with {answer} or {completion}"),
        ({"engine": EngineConfig(name="vllm")}, "scorer.engine.name"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ScorerConfig(kind="judge", **fields)
    assert words in str(refused.value)
