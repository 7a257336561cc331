"""Temperature mixing of sources."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.techniques.sample._groups import Grouped, drawn


class SourceTemperature(Technique):
    """Draws small sources (languages, domains) more often than their size says, where data.train is a list.

        p_s ∝ n_s^(1/T),    so that an example of the source has w_i ∝ n_s^(1/T − 1)

    Source: Aharoni et al. 2019, "Massively Multilingual Neural Machine Translation"; Arivazhagan et al. 2019,
    "Massively Multilingual Neural Machine Translation in the Wild" (T = 5); Lample & Conneau 2019 (XLM), where α = 1/T
    = 0.5. n_s counts examples: rows of packed text, pairs, pictures. T = 1 leaves the data as they are; a large T
    draws all sources equally often. Texts of different sources never share a row. Cost: none to speak of.

    When not: with a source so small that it is seen dozens of times; where one source is only noise.
    """

    off: ClassVar[Mapping[str, object]] = {"temperature": 1.0}
    example: ClassVar[Mapping[str, object]] = {"temperature": 5.0}

    temperature: float = Field(default=5.0, ge=1.0)
    """T: 1 is off, a large one draws all sources equally often"""

    def start_in(self, setting: Setting, model: nn.Module) -> TechniqueState | None:
        if self.temperature == 1:
            return None
        power = 1 / self.temperature - 1
        return Grouped(setting, "source", lambda counts_G: counts_G.clamp_min(1).double() ** power)

    def on_draw(self, ctx: StepContext, state: TechniqueState | None) -> Tensor | None:
        return drawn(state)
