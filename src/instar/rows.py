"""The row types of the tables that travel between stages, one frozen dataclass per table.

Each column is annotated with a `Column`, which holds its documentation and its constraints. A constraint is written only
here. `instar.schema` derives an Arrow schema, a fast check, a Great Expectations suite and a documentation table from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from instar.schema import Column

SPLITS = ("train", "val", "id", "ood", "probe", "anchor")
"""Pools of tasks. The policy learns from `train`, the gate chooses on `val`, and reports use `id` and `ood`.

`probe` asks for returns below and above those in the data. `anchor` asks for verdicts on given answers, to measure a judge.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRow:
    """One task. It is a prompt with what a verifier needs, a slice of an episode to learn from, or a condition to act under.

    For example, a prompt may be a countdown puzzle, and a condition may be the return that the policy is to reach.
    """

    task_id: Annotated[str, Column("stable name, `<arm>/<split>/<index>`", unique=True, min_length=1)]
    arm: Annotated[str, Column("curriculum arm the task belongs to", min_length=1)]
    domain: Annotated[str, Column("task family, for example `countdown`", min_length=1)]
    level: Annotated[float, Column("difficulty inside the domain, larger is harder", finite=True)]
    split: Annotated[str, Column("which pool", one_of=SPLITS)]
    prompt: Annotated[str, Column("text the policy sees", min_length=1)]
    verifier: Annotated[str, Column("name of the verifier that scores answers", min_length=1)]
    reference: Annotated[str, Column("JSON specification handed to the verifier", min_length=1)]
    features: Annotated[str, Column("JSON object of task features; in control the segment or the condition itself")]
    content_hash: Annotated[
        str, Column("SHA-256 of prompt and reference; train and test never share one", min_length=64)
    ]
    generator: Annotated[str, Column("generator name and version that made the task", min_length=1)]
    seed: Annotated[int, Column("seed of this item", ge=0)]
    form: Annotated[
        str,
        Column(
            "`chat`: the policy's chat template goes around the prompt, once; `messages`: the prompt is a conversation in JSON",
            one_of=("text", "chat", "messages"),
        ),
    ] = "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRow:
    """One prompt slot of a curriculum draw."""

    slot: Annotated[int, Column("position in the batch", ge=0, unique=True)]
    task_id: Annotated[str, Column("drawn task", min_length=1)]
    arm: Annotated[str, Column("drawn arm", min_length=1)]
    probability: Annotated[float, Column("probability of the arm when it was drawn", ge=0.0, le=1.0, finite=True)]
    group_id: Annotated[str, Column("name shared by all rollouts of this slot", unique=True, min_length=1)]
    group_size: Annotated[int, Column("rollouts to sample for this slot", ge=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A span of `token_ids`. The policy was given `prompt` and `observation` tokens; it sampled `action` tokens."""

    role: Annotated[str, Column("who wrote the span", one_of=("prompt", "action", "observation"))]
    start: Annotated[int, Column("first token", ge=0)]
    end: Annotated[int, Column("one past the last token", ge=0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutRow:
    """One trajectory, sampled or logged.

    A trajectory of text is stored as token ids; text is only a view of them. A trajectory of kind `continuous` is stored in
    the four flat columns at the end, one step after the other. These columns are empty in all other kinds.
    """

    rollout_id: Annotated[str, Column("`<group_id>/<sample>`", unique=True, min_length=1)]
    task_id: Annotated[str, Column("task that was attempted; of a logged window, its episode", min_length=1)]
    arm: Annotated[str, Column("arm of the task", min_length=1)]
    kind: Annotated[str, Column("trajectory kind", one_of=("text", "continuous", "browser", "desktop"))]
    group_id: Annotated[str, Column("samples of one prompt share it", min_length=1)]
    policy: Annotated[
        str, Column("fingerprint of the weights that acted; of a logged row, the name of who acted", min_length=1)
    ]
    token_ids: Annotated[list[int], Column("prompt, action and observation tokens in order")]
    behaviour_logprobs: Annotated[list[float], Column("log-probability of every action token when it was sampled")]
    steps: Annotated[list[Step], Column("spans of `token_ids`, in order, without gaps")]
    truncated: Annotated[bool, Column("the length limit cut the last action, or a time-out ended the episode")]
    seed: Annotated[int, Column("seed of this sample", ge=0)]
    offset: Annotated[int, Column("first step of the row within its episode", ge=0)] = 0
    observations: Annotated[list[float], Column("observations, T x S, row by row")] = field(default_factory=list)
    actions: Annotated[list[float], Column("actions, T x A, row by row")] = field(default_factory=list)
    rewards: Annotated[list[float], Column("rewards, T")] = field(default_factory=list)
    returns_to_go: Annotated[list[float], Column("sums of this and all later rewards, T")] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """The verdict on one rollout. A verifier that failed leaves `correct` and `reward` empty; it never writes 0."""

    rollout_id: Annotated[str, Column("rollout that was scored", unique=True, min_length=1)]
    correct: Annotated[
        float | None,
        Column(
            "1 right, 0 wrong, empty unless scored and where nothing is right or wrong", ge=0.0, le=1.0, finite=True
        ),
    ]
    format_ok: Annotated[float | None, Column("1 when an answer could be extracted", ge=0.0, le=1.0, finite=True)]
    reward: Annotated[float | None, Column("training reward or scaled return-to-go, empty unless scored", finite=True)]
    components: Annotated[dict[str, float], Column("named parts of the reward")]
    status: Annotated[str, Column("outcome of scoring", one_of=("scored", "abstained", "failed"))]
    reason: Annotated[str, Column("why scoring abstained or failed, empty when scored")]
    scorer: Annotated[str, Column("name and version, or digest, of what scored", min_length=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmStatsRow:
    """Statistics of one update for one arm. They are taken before the zero-variance filter unless the name says otherwise.

    Each update says which columns it provides. A sum that it does not provide is empty, never 0.
    """

    arm: Annotated[str, Column("arm", unique=True, min_length=1)]
    num_prompts: Annotated[int, Column("groups drawn from the arm", ge=0)]
    num_rollouts: Annotated[int, Column("valid rollouts", ge=0)]
    num_invalid: Annotated[int, Column("rollouts without a score", ge=0)]
    sum_correct: Annotated[float | None, Column("sum of `correct`", ge=0.0, finite=True)]
    sum_reward: Annotated[float, Column("sum of `reward`", finite=True)]
    sum_abs_advantage: Annotated[
        float | None, Column("sum over rollouts of |A|, A as trained (reward)", ge=0.0, finite=True)
    ]
    sum_abs_advantage_correct: Annotated[
        float | None, Column("the same with A computed from `correct` alone, std-scaled", ge=0.0, finite=True)
    ]
    sum_abs_centred: Annotated[
        float | None, Column("sum of |reward - group mean|, no std division", ge=0.0, finite=True)
    ]
    sum_abs_centred_correct: Annotated[float | None, Column("sum of |correct - group mean|", ge=0.0, finite=True)]
    num_zero_variance: Annotated[int, Column("groups whose rewards are all equal", ge=0)]
    num_all_right: Annotated[int, Column("groups with every sample correct", ge=0)]
    num_all_wrong: Annotated[int, Column("groups with no sample correct", ge=0)]
    num_kept: Annotated[int, Column("groups that reached the optimiser after the filter", ge=0)]
    num_truncated: Annotated[int, Column("rollouts cut by the length limit", ge=0)]
    sum_tokens: Annotated[int, Column("action tokens, or steps", ge=0)]
    sum_loss: Annotated[float | None, Column("sum of the loss per rollout before the update", finite=True)] = None
    sum_loss_change: Annotated[
        float | None, Column("sum of the fall of that loss over the update, on the same rollouts", finite=True)
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRow:
    """One evaluation attempt. `sample` is -1 for the greedy answer, -2 for the answer after reflection, 0, 1, ... for samples."""

    task_id: Annotated[str, Column("evaluated task", min_length=1)]
    arm: Annotated[str, Column("arm of the task", min_length=1)]
    split: Annotated[str, Column("which pool", one_of=SPLITS)]
    sample: Annotated[int, Column("-1 greedy, -2 after reflection, otherwise sample number", ge=-2)]
    score: Annotated[
        float | None,
        Column(
            "1 right, 0 wrong; of an episode 0 as a random policy, 1 as the expert; empty without a verdict",
            finite=True,
        ),
    ]
    length: Annotated[int, Column("action tokens, or steps of the episode", ge=0)]
    truncated: Annotated[bool, Column("the length limit cut the answer, or a time-out ended the episode")]
    answer: Annotated[str, Column("decoded action, or what became of the episode: a view for people")]
