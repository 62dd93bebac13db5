"""A user's reward functions: what they get by name, what their values mean, and what is a failed verdict."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from instar.components.reward.config import FunctionConfig, VerifyConfig
from instar.components.reward.functions import Attempt, Functions
from instar.components.reward.verifiers import Abstain, Failed, Score, Verdict
from instar.errors import ConfigError
from instar.resident import Resident
from support.brought import SHORT, brought


def attempt(text: str, answer: str | None = "", form: str = "text", **reference: Any) -> Attempt:
    """Return an attempt whose answer is its whole text, unless `answer` says otherwise."""
    return Attempt(
        answer=text if answer == "" else answer,
        completion=text,
        prompt="2+1=",
        reference={"answer": "3", **reference},
        task={"task_id": "t/0", "arm": "a", "domain": "sums", "level": 2.0, "form": form},
        rollout={"rollout_id": "g/0", "truncated": False, "completion_ids": [7] * len(text)},
    )


def functions(tmp_path: Path, text: str, *entries: FunctionConfig | str) -> Functions:
    configs = [
        e if isinstance(e, FunctionConfig) else FunctionConfig(entry=f"rew.py:{e}") for e in entries or ["reward"]
    ]
    return Functions(configs, brought(tmp_path / "code", text), SHORT, Resident())


def score(tmp_path: Path, text: str, attempts: Sequence[Attempt], *entries: FunctionConfig | str) -> list[Verdict]:
    return functions(tmp_path, text, *entries).score(attempts)


def right(value: float = 1.0, name: str = "reward", **more: float) -> Score:
    return Score(correct=value, format_ok=True, reward=value, components={name: value, **more})


def test_parameters_are_matched_by_name(tmp_path: Path) -> None:
    text = """
def reward(answer, completion, reference, prompt, task, rollout, images, topic, missing=7):
    assert (answer, completion, prompt, topic, missing) == ("3", "so 3", "2+1=", "sums", 7)
    assert reference == {"answer": "3", "topic": "sums"} and task["level"] == 2.0 and rollout["rollout_id"] == "g/0"
    assert [type(image) for image in images] == [bytes] and images[0] == b"\\x89PNG"
    return True
"""
    one = attempt("so 3", "3", topic="sums")
    one = Attempt(**{**{f: getattr(one, f) for f in one.__dataclass_fields__}, "images": (b"\x89PNG",)})
    assert score(tmp_path, text, [one]) == [right()]


def test_an_answer_that_was_not_found_is_an_empty_text_and_badly_formatted(tmp_path: Path) -> None:
    (verdict,) = score(tmp_path, "def reward(answer): return answer.strip() == '3'", [attempt("none", None)])
    assert verdict == Score(correct=0.0, format_ok=False, reward=0.0, components={"reward": 0.0})


def test_the_place_of_a_value_in_its_range_says_how_right_the_answer_is(tmp_path: Path) -> None:
    ranged = FunctionConfig(entry="rew.py:reward", low=-20.0, high=0.0)
    near, far, beyond = score(
        tmp_path, "def reward(completion): return -len(completion)", [attempt("x" * n) for n in (0, 15, 21)], ranged
    )
    assert isinstance(near, Score) and (near.correct, near.reward) == (1.0, 0.0)
    assert isinstance(far, Score) and (far.correct, far.reward) == (0.25, -15.0)
    assert isinstance(beyond, Failed) and "-21 is outside of [-20, 0]" in beyond.reason


def test_the_reward_is_the_weighted_sum_and_the_first_function_says_what_is_right(tmp_path: Path) -> None:
    text = """
def reward(answer, reference): return answer == reference["answer"]
def style(completion): return -float(len(completion))
def bonus(answer): return {"correct": 0.25, "reward": 4, "bold": 1} if answer == "3" else None
"""
    entries = [
        "reward",
        FunctionConfig(entry="rew.py:style", weight=0.5),
        FunctionConfig(entry="rew.py:bonus", name="b"),
    ]
    verdicts = score(tmp_path, text, [attempt("3"), attempt("44")], *entries)
    assert verdicts == [
        Score(
            correct=1.0,
            format_ok=True,
            reward=4.5,
            components={"reward": 1.0, "style": -1.0, "b": 4.0, "b.correct": 0.25, "b.reward": 4.0, "b.bold": 1.0},
        ),
        Score(correct=0.0, format_ok=True, reward=-1.0, components={"reward": 0.0, "style": -2.0}),
    ]


VALUES = {
    "True": right(1.0),
    "0.5": right(0.5),
    "1": right(1.0),
    "2.5": "reward: 2.5 is outside of [0, 1]; name its range: rew.py:reward[LOW,HIGH]",
    "-1": "reward: -1 is outside of [0, 1]; name its range: rew.py:reward[LOW,HIGH]",
    "__import__('fractions').Fraction(1, 4)": right(0.25),
    "__import__('decimal').Decimal('0.25')": right(0.25),
    "__import__('numpy').float32(0.25)": right(0.25),
    "__import__('numpy').bool_(True)": right(1.0),
    "__import__('numpy').array(0.25)": right(0.25),
    "None": Abstain(reason="reward returned None"),
    "{'correct': 1, 'reward': 0.5, 'steps': 3}": right(0.5, steps=3.0),
    "float('nan')": "reward: the value is nan",
    "float('inf')": "reward: the value is inf",
    "10**400": "reward: the value is inf",
    "'1.0'": "reward: the value is a str, not a number",
    "[1.0]": "reward: the value is a list, not a number",
    "{'score': 1.0}": "reward: a dict without `correct`, with score",
    "{'correct': 1.5}": "reward: correct is 1.5, which is not in [0, 1]",
    "{'correct': 1, 'reward': float('nan')}": "reward: the reward is nan",
    "{'correct': 1, 'part': float('nan')}": "reward: part is nan",
    "1j": "reward: a value that cannot be written as JSON",
    "1 / 0": "reward: ZeroDivisionError: division by zero",
}


def test_what_a_value_means(tmp_path: Path) -> None:
    """One bundle for all values, because a process is started for each bundle."""
    text = f"VALUES = [{', '.join(f'lambda: {value}' for value in VALUES)}]\ndef reward(row): return VALUES[row]()\n"
    verdicts = score(tmp_path, text, [attempt("3", row=row) for row in range(len(VALUES))])
    for (value, expected), verdict in zip(VALUES.items(), verdicts, strict=True):
        if isinstance(expected, str):
            assert isinstance(verdict, Failed) and verdict.reason.startswith(expected), (value, verdict)
        elif isinstance(expected, Score) and isinstance(verdict, Score) and "{" in value:
            assert (verdict.correct, verdict.reward, verdict.components["reward.steps"]) == (1.0, 0.5, 3.0)
        else:
            assert verdict == expected, value


def test_a_score_of_this_package_is_taken_as_it_is(tmp_path: Path) -> None:
    text = """
from instar.components.reward.verifiers import Abstain, Failed, Score
BEST = Score(correct=1.0, format_ok=True, components={"speed": 0.5})
def reward(answer): return {"3": BEST, "?": Abstain(reason="no"), "!": Failed(reason="dead")}[answer]
"""
    verdicts = score(tmp_path, text, [attempt("3"), attempt("?"), attempt("!")])
    assert isinstance(verdicts[0], Score) and verdicts[0].reward == 1.0
    assert verdicts[0].components["reward.speed"] == 0.5
    assert verdicts[1:] == [Abstain(reason="reward returned None"), Failed(reason="reward: dead")]


def test_one_failed_part_fails_the_row_and_the_first_traceback_is_kept(tmp_path: Path) -> None:
    text = "def reward(answer): return True\n\ndef strict(answer):\n    assert answer == '3'\n    return 1\n"
    good, *bad = score(tmp_path, text, [attempt("3"), attempt("4"), attempt("5")], "reward", "strict")
    assert isinstance(good, Score) and all(isinstance(verdict, Failed) for verdict in bad)
    first, second = (verdict.reason for verdict in bad if isinstance(verdict, Failed))
    assert first.startswith("strict: AssertionError") and 'File "rew.py", line 4, in strict' in first
    assert second == "strict: AssertionError: "


def test_a_parameter_that_nothing_can_fill_is_an_error_before_a_row_is_scored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"anwser.*rew.py:reward.*did you mean 'answer'"):
        score(tmp_path, "def reward(anwser): return 1", [attempt("3")])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def reward(:", "SyntaxError"),
        ("other = 1", "has no attribute 'reward'"),
        ("reward = 3", "cannot be called"),
        ("class reward: pass", "a class"),
        ("import os; os._exit(0)", "ended itself with code 0, while rew.py was imported"),
    ],
)
def test_a_function_that_cannot_be_used_is_an_error_with_its_reason(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        functions(tmp_path, text)


def test_two_functions_of_one_name_need_names() -> None:
    with pytest.raises(ConfigError, match="different names"):
        VerifyConfig(functions=(FunctionConfig(entry="a.py:reward"), FunctionConfig(entry="b.py:reward")))
    with pytest.raises(ConfigError, match=r"FILE\.py:NAME"):
        FunctionConfig(entry="rew:reward")


def test_async_functions_run_at_once(tmp_path: Path) -> None:
    text = """
import asyncio
ARRIVED = []
async def reward(answer):
    ARRIVED.append(answer)
    while len(ARRIVED) < 40:
        await asyncio.sleep(0.001)
    if answer == "1":
        raise ValueError("one")
    return answer == "3"
"""
    verdicts = score(tmp_path, text, [attempt(str(n % 4)) for n in range(40)])
    assert [isinstance(v, Failed) for v in verdicts] == [n % 4 == 1 for n in range(40)]
    assert [v.correct for v in verdicts if isinstance(v, Score)] == [0.0, 0.0, 1.0] * 10


def test_order_of_rows_and_neighbours_do_not_matter(tmp_path: Path) -> None:
    text = "import random, numpy\ndef reward(answer): return (random.random() + numpy.random.random() + hash(answer) % 7) / 9\n"
    attempts = [attempt(str(n)) for n in range(20)]
    verdicts = score(tmp_path, text, attempts)
    assert len({v.correct for v in verdicts if isinstance(v, Score)}) == 20
    assert score(tmp_path / "again", text, attempts[::-1])[::-1] == verdicts
    assert score(tmp_path / "alone", text, attempts[7:8]) == verdicts[7:8]


FOREIGN = {
    "trl": """
def reward(completions, answer, **kwargs):
    return [float(c == a) for c, a in zip(completions, answer)]
""",
    "trl, prompts": """
def reward(prompts, completions, **kwargs):
    return [float(p + c == "2+1=3") for p, c in zip(prompts, completions)]
""",
    "trl, async": """
async def reward(completions, **kwargs):
    return [float(c == "3") for c in completions]
""",
    "trl, ids": """
def reward(completion_ids, answer, **kwargs):
    return [float(i == [7] and a == "3") for i, a in zip(completion_ids, answer)]
""",
    "verl": """
def reward(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    assert data_source == "sums" and extra_info is None
    return float(solution_str == ground_truth)
""",
    "verl, dict": """
def reward(data_source, solution_str, ground_truth, extra_info=None):
    right = solution_str == ground_truth
    return {"score": float(right), "acc": right, "pred": solution_str}
""",
    "verl, batch": """
def reward(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [float(s == g) for s, g in zip(solution_strs, ground_truths)]
""",
    "easyr1": """
def reward(reward_inputs, format_weight=0.5):
    assert all(row["response_length"] == len(row["response"]) for row in reward_inputs)
    right = [float(row["response"] == row["ground_truth"]) for row in reward_inputs]
    return [{"overall": share, "format": 1.0, "accuracy": share} for share in right]
""",
    "easyr1, one": """
def reward(reward_input):
    right = float(reward_input["response"] == reward_input["ground_truth"])
    return {"overall": right, "accuracy": right}
""",
    "easyr1, older": """
def reward(predict_str, ground_truth):
    right = float(predict_str == ground_truth)
    return {"overall": right, "accuracy": right}
""",
    "training_hub": """
def reward(model_response, expected, **kwargs):
    assert model_response.message.content == model_response
    return float(model_response.content == expected)
""",
    "training_hub, task": """
def reward(response_text, task):
    return float(response_text == task["answer"] and task["question"] == "2+1=")
""",
}


@pytest.mark.parametrize("form", FOREIGN)
def test_functions_in_the_forms_of_other_libraries(tmp_path: Path, form: str) -> None:
    first, second = score(tmp_path, FOREIGN[form], [attempt("3"), attempt("44")])
    assert isinstance(first, Score) and (first.correct, first.reward) == (1.0, 1.0), first
    assert isinstance(second, Score) and second.correct in (0.0, None) and second.reward in (0.0, -1.0), second


def test_a_tool_call_is_read_for_training_hub(tmp_path: Path) -> None:
    text = """
import json
def reward(model_response, expected_name, expected_args):
    call = model_response.tool_calls[0].function if model_response.tool_calls else None
    return float(call is not None and call.name == expected_name and json.loads(call.arguments) == expected_args)
"""
    columns = {"target_tool_name": "add", "target_arguments": {"a": 1}}
    called = attempt('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', **columns)
    verdicts = score(tmp_path, text, [called, attempt("<tool_call>{", **columns)])
    assert [v.correct for v in verdicts if isinstance(v, Score)] == [1.0, 0.0]


def test_easyr1_and_verl_rewards_outside_of_0_and_1_have_no_false_share(tmp_path: Path) -> None:
    text = "def reward(reward_inputs): return [{'overall': -1.5, 'accuracy': -1.0} for _ in reward_inputs]"
    (verdict,) = score(tmp_path, text, [attempt("3")])
    assert isinstance(verdict, Failed) and "-1.5 is outside of [0, 1]" in verdict.reason


def test_a_batch_that_fails_is_scored_row_by_row(tmp_path: Path) -> None:
    text = "def reward(completions, **kwargs): return [1 / len(c) for c in completions]"
    verdicts = score(tmp_path, text, [attempt("1"), attempt("", "x"), attempt("22")])
    assert [type(v) for v in verdicts] == [Score, Failed, Score]


@pytest.mark.parametrize("text", ["[1.0]", "1.0", "None", "[1.0] * (len(completions) + 1)"])
def test_a_batch_of_another_length_is_never_spread_over_the_rows(tmp_path: Path, text: str) -> None:
    verdicts = score(tmp_path, f"def reward(completions, **kwargs): return {text}", [attempt("1"), attempt("2")])
    assert all(isinstance(v, Failed) and "for 2 completions" in v.reason for v in verdicts)


class Handle:
    """A policy for tests."""

    digest = "d" * 64

    def logprobs(self, prompt: str, completion: str, *, form: str = "text") -> list[float]:
        return [-float(len(prompt)), -float(len(form))] if completion == "3" else [math.nan]

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 128, temperature: float = 1.0, form: str = "text"
    ) -> list[str]:
        return [f"{prompt}{max_new_tokens}{form}" for prompt in prompts]


def test_a_function_that_asks_the_policy(tmp_path: Path) -> None:
    text = """
def reward(prompt, completion, policy):
    assert policy.digest == "d" * 64
    assert policy.generate(["a", "b"], max_new_tokens=3) == ["a3chat", "b3chat"]
    try:
        policy.logprobs(1, 2, 3, 4)
    except RuntimeError as error:
        assert "TypeError" in str(error)
    return sum(policy.logprobs(prompt, completion))
"""
    asked = functions(tmp_path, text, FunctionConfig(entry="rew.py:reward", low=-100.0, high=0.0))
    assert asked.needs_policy and asked.scorer(Handle()) == f"rew.py:reward digest-of-code policy {'d' * 64}"
    good, bad = asked.score([attempt("3", form="chat"), attempt("4", form="chat")], Handle())
    assert isinstance(good, Score) and good.reward == -8.0
    assert bad == Failed(reason="reward: the value is nan")
    with pytest.raises(ConfigError, match="a reward function asks for it"):
        asked.score([attempt("3")])


def test_functions_that_trl_ships(tmp_path: Path) -> None:
    """The contract with TRL: its own reward functions run unchanged, and give what they give there."""
    rewards = pytest.importorskip("trl.rewards")
    text = inspect.getsource(rewards.think_format_reward)
    overlong = inspect.getsource(inspect.getmodule(rewards.get_soft_overlong_punishment))  # type: ignore[arg-type]
    folder = brought(
        tmp_path / "code",
        f"import re\n{text}\nfrom overlong import get_soft_overlong_punishment\nlong = get_soft_overlong_punishment(4, 2)\n",
        overlong_py=overlong,
    )
    texts = ["<think>a</think>b", "b", "<think>"]
    configs = [FunctionConfig(entry="rew.py:think_format_reward"), FunctionConfig(entry="rew.py:long", weight=2.0)]
    verdicts = Functions(configs, folder, SHORT, Resident()).score([attempt(t, form="chat") for t in texts])
    chats = [[{"role": "assistant", "content": t}] for t in texts]
    shaped = rewards.get_soft_overlong_punishment(4, 2)(completion_ids=[[7] * len(t) for t in texts])
    expected = [a + 2 * b for a, b in zip(rewards.think_format_reward(chats), shaped, strict=True)]
    assert [v.reward for v in verdicts if isinstance(v, Score)] == expected
