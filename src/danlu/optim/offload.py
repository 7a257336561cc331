"""Optimiser state kept in the CPU's memory."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from danlu.optim.base import loss_of


class Offloaded(Optimizer):
    """Any optimiser, its state at `home` between steps; a step fetches one weight's state at a time.

    The device then never holds more than the largest weight's state: 8 bytes a weight less with AdamW. In the manner of
    ZeRO-Offload (Ren et al. 2021), but the arithmetic stays on the device, so that every optimiser works and its
    numbers stay the same. Cost: the state crosses the bus twice a step (16 bytes a weight for AdamW).
    """

    def __init__(self, inner: Optimizer, home: torch.device | str = "cpu") -> None:
        self._inner, self._home = inner, torch.device(home)
        super().__init__(inner.param_groups, {})

    def __getattr__(self, name: str) -> Any:
        if name in ("train", "eval"):  # schedule_free's own
            return getattr(self._inner, name)
        raise AttributeError(name)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of each weight by itself; what a group keeps is the same for all of them."""
        loss = loss_of(closure)
        self._inner.state = self.state
        for group in self.param_groups:
            before = _without_members(group)
            for weight, name in zip(group["params"], group["names"], strict=True):
                if weight.grad is None:
                    continue
                alone = {**before, "params": [weight], "names": [name]}
                self._inner.param_groups = [alone]
                self.state[weight] = self._moved(weight, group, weight.device)
                self._inner.step()
                self.state[weight] = self._moved(weight, group, self._home)
                group.update(_without_members(alone))
        self._inner.param_groups = self.param_groups
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch brings a loaded state to its weight's device; it goes home."""
        self._inner.load_state_dict(state_dict)
        self.param_groups, self.state = self._inner.param_groups, self._inner.state
        for group in self.param_groups:
            for weight in group["params"]:
                if weight in self.state:
                    self.state[weight] = self._moved(weight, group, self._home)

    def _moved(self, weight: Tensor, group: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """A weight's state there; a step count stays on the CPU unless the kernel reads it on the device."""
        counts_there = group.get("fused") or group.get("capturable")
        return {
            key: value.to(device) if isinstance(value, Tensor) and (key != "step" or counts_there) else value
            for key, value in self.state[weight].items()
        }


def _without_members(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "names")}
