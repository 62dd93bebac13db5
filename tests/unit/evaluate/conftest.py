"""Held-out tasks with known answers, and a policy whose replies are a table: its true accuracy is known exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from instar.artifact import Policy, Tasks
from instar.components.rollout import engines
from instar.components.rollout.config import EngineConfig
from instar.components.rollout.engine import Request, Sample
from instar.contract import Context
from instar.rows import TaskRow

ALPHABET = "0123456789 ?:abcdefghijklmnopqrstuvwxyz!|"
EOS = len(ALPHABET)


class Scripted:
    """An engine that answers from `reply(prompt text, seed, temperature)`; an empty reply is a truncated one."""

    def __init__(self, digest: str, reply: Callable[[str, int, float], str]) -> None:
        self.digest, self.reply = digest, reply

    def sample(
        self, requests: Sequence[Request], *, max_new_tokens: int, temperature: float, stop: tuple[str, ...] = ()
    ) -> list[list[Sample]]:
        del stop
        out = []
        for request in requests:
            text = "".join(ALPHABET[i] for i in request.prompt_ids)
            replies = [self.reply(text, seed, temperature) for seed in request.seeds]
            ids = [[ALPHABET.index(c) for c in reply] + [EOS] * bool(reply) for reply in replies]
            assert all(len(i) <= max_new_tokens for i in ids)
            out.append([Sample(token_ids=i, logprobs=[0.0] * len(i), truncated=not i) for i in ids])
        return out


MakePolicy = Callable[..., Policy]


@pytest.fixture
def make_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePolicy:
    """Return a maker of policies by digest; each gets a real tokenizer file and a scripted engine."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    scripts: dict[str, Callable[[str, int, float], str]] = {}

    def open_scripted(config: EngineConfig, policy: Policy, ctx: Context) -> engines.Engine:
        del config, ctx
        return Scripted(policy.digest, scripts[policy.digest])

    monkeypatch.setitem(engines.ENGINES, "transformers", open_scripted)

    def build(digest: str, reply: Callable[[str, int, float], str]) -> Policy:
        folder = tmp_path / f"policy-{digest}"
        folder.mkdir()
        vocabulary = {c: i for i, c in enumerate(ALPHABET)} | {"<end>": EOS}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.decoder = decoders.Fuse()
        tokenizer.add_special_tokens(["<end>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps({"eos_token_id": EOS}))
        scripts[digest] = reply
        return Policy(folder, digest)

    return build


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    """Three splits of two arms with 30 tasks each; the answer to `<arm> <i>?` is `<i>`."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    made = Tasks(folder, "sha256:tasks")
    made.write(
        TaskRow(
            task_id=f"{arm}/{split}/{i}",
            arm=arm,
            domain="toy",
            level=float(level),
            split=split,
            prompt=f"{arm} {i}?",
            verifier="exact",
            reference=json.dumps({"answer": str(i)}),
            features="{}",
            content_hash=f"{arm}-{split}-{i:02d}".ljust(64, "0"),
            generator="toy/1",
            seed=i,
        )
        for split in ("train", "val", "id", "ood")
        for level, arm in enumerate(("easy", "hard"))
        for i in range(30)
    )
    return made


@pytest.fixture
def context(tmp_path: Path) -> Callable[[int], Context]:
    def build(step: int) -> Context:
        return Context(evolution="evo", step=step, stage="evaluate", scratch=tmp_path)

    return build
