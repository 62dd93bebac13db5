"""A running vLLM engine: how it is started, given weights, put to sleep and woken. It serves one policy after another.

A new policy replaces the weights in place, and the cached keys of the old policy are dropped. If the policy is a model in this
process, its tensors are handed over without writing or reading a file. Otherwise the policy's files are read. A sleeping server
leaves the memory of the device to the update.

Each of these steps can fail silently. So the weights inside the engine are compared twice: after loading with the policy's weights,
and after waking with the weights from before the sleep (row 5 of the list of silent failures).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from instar.artifact import Policy
from instar.components.policy_io import MODEL, VERSIONS
from instar.components.rollout import vllm_weights
from instar.contract import Context
from instar.errors import EngineError, MissingDependencyError

if TYPE_CHECKING:
    from instar.components.rollout.config import EngineConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(kw_only=True)
class Server:
    """A running `vllm.LLM`: what it was started for, which policy it serves, and whether it sleeps.

    `base` is the policy whose weights are inside. `adapter` is what is served on top of them; None means `base` itself.
    """

    llm: Any
    key: str
    dtype: str
    batch_invariant: bool = False
    digest: str = ""
    base: str = ""
    adapter: Any = None
    sums: vllm_weights.Sums | None = None
    asleep: bool = False
    adapters: int = 0

    def load(self, source: Path | nn.Module, digest: str, inside: bool = False) -> None:
        """Put the weights of a folder or a model into the engine, unless they are `inside` already. Check that they arrived."""
        dtype = _DTYPES[self.dtype]
        if not inside:
            self.wake()
            self.digest = ""  # nothing is served while the weights are partly old and partly new
            files = isinstance(source, Path)
            origin = (
                {"weights_path": str(source)} if files else {"weights_iterator": vllm_weights.stream(source, dtype)}
            )
            self.llm.collective_rpc("reload_weights", kwargs=origin)
            if not self.llm.reset_prefix_cache():
                raise refuse(
                    "an empty prefix cache", "keys and values of the old weights", "end running requests first"
                )
        sums = self._sums()
        vllm_weights.compare(sums, vllm_weights.of(source, dtype), digest)
        self.sums, self.adapter, self.base, self.digest = sums, None, digest, digest

    def adapt(self, folder: Path, digest: str) -> None:
        """Serve the adapter in `folder` on top of the weights that are inside.

        vLLM tells adapters apart by number, and cached keys by name. So every policy gets its own number and its own name.
        """
        self.wake()
        self.digest, self.adapters = "", self.adapters + 1
        if self._sums() != self.sums:
            raise refuse(
                f"the weights of policy {self.base} below the adapter", "other weights", "open the engine again"
            )
        request = importlib.import_module("vllm.lora.request").LoRARequest
        self.adapter = request(lora_name=digest, lora_int_id=self.adapters, lora_path=str(folder))
        self.digest = digest

    def wake(self) -> None:
        """Bring weights and cache back. Raises `EngineError` when the weights differ from those before the sleep."""
        if not self.asleep:
            return
        self.llm.wake_up()
        self.asleep = False
        if self._sums() != self.sums:
            digest, self.digest = self.digest, ""
            raise refuse(f"the weights of policy {digest} after waking", "other weights", "open the engine again")

    def sleep(self) -> None:
        """Release the memory of the device. Weights go to host memory, and cached keys and values are dropped."""
        if not self.asleep:
            self.llm.sleep(level=1)
            self.asleep = True

    def stop(self) -> None:
        """End the engine and return its memory to the device."""
        shutdown = getattr(getattr(getattr(self.llm, "llm_engine", None), "engine_core", None), "shutdown", None)
        if shutdown is not None:
            shutdown()
        self.llm, self.digest, self.sums = None, "", None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def seeds_in_kernel(self) -> bool:
        """Whether one kernel draws for all rows, each with its own seed. vLLM's model runner V2 does; V1 draws row by row."""
        return bool(self.llm.llm_engine.vllm_config.use_v2_model_runner)

    def _sums(self) -> vllm_weights.Sums:
        sums: vllm_weights.Sums = self.llm.apply_model(vllm_weights.of_engine)[0]
        return sums


def start(folder: Path, config: EngineConfig, dtype: str) -> Any:
    """Return a `vllm.LLM` with the weights of `folder`. The generation settings of the folder are not read.

    Without weights in the folder it starts with random ones. They are replaced before it serves.
    """
    choose_modes(config)
    complete = stored(folder)
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise MissingDependencyError(
            expected="vllm", found=str(error), where="rollout.engine.name=vllm", action="pip install 'instar[vllm]'"
        ) from error
    try:
        llm = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            seed=0,
            trust_remote_code=False,
            max_model_len=-1,
            load_format="safetensors" if complete else "dummy",
            max_num_seqs=config.max_rows,
            gpu_memory_utilization=config.memory_share,
            enable_sleep_mode=True,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            **({"enable_lora": True, "max_lora_rank": config.lora_rank, "max_loras": 1} if config.lora_rank else {}),
        )
    except (ValueError, RuntimeError, AssertionError) as error:
        action = "raise or lower rollout.engine.memory_share, or use rollout.engine.name=transformers"
        raise refuse("a vLLM engine on this device", str(error).splitlines()[0][:300], action) from error
    if not complete:  # later policies may come from files
        llm.collective_rpc("update_config", args=({"load_config": {"load_format": "safetensors"}},))
    return llm


def choose_modes(config: EngineConfig) -> None:
    """Set the environment variables that vLLM reads at its import. Raise `EngineError` where one has another value already.

    The engine must run in this process, because weights and functions are handed to it as objects.
    """
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_BATCH_INVARIANT": str(int(config.batch_invariant))}
    for name, value in wanted.items():
        imported = "0" if name == "VLLM_BATCH_INVARIANT" and "vllm" in sys.modules else value
        present = os.environ.get(name, imported)
        if present != value:
            how = f"unset {name}" if value == "0" else "set it before this process starts"
            raise refuse(
                f"{name}={value}, which rollout.engine asks for",
                present,
                f"{how}: all engines of a process share one mode",
            )
        os.environ[name] = value


def server_key(policy: Policy, config: EngineConfig, dtype: str) -> str:
    """Return what a running server depends on: architecture, tokenizer, precision and sizes. It serves policies of equal key."""
    other = {"dtype", "torch_dtype", "_name_or_path", *VERSIONS}  # these may differ between policies of one server
    shape = {k: v for k, v in policy.read_json("config.json").items() if k not in other}
    sizes = [dtype, config.max_rows, config.memory_share, config.lora_rank, config.batch_invariant]
    return json.dumps([shape, (policy.path / "tokenizer.json").read_text(), sizes], sort_keys=True)


def stored_dtype(policy: Policy, config: EngineConfig, ctx: Context) -> str:
    """Return the precision to serve in. vLLM's own `auto` would turn float32 into float16."""
    if config.dtype != "auto":
        return config.dtype
    model = ctx.resident.get(MODEL, policy.digest)
    shape = policy.read_json("config.json")
    named = str(model.dtype if model is not None else shape.get("dtype") or shape.get("torch_dtype") or "float32")
    return named.removeprefix("torch.")


def adapter_base(policy: Policy, config: EngineConfig) -> str:
    """Return the digest of the policy that `policy` adds an adapter to. An empty text means that it is loaded whole.

    An update writes the adapter beside the merged weights, and `adapter/base.json` names the base.
    """
    named = policy.path / "adapter" / "base.json"
    return str(json.loads(named.read_text())["digest"]) if config.lora_rank and named.is_file() else ""


def stored(folder: Path) -> bool:
    """Whether a policy's folder holds weights."""
    return any(folder.glob("*.safetensors"))


def weights(policy: Policy, ctx: Context) -> Path | nn.Module:
    """Return the model of `policy` where this process holds it, otherwise the folder with its files.

    Some policies are only in memory, and their folder holds a fingerprint. Raises `ArtifactError` when the model of such a
    policy is not in memory, and `EngineError` when its weights have another fingerprint.
    """
    from instar.components.policy_io import RESIDENT, fingerprint, load_model

    if not (policy.path / RESIDENT).is_file():
        held: nn.Module | None = ctx.resident.get(MODEL, policy.digest)
        return policy.path if held is None else held
    named = policy.read_json(RESIDENT)["fingerprint"]
    model: Any = load_model(policy, ctx)
    if (actual := fingerprint(model)) != named:
        raise refuse(f"weights {named} of policy {policy.digest} in memory", actual, "run the segment again")
    return cast(nn.Module, model)


def refuse(expected: str, found: str, action: str) -> EngineError:
    """Return the error for what the engine does not serve."""
    return EngineError(expected=expected, found=found, where="rollout engine vllm", action=action)
