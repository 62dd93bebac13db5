"""AdamW with a learning-rate schedule. Its state can be saved and loaded without changing a bit."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from instar.components.update.rate import Schedule, lr_factor
from instar.errors import LedgerError, NumericsError

MOMENTS = ("exp_avg", "exp_avg_sq")


class Settings(Schedule, Protocol):
    """The settings that the optimiser reads. Every configuration with these fields will do."""

    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def adam_eps(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...


class Optimizer:
    """AdamW over named parameters.

    A name that begins with `critic.` uses `critic_lr`, if the configuration has one. `decayed` names the parameters with weight
    decay; None means all matrices, so neither norms nor biases. If a state will be loaded, `fresh` is false: no moments are
    allocated, and `load` must come before the first step.
    """

    def __init__(
        self,
        config: Settings,
        parameters: Iterable[tuple[str, nn.Parameter]],
        decayed: Collection[str] | None = None,
        fresh: bool = True,
    ) -> None:
        self.config, self.named, self.steps = config, dict(parameters), 0
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in self.named.items():
            decays = p.ndim >= 2 if decayed is None else name in decayed
            groups.setdefault((name.startswith("critic."), decays), []).append(p)
        critic_lr: float = getattr(config, "critic_lr", config.lr)
        self._rates = [critic_lr if critic else config.lr for critic, _ in groups]
        decay = [config.weight_decay if decays else 0.0 for _, decays in groups]
        self._adam = torch.optim.AdamW(
            [{"params": ps, "weight_decay": rate} for ps, rate in zip(groups.values(), decay, strict=True)],
            lr=config.lr,
            betas=config.betas,
            eps=config.adam_eps,
            fused=True,
        )
        for p in self.named.values() if fresh else ():
            self._start(p, {m: torch.zeros_like(p, memory_format=torch.preserve_format) for m in MOMENTS}, 0)

    def _start(self, p: nn.Parameter, moments: dict[str, Tensor], steps: int) -> None:
        step = torch.full((), float(steps), dtype=torch.float32, device=p.device)
        self._adam.state[p] = {"step": step, **moments}

    def lr(self) -> float:
        """Return the learning rate that the next step uses for the policy."""
        return self.config.lr * lr_factor(self.config, self.steps)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._adam.zero_grad(set_to_none=True)

    def step(self) -> float:
        """Clip the gradient to `max_grad_norm`, take a step, and return the norm before clipping.

        A gradient that is not finite is a `NumericsError`. It is raised before any weight changes.
        """
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if not bool(torch.isfinite(norm)):
            raise NumericsError(
                expected="a finite gradient",
                found=f"norm {float(norm)}",
                where=f"update.optimizer step {self.steps}",
                action="look at the saved batch; lower the learning rate or raise the precision",
            )
        torch.nn.utils.clip_grads_with_norm_(list(self.named.values()), self.config.max_grad_norm, norm)
        factor = lr_factor(self.config, self.steps)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = factor * rate
        self._adam.step()
        self.steps += 1
        return float(norm)

    def tensors(self) -> dict[str, Tensor]:
        """Return the moments as `<moment>/<parameter>`."""
        return {f"{m}/{name}": self._adam.state[p][m] for name, p in self.named.items() for m in MOMENTS}

    def adam_steps(self) -> dict[str, int]:
        """Return how many steps each parameter took. A step leaves out a parameter without a gradient."""
        return {name: int(self._adam.state[p]["step"]) for name, p in self.named.items()}

    def load(self, steps: int, adam_steps: dict[str, int], tensors: dict[str, Tensor], adopt: bool = False) -> None:
        """Restore a state. If names or shapes are not those of this model, raise `LedgerError`.

        With `adopt` the tensors are used as they are. Otherwise they are copied: a tensor that is mapped from a file begins at
        an odd address, and there the same step may round differently.
        """
        expected = {f"{m}/{name}": list(p.shape) for name, p in self.named.items() for m in MOMENTS}
        shapes = {key: list(value.shape) for key, value in tensors.items()}
        if expected != shapes or set(adam_steps) != set(self.named):
            odd = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
            raise LedgerError(
                expected=f"moments of {len(self.named)} parameters",
                found=f"differences at {odd[:3]}" if odd else "other parameters",
                where="trainer:optimizer.safetensors",
                action="resume with the model, adapters and critic that wrote it",
            )
        self.steps = steps
        for name, p in self.named.items():
            moments = {m: tensors[f"{m}/{name}"].to(p.device) for m in MOMENTS}
            if not adopt:
                moments = {m: torch.empty_like(p).copy_(value) for m, value in moments.items()}
            self._start(p, moments, adam_steps[name])
