"""AdamW whose two averages take a quarter or half of their memory."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from danlu.core.seeds import generator_of
from danlu.dist.local import local
from danlu.maths.compact import from_codes, to_bf16_by_chance, to_codes
from danlu.optim.base import Group, loss_of

SMALLEST = 4096
"""entries below which a weight keeps whole averages: they are little, and norms are sensitive (Dettmers et al. 2022)"""


class CompactAdamW(Optimizer):
    """AdamW (see `kinds/adamw.py`), computed in fp32, its averages kept in bf16 or in blocks of 8-bit codes.

    8 bits: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", equations 2 to 4, 2.03 bytes a weight
    instead of 8; embeddings and heads keep whole averages, as they advise (section 2.3). bf16: 4 bytes; the second
    average is rounded by chance, since it changes by less than bf16 can hold, and the draws follow from the step.
    Cost: a step takes a few passes more. The weights stay in fp32.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        states: Literal["bf16", "8bit"],
    ) -> None:
        self._states = states
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every weight that has a gradient."""
        loss = loss_of(closure)
        for group in self.param_groups:
            for weight, name in zip(group["params"], group["names"], strict=True):
                if weight.grad is not None:
                    self._update(weight, group, name)
        return loss

    def _update(self, weight: Tensor, group: Group, name: str) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            self._start(state, weight, group)
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        grad, w = local(weight.grad).float(), local(weight)
        mean = _read(state, "mean", w.shape).lerp_(grad, 1 - beta1)
        square = _read(state, "square", w.shape).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        w.mul_(1 - group["lr"] * group["weight_decay"])
        size = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        w.addcdiv_(mean, size, value=-group["lr"] / (1 - beta1**step))
        _write(state, "mean", mean, None)
        _write(state, "square", square, generator_of("bf16 states", name, step, device=w.device))

    def _start(self, state: dict[str, Tensor], weight: Tensor, group: Group) -> None:
        state["step"] = torch.zeros(())
        coded = self._states == "8bit" and group["role"] != "edge"
        for name in ("mean", "square"):
            if coded and weight.numel() >= SMALLEST:
                state[f"{name}_codes"], state[f"{name}_largest"] = to_codes(torch.zeros_like(weight), signed=True)
            else:
                state[name] = torch.zeros_like(weight, dtype=self._dtype(weight))

    def _dtype(self, weight: Tensor) -> torch.dtype:
        return torch.bfloat16 if self._states == "bf16" and weight.numel() >= SMALLEST else torch.float32

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch casts a loaded state to its weight's fp32; here it becomes again what it was, which loses nothing."""
        super().load_state_dict(state_dict)
        for weight, state in self.state.items():
            for name, value in state.items():
                if name in ("mean", "square"):
                    state[name] = value.to(self._dtype(weight))
                elif name.endswith("_codes"):
                    state[name] = value.to(torch.uint8)


def _read(state: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name in state:
        return local(state[name]).float()  # the kept tensor itself where it is whole
    return from_codes(state[f"{name}_codes"], state[f"{name}_largest"], shape, signed=name == "mean")


def _write(state: dict[str, Tensor], name: str, value: Tensor, chance: torch.Generator | None) -> None:
    if name not in state:
        state[f"{name}_codes"], state[f"{name}_largest"] = to_codes(value, signed=name == "mean")
    elif state[name].dtype == torch.bfloat16:
        local(state[name]).copy_(value if chance is None else to_bf16_by_chance(value, chance))
