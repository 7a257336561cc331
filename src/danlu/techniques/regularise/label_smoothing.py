"""Label smoothing."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from danlu.core.dials import Dial, constant
from danlu.core.technique import Technique


class LabelSmoothing(Technique):
    """Asks the model for a little doubt: a share of every target is spread evenly over all classes.

        L = (1 − ε) · (−log p_y) + ε · mean over classes v of (−log p_v)

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7; torch's cross_entropy has the same
    formula. The technique declares the dial `label_smoothing`, which the tasks' losses read; the losses that
    evaluations report stay without it. Cost: none to speak of.

    When not: for a model that will teach another (distillation) or whose probabilities are used as they are, and for
    language models trained on plenty of data.
    """

    example: ClassVar[Mapping[str, object]] = {"epsilon": 0.2}
    off: ClassVar[Mapping[str, object]] = {"epsilon": 0.0}

    epsilon: float = Field(default=0.1, ge=0.0, lt=1.0)
    """the share of each target that is spread over all classes"""

    def dials(self) -> Sequence[Dial]:
        return (constant("label_smoothing", self.epsilon, high=1.0),)
