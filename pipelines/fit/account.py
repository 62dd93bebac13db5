"""The plan of a recipe on a device: every part of memory in both phases, and the seconds of every part of a step.

The two phases, sampling and training, share the device. While the policy samples, the trainer's tensors rest there: the float32
weights, the published copy, the reference and, unless they go to the host, the moments. While it trains, vLLM sleeps and keeps its
graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from instar.components.rollout import footprint as sampling
from instar.components.rollout.config import EngineConfig
from instar.components.update import footprint as training
from instar.components.update.config import PolicyGradientConfig
from instar.pipelines.fit import seconds
from instar.pipelines.fit.choice import Choice
from instar.pipelines.fit.devices import Device
from instar.pipelines.fit.work import Work

Parts = dict[str, float]
"""Bytes, or seconds, by the name of a part."""
WORDS = {"float32": 4, "bfloat16": 2, "auto": 2}


@dataclass(frozen=True, kw_only=True)
class Account:
    """One inner step of a recipe, on a device and with a choice of settings."""

    work: Work
    device: Device
    choice: Choice
    word: int
    """Bytes of one number in the sampler, for example 2 for bfloat16."""

    @property
    def update(self) -> PolicyGradientConfig:
        """Return the update's settings."""
        return self.work.text.update

    @property
    def processes(self) -> int:
        """Return how many devices share the update. `auto` counts as one."""
        return self.update.processes if isinstance(self.update.processes, int) else 1

    @cached_property
    def rollout(self) -> Parts:
        """Bytes while sampling."""
        model, rows, parts = self.work.model, self.choice.max_rows, Parts()
        asked = self.work.sampling(rows)
        if self.choice.engine == "vllm":
            needs = sampling.vllm(model, asked, self.word)
            parts["policy in vLLM"] = needs.weights_bytes
        else:
            needs = sampling.transformers(model, asked, 2, self.word, self.word if self.device.cuda else 4)
            parts |= {"policy as loaded": needs.model_bytes, "policy laid out for decoding": needs.weights_bytes}
        parts[f"keys and values, {asked.rows} rows x {asked.columns} columns"] = needs.cache_bytes
        parts["reading prompts"] = needs.prefill_bytes
        parts["logits and notes"] = needs.logits_bytes + needs.notes_bytes
        parts["engine's workspace"] = needs.fixed_bytes
        return parts | self.resting | {"context and fragments": self.device.workspace}

    @cached_property
    def resting(self) -> Parts:
        """Bytes of the trainer that stay on the device while the policy samples."""
        trained, count = self.trained, self._parameters
        parts = Parts()
        if self.update.dtype == "bfloat16" and self.update.lora is None:
            parts["trained weights, resting"] = count * training.master_bytes(self.update)
        if self.device.cuda:
            parts["published copy, resting"] = count * training.COMPUTE[self.update.dtype]
        if trained.reference_bytes:
            parts["reference, resting"] = count * training.COMPUTE[self.update.dtype]
        if self.choice.moments == "device" or not self.device.cuda:
            parts["moments, resting"] = self._split["moments"]
        return parts

    @property
    def _parameters(self) -> float:
        return self.work.model.parameters / self.processes

    @cached_property
    def trained(self) -> training.Plan:
        """Return the footprint of the update on one device, for the longest pass that can occur."""
        work, model = self.work, self.work.model
        sizes = (model.hidden, model.layers, model.intermediate, model.vocab)
        shape: dict[str, int] = dict(zip(training.SIZES, sizes, strict=True))
        positions = max(work.longest, self.choice.micro_batch_tokens)
        masked = 0 if self.update.packing == "none" else max(training.ROW_WIDTH, work.longest)
        passes = training.Passes(
            positions=positions, masked_width=masked, tokens=work.samples * work.new, count=self.batch.passes
        )
        return training.plan(
            shape,
            model.parameters,
            self.update,
            passes,
            self.update.kl.place != "none",
            self.choice.checkpointing,
            "cuda" if self.device.cuda else "cpu",
        )

    @cached_property
    def _split(self) -> Parts:
        """Return the bytes in one process: its share of the trained parts, and what it gathers from the other processes."""
        trained, word, n = self.trained, training.master_bytes(self.update), self.processes
        compute = training.COMPUTE[self.update.dtype]
        masters = self.work.model.parameters * word
        gathered = self._gathered * (2 * compute + word) if n > 1 else 0
        return {
            "masters": masters / n,
            "copy": trained.weights_bytes - masters if n == 1 else gathered,
            "gradients": trained.trained_bytes / 3 / n,
            "moments": trained.trained_bytes * 2 / 3 / n,
            "reference": trained.reference_bytes / n
            + (self._gathered * compute if n > 1 and trained.reference_bytes else 0),
        }

    @property
    def _gathered(self) -> int:
        """Parameters that a process holds whole at one time: embedding, head and two layers."""
        model = self.work.model
        return model.head_parameters * (1 if model.tied else 2) + 2 * model.layer_parameters

    @cached_property
    def training(self) -> Parts:
        """Bytes while training."""
        trained, split = self.trained, self._split
        names = {
            "masters": "trained weights",
            "gradients": "gradients",
            "moments": "moments",
            "reference": "reference",
            "copy": "copy that computes" if self.processes == 1 else "layers gathered from the others",
        }
        tokens = max(self.work.longest, self.choice.micro_batch_tokens)
        how = "checkpointed" if self.choice.checkpointing else "all kept"
        parts = {names[key]: value for key, value in split.items() if value}
        parts |= {
            f"activations of {tokens} tokens, {how}": trained.activation_bytes + trained.heap_bytes,
            "logits tile and head's gradient": trained.logits_bytes,
            "batch and mask": trained.batch_bytes,
        }
        if self.choice.engine == "vllm":
            parts["vLLM asleep"] = sampling.VLLM_GRAPHS
        return parts | {"context and fragments": self.device.workspace or training.FIXED_BYTES}

    @property
    def peaks(self) -> dict[str, float]:
        """Bytes of each of the two phases."""
        return {"sampling": sum(self.rollout.values()), "training": sum(self.training.values())}

    @property
    def fits(self) -> bool:
        """Whether both phases fit on the device."""
        return max(self.peaks.values()) <= self.device.usable

    @cached_property
    def batch(self) -> seconds.Batch:
        """Return what an update computes."""
        return seconds.batch_of(self.work, self.update, self.choice.micro_batch_tokens)

    @cached_property
    def step_seconds(self) -> Parts:
        """Seconds of each part of an inner step."""
        work, model, device = self.work, self.work.model, self.device
        asked = seconds.Answers(
            samples=work.samples,
            groups=work.groups,
            prompt=work.mean_prompt,
            mean=work.mean,
            longest=work.new,
            rows=self.choice.max_rows,
        )
        share = self.trained.trained_bytes / (3 * training.master_bytes(self.update)) / model.parameters
        parts = {
            "read prompts": seconds.read_s(model, device, asked),
            "decode": seconds.decode_s(model, device, asked, self.word),
            "update, passes": seconds.update_s(model, device, self.batch, self.update, self.choice.checkpointing)
            / self.processes,
            "update, optimiser": seconds.optimizer_s(model, device, self.update, self.batch.steps, share),
            "weights to the sampler": self._weights_s,
        }
        if device.cuda:
            away = self.choice.moments == "host"
            parts["moments to the host and back"] = away * 2 * self._split["moments"] / device.rates.link
        return parts

    @property
    def step_s(self) -> float:
        """Seconds of an inner step."""
        return sum(self.step_seconds.values())

    @property
    def _weights_s(self) -> float:
        """Seconds of copying the weights. vLLM also moves its own weights to the host and back when it sleeps."""
        size, rates = self.work.model.parameters * self.word, self.device.rates
        return 2 * size / rates.copy + (2 * size / rates.link if self.choice.engine == "vllm" else 0.0)

    @property
    def evaluation_s(self) -> float:
        """Seconds of the evaluation after an iteration."""
        work, config = self.work, self.work.text.evaluate
        per_task = max(1, config.samples + config.greedy)
        asked = seconds.Answers(
            samples=work.evaluated,
            groups=math.ceil(work.evaluated / per_task),
            prompt=work.mean_prompt,
            mean=config.max_new_tokens / 2,
            longest=config.max_new_tokens,
            rows=self.choice.max_rows,
        )
        decoded = seconds.decode_s(work.model, self.device, asked, self.word)
        return decoded + seconds.read_s(work.model, self.device, asked)

    @property
    def iteration_s(self) -> float:
        """Seconds of all inner steps of an iteration and its evaluation."""
        return self.work.recipe.inner_steps * self.step_s + self.evaluation_s


def word_of(engine: EngineConfig, on_cuda: bool) -> int:
    """Return the bytes of one number in the sampler. A CPU without bfloat16 computes in float32."""
    if engine.dtype == "bfloat16" and not on_cuda:
        from instar.components.rollout.packed_linear import has_bfloat16

        return 2 if has_bfloat16() else 4
    return WORDS[engine.dtype]
