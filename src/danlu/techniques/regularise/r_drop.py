"""R-Drop."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.dials import Dial, constant
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths.distillation import symmetric
from danlu.techniques._scores import check_comparable, compared, num_scores, scores, targets


class RDrop(Technique):
    """Runs each batch twice, under different dropout, and asks both passes for the same answer.

        L = ½ (−log p₁(y) − log p₂(y)) + α/2 · ½ [KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)]

    Source: Wu et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", equations 2 to 4; all of it is halved
    here, so that the learning rate and other penalties mean what they do without it. Both passes have gradients. It
    is turned by the dial `r_drop` (α); the loss that is reported is the first pass's. It works by the model's own
    dropout: where there is none (llama and its kin), switch `dropout` on too. Cost: a second forward and backward,
    and the memory of its activations; the logits of both passes, a chunk at a time.

    When not: without dropout, when each example is seen about once, or when time is short: at equal time a longer
    run may do more.
    """

    off: ClassVar[Mapping[str, object]] = {"alpha": 0.0}
    example: ClassVar[Mapping[str, object]] = {"alpha": 5.0}
    beside: ClassVar[Mapping[str, Mapping[str, object]]] = {"dropout": {"p": 0.3}}

    alpha: float = Field(default=1.0, ge=0.0)
    """how much agreement counts beside the task: 1 for fine-tuning, 5 for translation (the paper's own)"""

    def dials(self) -> Sequence[Dial]:
        return (constant("r_drop", self.alpha),)

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        alpha = ctx.dial("r_drop")
        if alpha == 0.0:
            return {}
        check_comparable(outputs, batch, "techniques.r_drop")
        second = outputs.again()
        at_N, weights_N = targets(batch)
        one, two = scores(outputs, batch, at_N), scores(second, batch, at_N)
        apart = compared(
            lambda part: symmetric(one(part).log_softmax(-1), two(part).log_softmax(-1)),
            len(at_N),
            weights_N,
            num_scores(outputs),
        )
        return {"r_drop": 0.5 * alpha * apart, "r_drop_second": 0.5 * (second.loss - outputs.loss)}
