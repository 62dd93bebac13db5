"""The engine that samples with vLLM on a GPU: one `vllm.LLM` in this process, which takes the policy's weights from memory.

Prompts go in as token ids, and actions come out as token ids. vLLM decodes text to look for stop strings, and nobody else reads
that text. Each sample is a request of its own with its own seed. The prefix cache reads the prompt of a group once.
Log-probabilities are vLLM's `processed_logprobs`: those of the distribution that is sampled from, and at temperature 0 those at
temperature 1.

docs/gpu.md says what a seed promises and what it costs. This code was checked against vLLM 0.30 (torch 2.13). The engine of that
version runs in this process when VLLM_ENABLE_V1_MULTIPROCESSING is 0.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from instar.artifact import Policy
from instar.components.rollout import vllm_server
from instar.components.rollout.engine import Request, Sample
from instar.components.rollout.stops import holds
from instar.components.rollout.vllm_server import Server, refuse
from instar.contract import Context
from instar.errors import NumericsError
from instar.resident import Kind

if TYPE_CHECKING:
    from instar.components.rollout.config import EngineConfig
    from instar.components.tokenizer import TextTokenizer

SERVER: Kind[Server] = Kind("rollout/vllm")
"""The one server of this process. It belongs to no policy: an update drops what is held for the old policy, but not the server."""
_COOLEST, _HOTTEST = 0.01, 2.0  # vLLM raises lower temperatures to the first number, and refuses those above the second


class VllmEngine:
    """Samples from the policy that the server holds."""

    def __init__(self, server: Server, policy: Policy, tokenizer: TextTokenizer) -> None:
        self._server, self._policy, self._tokenizer = server, policy, tokenizer
        self._longest = int(server.llm.model_config.max_model_len)
        self.vocab_size = int(server.llm.model_config.get_vocab_size())

    @classmethod
    def open(cls, config: EngineConfig, policy: Policy, ctx: Context) -> VllmEngine:
        """Start the server, or give it the weights of `policy`."""
        from instar.components.tokenizer import load_tokenizer

        if config.device == "cpu":
            raise refuse("a CUDA device", "rollout.engine.device=cpu", "use rollout.engine.name=transformers")
        dtype = vllm_server.stored_dtype(policy, config, ctx)
        key = vllm_server.server_key(policy, config, dtype)
        server = ctx.resident.get(SERVER)
        if server is not None and server.key != key:
            ctx.resident.drop_all(SERVER)
            server.stop()  # before another engine takes its share of the device
            server = None
        if server is None or server.digest != policy.digest:
            base = vllm_server.adapter_base(policy, config)
            if server is not None and base and server.base == base:
                server.adapt(policy.path / "adapter", policy.digest)
            else:
                server = _loaded(server, key, dtype, config, policy, ctx)
                ctx.resident.put(SERVER, None, server)
        if not server.seeds_in_kernel():
            ctx.heartbeat("vLLM's model runner V1 draws row by row where samples have seeds: expect slow sampling", {})
        return cls(server, policy, load_tokenizer(policy))

    @property
    def digest(self) -> str:
        """Digest of the policy whose weights the server holds and was checked for; empty while it holds none."""
        return self._server.digest

    def facts(self) -> dict[str, float]:
        """Return the modes of the engine that decide rounding, for the ledger."""
        invariant = self._server.batch_invariant
        return {"seeds_in_kernel": float(self._server.seeds_in_kernel()), "batch_invariant": float(invariant)}

    def rest(self) -> None:
        """Sleep until the next sample."""
        self._server.sleep()

    def sample(
        self, requests: Sequence[Request], *, max_new_tokens: int, temperature: float, stop: tuple[str, ...] = ()
    ) -> list[list[Sample]]:
        """Return the samples of each request. Raises `EngineError` for what it cannot serve, `NumericsError` for NaN."""
        if self.digest != self._policy.digest:
            raise refuse(
                f"policy {self._policy.digest}", f"policy {self.digest or 'of unknown weights'}", "open it again"
            )
        self._check(requests, max_new_tokens, temperature)
        flat = [(request, seed) for request in requests for seed in request.seeds]
        if not flat:
            return [[] for _ in requests]
        self._server.wake()
        make = importlib.import_module("vllm").SamplingParams
        common: dict[str, Any] = {
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "logprobs": 0,
            "ignore_eos": True,
            "stop_token_ids": sorted(self._tokenizer.eos_ids),
            "stop": list(stop),
            "include_stop_str_in_output": bool(stop),
            "detokenize": bool(stop),
            "skip_special_tokens": True,
        }
        outputs = self._server.llm.generate(
            [{"prompt_token_ids": list(request.prompt_ids)} for request, _ in flat],
            [make(seed=seed, **common) for _, seed in flat],
            use_tqdm=False,
            lora_request=self._server.adapter,
        )
        if len(outputs) != len(flat):
            raise refuse(f"{len(flat)} answers", str(len(outputs)), "report this error with the version of vLLM")
        samples = iter([self._read(out, request, stop) for out, (request, _) in zip(outputs, flat, strict=True)])
        return [[next(samples) for _ in request.seeds] for request in requests]

    def _check(self, requests: Sequence[Request], max_new_tokens: int, temperature: float) -> None:
        if temperature != 0 and not _COOLEST <= temperature <= _HOTTEST:
            allowed = f"temperature 0 or {_COOLEST} to {_HOTTEST}"
            raise refuse(allowed, str(temperature), "choose a temperature that vLLM does not change silently")
        for request in requests:
            ids = request.prompt_ids
            if not ids or min(ids) < 0 or max(ids) >= self.vocab_size or len(ids) + max_new_tokens > self._longest:
                raise refuse(
                    f"1 to {self._longest - max_new_tokens} prompt ids, each in 0..{self.vocab_size - 1}",
                    f"{len(ids)} ids, {f'{min(ids)} to {max(ids)}' if ids else 'none'}, in request {request.request_id}",
                    "encode the prompt with the tokenizer of this policy, or shorten it",
                )

    def _read(self, out: Any, request: Request, stop: tuple[str, ...]) -> Sample:
        """Return the sample of one finished request. It is cut after the token that completes its first stop string."""
        if len(out.outputs) != 1 or list(out.prompt_token_ids) != list(request.prompt_ids):
            raise refuse(
                f"one answer to the prompt of request {request.request_id}",
                f"{len(out.outputs)} answers to {list(out.prompt_token_ids)[:8]}...",
                "report this error with the version of vLLM: it changed a prompt",
            )
        answer = out.outputs[0]
        ids, places, reason = list(map(int, answer.token_ids)), list(answer.logprobs or ()), answer.finish_reason
        chosen = [place.get(token) for token, place in zip(ids, places, strict=False)]
        if reason not in ("stop", "length") or not ids or len(places) != len(ids) or None in chosen:
            raise refuse(
                "sampled ids with one log-probability each, ended by a stop or by the length limit",
                f"{len(ids)} ids, {sum(c is not None for c in chosen)} of them with a log-probability, ended by {reason}",
                "take the ids that were sampled, never ids encoded from text",
            )
        logprobs = [float(place.logprob) for place in chosen if place is not None]
        if not all(map(math.isfinite, logprobs)):
            raise NumericsError(
                expected="finite log-probabilities",
                found="NaN or infinity",
                where="rollout engine vllm",
                action="check whether the last update diverged",
            )
        end = self._first_stop(ids, stop)
        ended = end < len(ids) or ids[-1] in self._tokenizer.eos_ids or holds(self._tokenizer.decode(ids), stop)
        return Sample(token_ids=ids[:end], logprobs=logprobs[:end], truncated=not ended)

    def _first_stop(self, ids: list[int], stop: tuple[str, ...]) -> int:
        """Return how many tokens there are up to the one after which the text first contains a stop string.

        vLLM searches the text while it grows, and may see a stop string a token later than a decoding of all tokens does.
        """
        if not stop or not holds(self._tokenizer.decode(ids[:-1]), stop):
            return len(ids)
        return next(n for n in range(1, len(ids)) if holds(self._tokenizer.decode(ids[:n]), stop))


def _loaded(server: Server | None, key: str, dtype: str, config: EngineConfig, policy: Policy, ctx: Context) -> Server:
    """Return the server with the whole weights of `policy` inside. It is started where there is none."""
    source, inside = vllm_server.weights(policy, ctx), False
    if server is None:
        inside = vllm_server.stored(policy.path)
        llm = vllm_server.start(policy.path, config, dtype)
        server = Server(llm=llm, key=key, dtype=dtype, batch_invariant=config.batch_invariant)
    server.load(source, policy.digest, inside)
    return server
