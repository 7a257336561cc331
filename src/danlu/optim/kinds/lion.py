"""Lion: the sign of an average of gradients."""

from collections.abc import Sequence
from typing import ClassVar

from torch.optim import Optimizer

from danlu.core.extras import need
from danlu.optim.base import Group, OptimizerKind


class Lion(OptimizerKind):
    """c = β₁m + (1 - β₁)g; w ← w - lr (sign c + λw); m ← β₂m + (1 - β₂)g.

    Chen et al. 2023, algorithm 2, by the library lion-pytorch. Half of Adam's memory; wants a rate 3 to 10 times
    smaller than AdamW's and a weight decay larger by the same factor.
    """

    state_per_weight: ClassVar[float] = 1.0

    betas: tuple[float, float] = (0.9, 0.99)
    """the mix of average and gradient in an update, and how slowly the average forgets"""

    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        library = need("lion_pytorch", extra="optimizers", what="the optimizer lion")
        return library.Lion(groups, lr=lr, betas=self.betas, weight_decay=0.0)
