"""Class-balanced sampling."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.maths.sampling import effective_number
from danlu.techniques.sample._groups import Grouped, drawn


class ClassBalanced(Technique):
    """Draws examples of rare classes more often.

        w_i ∝ 1 / E(n_c),    E(n) = (1 − βⁿ) / (1 − β),    n_c: the examples of the class of i

    Source: Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", proposition 1 and section 4,
    whose factors are used here to draw and not to weigh, which has the same mean. β = 0 leaves the data as they are, β
    = 1 draws every class equally often (inverse frequency). An epoch stays as many draws as there are examples. The
    probabilities that the model gives are then those of the balanced classes. Cost: none to speak of.

    When not: with a class of a handful of examples, which are learnt by heart; where the probabilities must be those
    of the data; with several labels a row.
    """

    conflicts: ClassVar[tuple[str, ...]] = ("square_root",)
    off: ClassVar[Mapping[str, object]] = {"beta": 0.0}
    example: ClassVar[Mapping[str, object]] = {"beta": 1.0}

    beta: float = Field(default=0.999, ge=0.0, le=1.0)
    """0 is off, 1 draws all classes equally often; between, classes above some 1 / (1 − β) examples count alike"""

    def start_in(self, setting: Setting, model: nn.Module) -> TechniqueState | None:
        if self.beta == 0:
            return None
        return Grouped(setting, "label", lambda counts_C: 1 / effective_number(counts_C, self.beta))

    def on_draw(self, ctx: StepContext, state: TechniqueState | None) -> Tensor | None:
        return drawn(state)
