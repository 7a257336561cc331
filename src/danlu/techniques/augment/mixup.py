"""Mixup: pictures and their classes blended with those of a partner."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques._mixing import loss_of_partners, mixed, partners


class Mixup(Technique):
    """Blends each picture with another one of the batch, and asks for both classes in the same proportion.

        x ← λ x + (1 − λ) x',    L = λ CE(y) + (1 − λ) CE(y'),    λ ~ Beta(α, α)

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", equation 1 and section 2 (their code's form
    of the loss; λ is drawn for each row). The loss that is reported is that of y alone. Partners are found over the
    whole step, so that processes and micro-batches change nothing; with several processes the pictures are exchanged.
    Pictures of one class each only. Cost: one pass over the pictures.

    When not: for detection, where boxes would have to be blended, and where a class is told by fine detail.
    """

    after: ClassVar[tuple[str, ...]] = ("affine", "colour", "crop", "flip", "rand_augment", "random_erasing")
    conflicts: ClassVar[tuple[str, ...]] = ("cutmix",)
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"alpha": 1.0}

    p: float = Field(default=1.0, ge=0.0, le=1.0)
    """the chance of a picture to be blended"""
    alpha: float = Field(default=0.2, gt=0.0)
    """the shape of λ's distribution: 0.2 blends little, 1 evenly"""

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        found = partners("mixup", batch, ctx, p=self.p, alpha=self.alpha) if self.p else None
        if found is None:
            return batch
        shares_B111 = found.shares_B.to(found.own_BCHW).view(-1, 1, 1, 1)
        return mixed(batch, found.own_BCHW.lerp(found.other_BCHW, shares_B111), found, found.shares_B)

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        return loss_of_partners("mixup", outputs, batch, ctx)
