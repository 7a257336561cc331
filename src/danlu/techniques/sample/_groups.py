"""Draw weights by the group that an example is in."""

from collections.abc import Callable

import torch
from torch import Tensor

from danlu.core.technique import Setting, TechniqueState


class Grouped(TechniqueState):
    """Weights that stay as they are: those of an example follow from how many there are in its group."""

    def __init__(self, setting: Setting, by: str, weigh: Callable[[Tensor], Tensor]) -> None:
        groups_N = torch.from_numpy(setting.column(by))
        self._weights_N = weigh(torch.bincount(groups_N))[groups_N]


def drawn(state: TechniqueState | None) -> Tensor | None:
    """The weights of a state; None where the technique is off and has none."""
    return state._weights_N if isinstance(state, Grouped) else None
