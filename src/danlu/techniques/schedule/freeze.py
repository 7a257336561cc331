"""Freezing."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import nn

from danlu.core.technique import Technique
from danlu.techniques._surgery import depths, matching


class Freeze(Technique):
    """Leaves a part of the weights as they are: the lower blocks, or what is named.

        w ∈ frozen:  w ← w;    frozen = (first `blocks` blocks and what lies before them ∪ `names`) \\ `keep`

    Sources: Yosinski et al. 2014, "How transferable are features in deep neural networks?" (lower layers);
    Ben Zaken et al. 2022, "BitFit" (`names: ["*"], keep: ["*.bias"]`). Names are parameters' or modules' in the model,
    with `*` and `?`; a module's stands for all below it. Frozen weights have no gradient and no optimiser state, are
    not averaged and not kept in checkpoints (they come from their own place again). A head that shares the embedding's
    weights is frozen with it. Cost: none; below the lowest trained weight no backward pass is computed.

    When not: when a GPU holds the whole and there is data enough, training all of it with a small rate (and
    `layer_decay`) is better; for large models an adapter (`model.adapter`) is.
    """

    off: ClassVar[Mapping[str, object]] = {"blocks": 0}
    example: ClassVar[Mapping[str, object]] = {"blocks": 1}

    names: tuple[str, ...] = ()
    """what to freeze, such as [model.embed_tokens, "*.mlp.*"]"""
    blocks: int = Field(default=0, ge=0)
    """how many of the first blocks to freeze, with the embeddings and whatever else lies before them"""
    keep: tuple[str, ...] = ()
    """what to train all the same"""

    def on_model(self, model: nn.Module) -> nn.Module:
        parameters, where = dict(model.named_parameters()), "techniques.freeze"
        frozen = matching(parameters, self.names, where=f"{where}.names")
        if self.blocks:
            frozen |= {name for name, (depth, _) in depths(model, where=where).items() if depth <= self.blocks}
        for name in frozen - matching(parameters, self.keep, where=f"{where}.keep"):
            parameters[name].requires_grad_(False)
        return model
