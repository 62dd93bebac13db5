"""A module that behaves as `vllm` 0.30 does where the engine touches it, on a real model on the CPU.

Names, defaults and refusals are vLLM's: an argument that it does not have is a `TypeError`, an empty batch a `ValueError`,
sampling while asleep a failure. Weights are stacked under vLLM's names. The tokens are sampled by a plain forward pass over
all of the row, without any cache but the one that a fault plants.

Weights arrive as in `vllm/v1/worker/gpu_model_runner.py:reload_weights`: from an iterator of names and tensors, which is
read lazily, else from a path, for which the load format must be one that reads files. A name that the model does not have
is an error there, one that does not come only a line in a log. Noise is drawn as in `vllm/v1/worker/gpu/sample/gumbel.py`:
from the seed of the request and the position, whatever the neighbours.

`faults` makes it wrong in the ways that a caller cannot see: see `FAULTS`.
"""

from __future__ import annotations

import os
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

FAULTS = (
    "count",  # one answer is lost
    "missing logprob",  # the last token has none
    "retokenised",  # ids encoded again from the text
    "not reloaded",  # new weights are accepted and not taken
    "one left out",  # a matrix of the new weights does not arrive; vLLM logs it
    "stale after wake",  # waking brings back the weights that were there when it first fell asleep
    "cache kept",  # keys and values of the old weights stay
    "nan",  # a logit is not a number
    "aborted",  # a request ends before it is finished
    "other prompt",  # the prompt is not the one that was sent
)
STACK: dict[str, str] = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


@dataclass
class SamplingParams:
    """The fields of vLLM's own that exist in 0.30; others are refused by the constructor."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01


@dataclass
class Logprob:
    """One log-probability of one position."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class LoRARequest:
    """An adapter by number; the number is all that tells two adapters apart."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")


@dataclass
class CompletionOutput:
    """One answer."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """One request with its answers."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass
class ModelConfig:
    """What a caller may read of the model."""

    max_model_len: int
    vocab_size: int

    def get_vocab_size(self) -> int:
        """Return the width of the logits."""
        return self.vocab_size


class Worker:
    """What `apply_model` hands to a function: the parameters under vLLM's stacked names."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """Return name and tensor of every parameter."""
        found: dict[str, list[Tensor]] = {}
        for name, value in dict[str, Tensor](self._model.named_parameters()).items():
            found.setdefault(".".join(STACK.get(part, part) for part in name.split(".")), []).append(value.detach())
        return [(name, torch.cat(values)) for name, values in found.items()]


@dataclass
class LLM:
    """The offline engine. Only arguments that the engine passes are here; vLLM has many more."""

    model: str
    dtype: str = "auto"
    seed: int = 0
    trust_remote_code: bool = False
    load_format: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    gpu_memory_utilization: float = 0.92
    enable_sleep_mode: bool = False
    enable_prefix_caching: bool | None = None
    logprobs_mode: str = "raw_logprobs"
    generation_config: str = "auto"
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_loras: int = 1
    faults: ClassVar[set[str]] = set()
    started: ClassVar[list[LLM]] = []
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from tokenizers import Tokenizer

        self._weights = self._read(self.model)
        self._tokenizer: Any = Tokenizer.from_file(str(Path(self.model) / "tokenizer.json"))
        self._asleep, self._host = False, None
        self.llm_engine = types.SimpleNamespace(
            vllm_config=types.SimpleNamespace(use_v2_model_runner=os.environ.get("VLLM_USE_V2_MODEL_RUNNER") != "0")
        )
        self._adapted: dict[int, Any] = {}
        config = self._weights.config
        longest = config.max_position_embeddings if self.max_model_len in (None, -1) else self.max_model_len
        self.model_config = ModelConfig(max_model_len=int(longest), vocab_size=int(config.vocab_size))
        LLM.started.append(self)

    def _read(self, folder: str) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        kind = getattr(torch, self.dtype)
        if self.load_format == "dummy":
            shape = AutoConfig.from_pretrained(folder, local_files_only=True)
            return AutoModelForCausalLM.from_config(shape, dtype=kind).eval()
        return AutoModelForCausalLM.from_pretrained(folder, dtype=kind, local_files_only=True).eval()

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Give the weights up; level 1 keeps a copy on the host."""
        del mode
        if not self.enable_sleep_mode:
            raise ValueError("Sleep mode is not enabled.")
        self.calls.append(f"sleep {level}")
        if "stale after wake" not in self.faults or self._host is None:
            self._host = (
                {name: value.clone() for name, value in self._weights.state_dict().items()} if level == 1 else None
            )
        for parameter in self._weights.parameters():
            parameter.data.zero_()
        self._asleep = True

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Bring the weights back."""
        self.calls.append("wake_up")
        assert tags is None
        if self._host is not None:
            self._weights.load_state_dict(self._host)
        self._asleep = False

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Call a method of every worker; there is one, in this process, and it knows two methods."""
        del timeout
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") != "0":
            raise TypeError("Object of type <class 'generator'> is not serializable")  # the worker is another process
        if method == "update_config":
            return [self._update(*args, **(kwargs or {}))]
        if method != "reload_weights" or args:
            raise NotImplementedError(f"Method {method!r} is not implemented.")
        if self._asleep:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")  # writes to memory that is gone
        return [self._reload(**(kwargs or {}))]

    def _update(self, overrides: dict[str, dict[str, Any]]) -> None:
        for name, changes in overrides.items():
            if name != "load_config":
                raise ValueError(f"Config override '{name}' is not supported.")
            self.load_format = changes.get("load_format", self.load_format)

    def _reload(
        self, weights_iterator: Any = None, weights_path: str | None = None, is_checkpoint_format: bool = True
    ) -> None:
        assert is_checkpoint_format
        self.calls.append("reload_weights from " + ("files" if weights_iterator is None else "memory"))
        if weights_iterator is None:
            if self.load_format == "dummy":
                raise NotImplementedError("Model reloading with `dummy` format")
            from safetensors.torch import load_file

            files = sorted(Path(weights_path or self.model).glob("*.safetensors"))
            weights_iterator = (pair for file in files for pair in load_file(file).items())
        self._take(weights_iterator)
        self._adapted = {}

    def _take(self, pairs: Any) -> None:
        own = dict[str, Tensor](self._weights.named_parameters())
        for name, value in pairs:
            if name not in own:
                raise ValueError(f"There is no module or parameter named {name!r}")
            left_out = "one left out" in self.faults and name.endswith("layers.1.mlp.down_proj.weight")
            if "not reloaded" not in self.faults and not left_out:
                own[name].data.copy_(value)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """Forget cached keys and values; False when blocks are still in use."""
        del reset_running_requests, reset_connector
        return "cache kept" not in self.faults

    def apply_model(self, func: Any) -> list[Any]:
        """Call `func` with the model of every worker."""
        return [func(Worker(self._weights))]

    def generate(
        self,
        prompts: list[dict[str, Any]],
        sampling_params: list[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:
        """Return one output a prompt, in their order."""
        del use_tqdm
        if not prompts:
            raise ValueError("Either prompts or prompt_embeds must be provided.")
        if len(prompts) != len(sampling_params):
            raise ValueError("The lengths of prompts and sampling_params must be the same.")
        if self._asleep:
            raise RuntimeError("the engine is asleep")
        if self.logprobs_mode != "processed_logprobs":
            raise AssertionError("log-probabilities would not be those of the distribution sampled from")
        model = self._weights if lora_request is None else self._with(lora_request)
        outputs = [self._one(i, p, s, model) for i, (p, s) in enumerate(zip(prompts, sampling_params, strict=True))]
        return outputs[:-1] if "count" in self.faults else outputs

    def _with(self, request: LoRARequest) -> Any:
        """Return the model with an adapter, which is read once per number."""
        import copy

        import peft

        if not self.enable_lora:
            raise ValueError(f"Got lora_request {request} but LoRA is not enabled!")
        if request.lora_int_id not in self._adapted:
            wrapped: Any = peft.PeftModel.from_pretrained(copy.deepcopy(self._weights), request.lora_path)
            if wrapped.peft_config["default"].r > self.max_lora_rank:
                raise ValueError("LoRA rank is greater than max_lora_rank")
            self._adapted[request.lora_int_id] = wrapped.merge_and_unload()
            self.calls.append("adapter")
        return self._adapted[request.lora_int_id]

    def _one(self, number: int, prompt: dict[str, Any], params: SamplingParams, model: Any) -> RequestOutput:
        if set(prompt) - {"prompt_token_ids", "prompt"}:
            raise TypeError(f"unknown keys in {sorted(prompt)}")
        ids: list[int] = list(prompt["prompt_token_ids"])
        answer, places, reason = [], [], "length"
        generator = torch.Generator().manual_seed(params.seed) if params.seed is not None else None
        stops = [params.stop] if isinstance(params.stop, str) else list(params.stop or [])
        text = ""
        for _ in range(params.max_tokens or 16):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids + answer]), use_cache=False).logits[0, -1].float()
            if "nan" in self.faults:
                logits = logits.clone()
                logits[3] = torch.nan
            token, logprob = self._draw(logits, params.temperature, generator)
            answer.append(token)
            places.append({token: Logprob(logprob, 1, None)})
            if token in (params.stop_token_ids or []) or (
                not params.ignore_eos and token == self._weights.config.eos_token_id
            ):
                reason = "stop"
                break
            text = self._tokenizer.decode(answer, skip_special_tokens=params.skip_special_tokens)
            if any(stop in text for stop in stops):
                reason = "stop"
                break
        return self._finish(number, ids, answer, places, reason, text)

    def _finish(
        self, number: int, ids: list[int], answer: list[int], places: list[Any], reason: str, text: str
    ) -> RequestOutput:
        if "retokenised" in self.faults:
            answer = list(self._tokenizer.encode(self._tokenizer.decode(answer, skip_special_tokens=True)).ids)
        if "missing logprob" in self.faults:
            places = places[:-1]
        if "aborted" in self.faults:
            reason = "abort"
        if "other prompt" in self.faults:
            ids = ids[:-1]
        done = CompletionOutput(0, text, answer, None, places, reason)
        return RequestOutput(str(number), None, ids, [done])

    @staticmethod
    def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[int, float]:
        """Gumbel's way, as vLLM draws: the token with the largest ratio of probability to exponential noise."""
        if temperature == 0:
            token = int(logits.argmax())
            return token, float(logits.log_softmax(-1)[token])
        logprobs = (logits / temperature).log_softmax(-1)
        noise = torch.empty_like(logprobs).exponential_(generator=generator)
        token = int((logprobs.exp() / noise).argmax())
        return token, float(logprobs[token])


def modules(*faults: str) -> dict[str, types.ModuleType]:
    """Return what to put into `sys.modules`; faults can be changed through `LLM.faults` of the first."""
    unknown = set(faults) - set(FAULTS)
    assert not unknown, unknown
    made: Any = types.ModuleType("vllm")

    class Fresh(LLM):
        pass

    Fresh.faults, LLM.started = set(faults), []
    made.LLM, made.SamplingParams, made.__version__ = Fresh, SamplingParams, "0.30.0"
    request: Any = types.ModuleType("vllm.lora.request")
    request.LoRARequest = LoRARequest
    return {"vllm": made, "vllm.lora": types.ModuleType("vllm.lora"), "vllm.lora.request": request}
