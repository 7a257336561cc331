"""Guard: decides on the device, step by step, whether a gradient is used, without waiting for the device."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from danlu.control.controllers.skip_step import SkipSteps
from danlu.maths.outliers import Levels, robust_z, taken_in


class StepGuard:
    """Judges the loss and the gradient's norm of each step; both are the same on every process, so all judge alike.

    A step is skipped when one of them is no number, or when both kinds of evidence speak against it (see
    `control/controllers/skip_step`). Outliers are let through after `most_in_row`: then it is the run that has changed.
    `apply` False only watches.
    """

    def __init__(self, rules: SkipSteps, device: torch.device, *, apply: bool, overflow_is_usual: bool) -> None:
        self.rules, self.apply, self._overflow_is_usual = rules, apply, overflow_is_usual
        self.levels = Levels.new(2, device)
        self.in_row = torch.zeros((), device=device)
        self._flags: list[tuple[int, Tensor]] = []

    @torch.no_grad()
    def judge(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """True where the step is to be taken; a boolean on the device. `step` is the one that is being made."""
        rules = self.rules
        now_K = torch.stack([loss.detach().float().reshape(()), norm.detach().float().reshape(())])
        finite = now_K.isfinite().all()
        z_K, jump_K = robust_z(now_K, self.levels)
        alone = jump_K[1] > rules.alone
        both = (z_K[0] > rules.z) & (jump_K.amin() > rules.together)
        ready = (self.levels.count >= rules.at_least) & (self.in_row < rules.most_in_row)
        good = finite & ~((z_K[1] > rules.z) & (alone | both) & ready)
        self.levels = taken_in(now_K, self.levels, good)
        self.in_row = torch.where(good, 0.0, self.in_row + 1)
        take = good | ~finite if self._overflow_is_usual else good
        self._flags.append((step, take))
        return take if self.apply else torch.ones_like(take)

    def skipped(self) -> list[int]:
        """The steps skipped since it was asked last: one wait for the device."""
        flags, self._flags = self._flags, []
        taken = torch.stack([flag for _, flag in flags]).tolist() if flags else []
        return [step for (step, _), was_taken in zip(flags, taken, strict=True) if not was_taken]

    @property
    def stuck(self) -> bool:
        """Whether nothing but skipped steps has been seen for `most_in_row` steps; known without waiting on CPUs."""
        return self.in_row.device.type == "cpu" and bool(self.in_row >= self.rules.most_in_row)

    def state_dict(self) -> dict[str, Any]:
        return {
            "levels": {f.name: getattr(self.levels, f.name) for f in dataclasses.fields(Levels)},
            "row": self.in_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.in_row.device
        self.levels = Levels(**{name: torch.as_tensor(value).to(device) for name, value in state["levels"].items()})
        self.in_row = torch.as_tensor(state["row"]).to(device)
        self._flags = []


@contextlib.contextmanager
def only_if(take: Tensor, optimizer: Optimizer, *, fused: bool = True) -> Iterator[None]:
    """The optimiser's step within it changes weights and state only where `take` is true, without waiting for it.

    Fused Adam knows how to leave a step out (`fused` False: a GradScaler tells it so already). Fused SGD does too, but
    begins with a momentum that was never set (torch 2.13), so it is treated as all others: the old values are kept
    aside (one copy of weights and state) and chosen afterwards. Counters that an optimiser keeps in Python go on. On a
    CPU, where there is nothing to wait for, callers ask `take` themselves.
    """
    if fused and isinstance(optimizer, torch.optim.Adam) and getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = None, (~take).float()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    old = [(weight, weight.detach().clone(), _tensors(optimizer.state.get(weight, {}))) for weight in weights]
    yield
    with torch.no_grad():
        for weight, before, state in old:
            weight.copy_(torch.where(take, weight, before))
            for name, tensor in optimizer.state.get(weight, {}).items():
                if isinstance(tensor, Tensor):  # a counter, or an offloaded state, lies on the CPU
                    was = state.get(name, torch.zeros_like(tensor))
                    tensor.copy_(torch.where(take.to(tensor.device), tensor, was))


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
