"""A model that scores answers. A reward model reads prompt and completion; a judge is asked whether the answer is right.

    open_model(config, policy, ctx).score([Completion(task, text, ...), ...], style)  ->  [Score | Abstain | Failed, ...]

The model stays in memory between stage calls, beside the policy and its engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from instar.components import policy_files
from instar.components.conversation import read as read_conversation
from instar.components.evaluate.asking import Asker, Reply
from instar.components.generated.item import question_of
from instar.components.generated.templates import STYLE, family_of, render
from instar.components.policy_io import aligned, cast_copy, read_language_model
from instar.components.reward.extract import extract
from instar.components.reward.labels import read_label
from instar.components.reward.scorer_config import PLACE, ScorerConfig
from instar.components.reward.verifiers import Abstain, Failed, Score, Verdict
from instar.components.rollout.engine import Engine
from instar.components.rollout.engines import open_engine
from instar.components.rollout.transformers_engine import precision
from instar.components.tokenizer import load_tokenizer
from instar.errors import ContractError
from instar.resident import Kind
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.artifact import Policy
    from instar.components.reward.scoring import Completion
    from instar.contract import Context

CLASSIFIER = "AutoModelForSequenceClassification"
ENGINE: Kind[tuple[str, Engine]] = Kind("reward/scorer_engine", newest=1)
"""The engine of a judge. It has a kind of its own, so that it does not take the place of the policy's engine."""
REWARD_MODEL: Kind[Any] = Kind("reward/reward_model", newest=1)


class ModelScorer(Protocol):
    """Scores completions with a model. Of a `Score`, `reward` is what the model says."""

    def score(self, completions: Sequence[Completion], style: str) -> list[Verdict]: ...


def open_model(config: ScorerConfig, policy: Policy, ctx: Context) -> ModelScorer:
    """Return the model in `policy`, ready to score."""
    return RewardModel(config, policy, ctx) if config.kind == "reward_model" else Judge(config, policy, ctx)


class RewardModel:
    """A classifier with one label. The label's logit is the reward."""

    def __init__(self, config: ScorerConfig, policy: Policy, ctx: Context) -> None:
        self._config, self._ctx = config, ctx
        self._tokenizer, self._limits = load_tokenizer(policy), Limits.of(policy.path)
        self._model: Any = ctx.resident.get(REWARD_MODEL, policy.digest)
        if self._model is None:
            ctx.resident.drop_all(REWARD_MODEL)
            self._model = _load_classifier(config, policy)
            ctx.resident.put(REWARD_MODEL, policy, self._model)

    def score(self, completions: Sequence[Completion], style: str) -> list[Verdict]:
        """Return the verdicts. Rows of about equal length share a forward pass."""
        rows: dict[int, list[int]] = {}
        verdicts: dict[int, Verdict] = {}
        for number, each in enumerate(completions):
            ids = self._ids(each)
            if isinstance(ids, Failed):
                verdicts[number] = ids
            else:
                rows[number] = ids
        order = sorted(rows, key=lambda number: (len(rows[number]), number))
        size = 1 if self._model.config.pad_token_id is None else self._config.engine.max_rows
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            for number, logit in zip(batch, self._logits([rows[n] for n in batch]), strict=True):
                verdicts[number] = _of_logit(logit, extract(completions[number].text, style) is not None)
            self._ctx.heartbeat(f"{start + len(batch)} rewards", {})
        return [verdicts[number] for number in range(len(completions))]

    def _ids(self, completion: Completion) -> list[int] | Failed:
        task = completion.task
        try:
            ids = self._tokenizer.encode_exchange(task.prompt, task.form, completion.text)
        except ContractError as error:
            return Failed(reason=f"the reward model cannot read the row: {error.found}")
        return self._limits.fault(ids) or ids

    def _logits(self, rows: Sequence[list[int]]) -> list[float]:
        longest, padding = max(map(len, rows)), self._model.config.pad_token_id or 0
        device = self._model.device
        ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits
        return [float(value) for value in logits[:, 0].double().cpu()]


class Judge:
    """A causal language model that is asked about every answer, and replies with its likeliest tokens."""

    def __init__(self, config: ScorerConfig, policy: Policy, ctx: Context) -> None:
        engine = open_engine(config.engine, policy, ctx, ENGINE)
        self._config, self._tokenizer, self._limits = config, load_tokenizer(policy), Limits.of(policy.path)
        self._asker = Asker(engine=engine, tokenizer=self._tokenizer, stop=config.stop, heartbeat=ctx.heartbeat)
        self._labels = family_of("words" if config.template else config.wording, "P1").labels

    def score(self, completions: Sequence[Completion], style: str) -> list[Verdict]:
        """Return the verdicts. An answer that cannot be read is wrong, without a question."""
        verdicts: dict[int, Verdict] = {}
        questions: dict[int, str] = {}
        for number, each in enumerate(completions):
            question = self._question(each.task, each.text, extract(each.text, style))
            if question is None:
                verdicts[number] = Score(correct=0.0, format_ok=False, reward=0.0)
            elif (unread := self._unread(question)) is not None:
                verdicts[number] = unread
            else:
                questions[number] = question
        prompts = [(question, self._config.form) for question in questions.values()]
        replies = self._asker.greedy(prompts, self._config.verdict_tokens, "verdicts")
        for number, reply in zip(questions, replies, strict=True):
            verdicts[number] = self._verdict(reply, extract(completions[number].text, style) is not None)
        return [verdicts[number] for number in range(len(completions))]

    def _question(self, task: TaskRow, completion: str, answer: str | None) -> str | None:
        """Return the question about an answer, or None for an answer that cannot be read."""
        config = self._config
        if answer is None and not (config.template and "{answer}" not in config.template):
            return None
        if config.template:
            parts = {"prompt": _prompt(task), "completion": completion, "answer": answer or ""}
            text = PLACE.sub(lambda match: parts[match.group(1)], config.template)
        else:
            text = render(config.wording, "P1", 0, question=_question(task, config.wording), answer=answer or "")
        return text.strip() if config.form == "chat" else text

    def _unread(self, question: str) -> Failed | None:
        try:
            ids = self._tokenizer.encode_prompt(question, self._config.form)
        except ContractError as error:
            return Failed(reason=f"the judge cannot read the question: {error.found}")
        return self._limits.fault(ids, self._config.verdict_tokens)

    def _verdict(self, reply: Reply, has_answer: bool) -> Verdict:
        style = STYLE[self._config.wording]
        if self._config.template:
            style = "boxed" if "\\boxed" in reply.text else "line"
        label = read_label(extract(reply.text, style) or "", self._labels)
        if label is None:
            return Abstain(reason=f"the judge says neither {' nor '.join(self._labels)}")
        probability = self._asker.probability(reply, style)
        if probability is None:
            return Failed(reason="the probability of the judge's verdict is no finite number")
        right = probability if label == self._labels[0] else 1.0 - probability
        return Score(correct=right, format_ok=has_answer, reward=right)


def load_classifier(policy: Policy) -> Any:
    """Return the reward model in a folder, on the CPU. Raises `ArtifactError` for what `policy_files` refuses."""
    where = f"scorer {policy.digest or policy.path}"
    return aligned(read_language_model(policy.path, where, local_files_only=True, head=CLASSIFIER))


def _load_classifier(config: ScorerConfig, policy: Policy) -> Any:
    model, wanted = load_classifier(policy), config.engine.device
    device = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    dtype = precision(config.engine.dtype, model.dtype, device)
    return model if (dtype, device) == (model.dtype, "cpu") else cast_copy(model, dtype, device).eval()


def _of_logit(logit: float, has_answer: bool) -> Verdict:
    if not math.isfinite(logit):
        return Failed(reason=f"the logit of the reward model is {logit}")
    share = 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
    return Score(correct=share, format_ok=has_answer, reward=logit)


@dataclass(frozen=True)
class Limits:
    """How long a row of the scorer may be, and how large its token ids. None sets no limit."""

    positions: int | None
    vocabulary: int | None

    @classmethod
    def of(cls, folder: Path) -> Limits:
        """Read the limits of a model from its folder."""
        record = policy_files.config(folder)
        return cls(record.get("max_position_embeddings", record.get("n_positions")), record.get("vocab_size"))

    def fault(self, ids: Sequence[int], more: int = 0) -> Failed | None:
        """Return why a row does not fit a model that adds `more` tokens, or None. One row must not stop the others."""
        if self.positions is not None and len(ids) + more > self.positions:
            return Failed(
                reason=f"{len(ids)} + {more} tokens are more than the {self.positions} positions of the scorer"
            )
        if not ids:
            return Failed(reason="a row without tokens")
        if self.vocabulary is not None and max(ids) >= self.vocabulary:
            return Failed(reason=f"token id {max(ids)} is outside of the scorer's vocabulary of {self.vocabulary}")
        return None


def _question(task: TaskRow, wording: str) -> str:
    """Return the bare question of a task. A task that does not keep it apart is asked about as a whole."""
    if task.form == "messages":
        return _prompt(task)
    try:
        return question_of(task, wording)
    except ContractError:
        return task.prompt


def _prompt(task: TaskRow) -> str:
    """Return the prompt of a task as text. Of a conversation these are its messages."""
    if task.form != "messages":
        return task.prompt
    messages = read_conversation(task.prompt).messages
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
