"""Maximal update parametrisation (muTransfer)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from danlu.core.errors import RequestError
from danlu.core.technique import Technique
from danlu.optim.groups import parameter_groups, plain_name, scale_rate

_WHERE = "techniques.mup"


class Mup(Technique):
    """Scales first weights and learning rates with the width, so that a rate found on a narrow model fits a wide one.

        m = width / base_width                        first weights      learning rate     weight decay
        embeddings, biases, norms, patches            as they are        η                 λ
        matrices inside (width → width)               × m^(−1/2)         η / m             λ m
        head (width → outputs)                        × m^(−1)           η / m             λ m

    Source: Yang & Hu et al. 2022, "Tensor Programs V", table 3 for Adam, which lemma J.1 turns into table 8 (there the
    head has a multiplier 1/m instead; here nothing is left in the forward pass, so that `model/` is an ordinary model).
    λ m keeps ηλ, what AdamW really decays by, as their library does. At `base_width` it is the identity. Attention
    keeps 1/√d: let heads grow in number, not in width. Cost: none.

    When not: with sgd, adafactor or muon, whose steps scale otherwise; with weights that are trained already (refused);
    with a head that shares the embedding's weights (refused; `model.design.tie: false`); with families whose first
    weights already follow the width, such as t5 (refused).
    """

    off: ClassVar[Mapping[str, object]] = {"base_width": 32}  # the conformance model's own width
    example: ClassVar[Mapping[str, object]] = {"base_width": 8}

    base_width: int = Field(default=256, ge=1)
    """the width at which the learning rate was found"""

    def on_model(self, model: nn.Module) -> nn.Module:
        factor = _width(model) / self.base_width
        if factor == 1.0:
            return model
        _check(model)
        parts = parts_of(model)
        for name, parameter in model.named_parameters():
            part = parts.get(plain_name(name))
            if part is None:
                continue
            with torch.no_grad():
                parameter.mul_(factor**-0.5 if part == "hidden" else 1.0 / factor)
            scale_rate(model, name, lr=1.0 / factor, decay=factor)
        return model


def parts_of(model: nn.Module) -> dict[str, Literal["hidden", "head"]]:
    """What is scaled: parameter name → what it is. A mixture's experts and router count as matrices inside."""
    tables = {plain_name(f"{name}.weight") for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    found: dict[str, Literal["hidden", "head"]] = {}
    for group in parameter_groups(model):
        for name in group["names"]:
            if group["role"] == "hidden" or (group["role"] == "kernel" and ".experts." in name):
                found[name] = "hidden"
            elif group["role"] == "edge" and name not in tables:
                found[name] = "head"
    return found


def _width(model: nn.Module) -> int:
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    if not isinstance(width, int):
        raise RequestError(f"{type(model).__name__} has no single width", where=_WHERE, mend="Remove it")
    return width


def _check(model: nn.Module) -> None:
    config: Any = model.config
    if getattr(config, "name_or_path", ""):
        raise RequestError("trained weights cannot be scaled anew", where=_WHERE, mend="Use it with model.design")
    if not hasattr(config, "initializer_range"):
        raise RequestError(
            f"the first weights of {config.model_type} follow the width already", where=_WHERE, mend="Remove it"
        )
    table, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    if head is not None and getattr(table, "weight", None) is head.weight:
        raise RequestError(
            "the head shares the embedding's weights, which must scale otherwise",
            where=_WHERE,
            mend="Set model.design.tie: false",
        )
