"""Layer-wise decay of the learning rate."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import nn

from danlu.core.technique import Technique
from danlu.optim.groups import scale_rate
from danlu.techniques._surgery import depths


class LayerDecay(Technique):
    """Gives each block a smaller learning rate than the one above it.

        ηₗ = η · rate^(L + 1 − l),    l = 0 embeddings, 1 … L blocks, L + 1 what lies behind them (head, last norm)

    Sources: Howard & Ruder 2018, "Universal Language Model Fine-tuning", section 3.1 (discriminative fine-tuning, rate
    1/2.6); Clark et al. 2020, "ELECTRA", appendix B; Bao et al. 2022, "BEiT", appendix H. It multiplies `lr_scale` of
    the optimiser's groups, so it goes with any optimiser and schedule. Of an encoder and a decoder each counts its own
    blocks; a head that shares the embedding's weights goes with the embedding. Cost: one group more for each block.

    When not: in training from scratch, where low layers have as much to learn as high ones.
    """

    off: ClassVar[Mapping[str, object]] = {"rate": 1.0}
    example: ClassVar[Mapping[str, object]] = {"rate": 0.5}

    rate: float = Field(default=0.8, gt=0.0, le=1.0)
    """the rate of a block as a share of the rate of the block above it"""

    def on_model(self, model: nn.Module) -> nn.Module:
        if self.rate < 1.0:
            for name, (depth, top) in depths(model, where="techniques.layer_decay").items():
                scale_rate(model, name, lr=self.rate ** (top - depth))
        return model
