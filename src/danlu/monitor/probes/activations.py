"""What the activations of each layer do: how many of their units are dead, how many of their values saturated."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.monitor.base import Facts, Probe, ProbeContext, Value
from danlu.monitor.layers import layer_of_module

_HOMES = ("torch.nn.modules.activation", "transformers.activations")
_BOUNDS = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Hardsigmoid": (0.0, 1.0), "Hardtanh": (-1.0, 1.0)}
_DEAD, _EDGE = 1e-3, 0.05
_FEWEST_ROWS = 16


class Activations(Probe):
    """For each layer that has an activation function, over the first micro-batch of a due step:

    * `dead_units/LAYER`: the share of units with max |y| < 1e-3 max |x| over all rows and positions, x and y being what
      goes into the function and comes out of it: ReLU, GELU and SiLU give (nearly) nothing for them, whatever comes in;
    * `saturated/LAYER`, for functions with two bounds: the share of values within 5 % of a bound, where they are flat;
    * `activation_rms/LAYER`: the root mean square of x.

    Where a fused kernel computes function and gate in one, their product is looked at as it enters `down_proj`: a unit
    is dead when it is zero throughout. At most `rows` rows and positions count, evenly spread, and too few of them tell
    nothing of a unit. Cost: hooks and a pass over the sample, on due steps only.
    """

    every: int = Field(default=50, ge=1)
    """steps from one reading to the next"""
    rows: int = Field(default=256, ge=16)
    """rows and positions that are looked at"""

    @contextlib.contextmanager
    def around(self, facts: Facts) -> Iterator[object]:
        seen: dict[str, dict[str, Tensor]] = {}
        handles = []
        for name, module in facts.model.named_modules():
            if type(module).__module__ in _HOMES and "oftmax" not in type(module).__name__:
                handles.append(module.register_forward_hook(self._on_function(name, seen)))
            elif name.endswith("down_proj") and isinstance(module, nn.Linear):
                handles.append(module.register_forward_pre_hook(self._on_product(name, seen)))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        assert isinstance(kept, dict)
        worst: dict[str, Value] = {}
        for module, numbers in kept.items():
            for name, number in numbers.items():
                key = f"{name}/{layer_of_module(module)}"
                worst[key] = torch.maximum(worst[key], number) if key in worst else number  # type: ignore[arg-type]
        return worst

    def _on_function(self, name: str, seen: dict[str, dict[str, Tensor]]) -> Callable[..., None]:
        @torch.no_grad()
        def look(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            if name in seen or not module.training:
                return
            x_ND, y_ND = self._rows(args[0]), self._rows(result)
            seen[name] = {"activation_rms": x_ND.square().mean().sqrt()}
            bounds = _BOUNDS.get(type(module).__name__)
            if bounds is not None:
                edge = _EDGE * (bounds[1] - bounds[0])
                flat_ND = (y_ND < bounds[0] + edge) | (y_ND > bounds[1] - edge)
                seen[name]["saturated"] = flat_ND.float().mean()
            elif len(x_ND) >= _FEWEST_ROWS:
                dead_D = y_ND.abs().amax(0) < _DEAD * x_ND.abs().amax(0)
                seen[name]["dead_units"] = dead_D.float().mean()

        return look

    def _on_product(self, name: str, seen: dict[str, dict[str, Tensor]]) -> Callable[..., None]:
        @torch.no_grad()
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if name in seen or not module.training:
                return
            y_ND = self._rows(args[0])
            seen[name] = {"activation_rms": y_ND.square().mean().sqrt()}
            if len(y_ND) >= _FEWEST_ROWS:
                seen[name]["dead_units"] = (y_ND.abs().amax(0) == 0).float().mean()

        return look

    def _rows(self, values: Tensor) -> Tensor:
        """(N, D): units last, in fp32."""
        values = values.detach()
        if values.ndim == 4:
            values = values[: self.rows].movedim(1, -1)
        values_ND = values.reshape(-1, values.shape[-1])
        return values_ND[:: -(-len(values_ND) // self.rows) or 1].float()
