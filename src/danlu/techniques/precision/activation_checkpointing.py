"""Activation checkpointing."""

from torch import nn

from danlu.core.errors import RequestError
from danlu.core.technique import Technique


class ActivationCheckpointing(Technique):
    """Keeps only each block's input for the backward pass and computes the rest of the block again there.

        memory of activations: L blocks whole → L block inputs + 1 block whole;    time: about a third more

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". It is transformers' own, in torch's
    non-reentrant way, with random numbers drawn alike in both passes, so that the gradients are the same numbers.
    Not needed by (and off in) evaluation and the exported model.

    When not: when the batch fits in memory without it.
    """

    def on_model(self, model: nn.Module) -> nn.Module:
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise RequestError(
                f"{type(model).__name__} cannot checkpoint its activations",
                where="techniques.activation_checkpointing",
                mend="Remove it, or make the micro-batch smaller",
            )
        model.gradient_checkpointing_enable(  # type: ignore[operator]
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        return model
