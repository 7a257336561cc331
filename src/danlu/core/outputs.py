"""Outputs: what the model gave, with logits made only when somebody reads them."""

from collections.abc import Mapping

from torch import Tensor, nn


class Outputs:
    """The result of one forward pass.

    Where the model ends in a plain linear head, `hidden_BTD` and `head` are given and `logits` is made at the first
    reading; a loss that never reads it may fuse head and cross-entropy. Otherwise `logits` is given (or absent, as
    for detectors) and `head` is None. `extra` holds what else the model named (boxes, hidden states, ...). `model` is
    who gave them: an evaluator may ask it further (let it write a translation), a loss may not.
    """

    def __init__(
        self,
        *,
        hidden: Tensor | None = None,
        head: nn.Linear | None = None,
        logits: Tensor | None = None,
        extra: Mapping[str, object] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.hidden = hidden
        self.head = head
        self.extra = extra or {}
        self.model = model
        self._logits = logits

    @property
    def has_logits(self) -> bool:
        """True when the logits are already made, so that fusing would be work done twice."""
        return self._logits is not None

    @property
    def logits(self) -> Tensor:
        """Scores before the softmax, (..., V); made once, then kept."""
        if self._logits is None:
            if self.hidden is None or self.head is None:
                raise AttributeError("this model gives neither logits nor a hidden state with a head")
            self._logits = self.head(self.hidden)
        return self._logits
