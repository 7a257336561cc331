"""Outputs: what the model gave, with logits made only when somebody reads them."""

from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor, nn


class Outputs:
    """The result of one forward pass.

    Where the model ends in a plain linear head, `hidden_BTD` and `head` are given and `logits` is made at the first
    reading; a loss that never reads it may fuse head and cross-entropy. Otherwise `logits` is given (or absent, as
    for detectors) and `head` is None. `extra` holds what else the model named (boxes, hidden states, ...). `model` is
    who gave them: an evaluator may ask it further (let it write a translation), a loss may not. `losses_B` is left by
    the task's loss: each row's own, as `Task.losses` gives it. In training, techniques may read the task's `loss` on
    them, and have the same batch run `again`.
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
        self.losses_B: Tensor | None = None
        self._logits = logits
        self._loss: Tensor | None = None
        self._loss_of: Callable[[Outputs], Tensor] | None = None
        self._again: Callable[[Call | None], Outputs] | None = None

    def bound(self, *, loss_of: Callable[["Outputs"], Tensor], again: Callable[["Call | None"], "Outputs"]) -> Self:
        """These outputs, with the means to make `loss` and to run `again`; neither may hold on to them."""
        self._loss_of, self._again = loss_of, again
        return self

    def again(self, call: "Call | None" = None) -> "Outputs":
        """The task's forward once more on the same batch: by the same network, which draws new dropout, or by `call`.

        `call` takes what a model's forward does, by name, as `Forward` (of a teacher) does. The mode and whether there
        are gradients are the caller's to set. Cost: one more forward; the same network's stands within the one that DDP
        and FSDP see, and must be run by every process or by none.
        """
        if self._again is None:
            raise RuntimeError("these outputs were not made by a step of training")
        return self._again(call)

    @property
    def loss(self) -> Tensor:
        """The task's loss, summed over the batch's valid targets; made once, then kept."""
        if self._loss is None:
            if self._loss_of is None:
                raise RuntimeError("these outputs were not made by a step of training")
            self._loss = self._loss_of(self)
        return self._loss

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


Call = Callable[[Mapping[str, Any]], Outputs]
"""Runs a model on what its forward takes by name"""
