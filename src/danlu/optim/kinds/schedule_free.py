"""Schedule-free AdamW: averaging in place of a decaying learning rate."""

from collections.abc import Sequence
from typing import ClassVar

from torch.optim import Optimizer

from danlu.core.extras import need
from danlu.optim.base import Group, OptimizerKind


class ScheduleFree(OptimizerKind):
    """y = (1 - β₁)z + β₁x; z ← z - lr Adam(∇f(y)); x ← (1 - c)x + cz.

    Defazio et al. 2024, equations 3 to 5, by the library schedulefree. Gradients are taken at y, x is what one
    evaluates and keeps. Use it with `schedule: {shape: constant}` and a warm-up; decaying the rate as well slows it.
    """

    wants_schedule: ClassVar[bool] = False

    betas: tuple[float, float] = (0.9, 0.999)
    """the pull towards the average, and how slowly the squared gradient forgets"""
    eps: float = 1e-8
    """added to the denominator"""

    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        library = need("schedulefree", extra="optimizers", what="the optimizer schedule_free")
        optimizer = library.AdamWScheduleFree(groups, lr=lr, betas=self.betas, eps=self.eps, weight_decay=0.0)
        optimizer.train()
        return optimizer
