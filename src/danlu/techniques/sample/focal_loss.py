"""Focal loss."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from danlu.core.dials import Dial, constant
from danlu.core.technique import Technique


class FocalLoss(Technique):
    """Takes weight off the targets that the model already gets right.

        L = −(1 − p)^γ log p,    p: the probability of the target

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4; for rows with several labels it is
    taken mark by mark. The dial `focal_gamma` is read by the losses of tokens (text, translation, recommendation) and
    of classes; not by those of numbers, of decisions, of search and of detectors, which have their own. With label
    smoothing ε the factor is on the target's own part, (1 − ε). Evaluations report the loss without it. Cost: nothing
    at γ = 0; else one power a target, in the fused loss too.

    When not: with wrong labels, which are the hardest examples of all; where probabilities are used as they are.
    """

    off: ClassVar[Mapping[str, object]] = {"gamma": 0.0}
    example: ClassVar[Mapping[str, object]] = {"gamma": 2.0}

    gamma: float = Field(default=2.0, ge=0.0)
    """γ: 0 is the cross-entropy itself"""

    def dials(self) -> Sequence[Dial]:
        return (constant("focal_gamma", self.gamma),)
