"""Square-root sampling of classes."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.techniques.sample._groups import Grouped, drawn


class SquareRoot(Technique):
    """Draws a class in proportion to the square root of its size, between the data's own shares and equal ones.

        p_c ∝ n_c^q,    so that an example of the class has w_i ∝ n_c^(q − 1)

    Source: Mahajan et al. 2018, "Exploring the Limits of Weakly Supervised Pretraining" (q = 1/2); Kang et al. 2020,
    "Decoupling Representation and Classifier for Long-Tailed Recognition", equation 1 (any q). q = 1 leaves the data
    as they are, q = 0 draws every class equally often. Cost: none to speak of.

    When not: where the probabilities must be those of the data; with several labels a row.
    """

    conflicts: ClassVar[tuple[str, ...]] = ("class_balanced",)
    off: ClassVar[Mapping[str, object]] = {"power": 1.0}
    example: ClassVar[Mapping[str, object]] = {"power": 0.5}

    power: float = Field(default=0.5, ge=0.0, le=1.0)
    """q: 1 is off, 0 draws all classes equally often"""

    def start_in(self, setting: Setting, model: nn.Module) -> TechniqueState | None:
        if self.power == 1:
            return None
        return Grouped(setting, "label", lambda counts_C: counts_C.double() ** (self.power - 1))

    def on_draw(self, ctx: StepContext, state: TechniqueState | None) -> Tensor | None:
        return drawn(state)
