"""Dropout, in every place that the model has one, and on the residual paths of models that have none."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from danlu.core.action import Action
from danlu.core.dials import Dial, constant
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques._surgery import block_lists, extend, first_of, holds_matrices, input_embedding, with_first

OUT_PROJECTIONS = {
    "o_proj",
    "out_proj",
    "c_proj",
    "down_proj",
    "dense",
    "dense_4h_to_h",
    "out_lin",
    "lin2",
    "fc2",
    "w2",
}


class Dropping(nn.Module):
    """A module that drops entries of what it gives, in training, with probability `output_p`."""

    output_p: float = 0.0

    def forward(self, *args: object, **kwargs: object) -> Tensor | tuple[object, ...]:
        output = super().forward(*args, **kwargs)
        if not self.training or self.output_p == 0.0:
            return output
        return with_first(output, functional.dropout(first_of(output), self.output_p))


class Places(TechniqueState):
    """Where the model's dropout probabilities are kept: (module, attribute)."""

    def __init__(self, places: Sequence[tuple[nn.Module, str]]) -> None:
        self.places = tuple(places)

    def turn(self, p: float) -> None:
        """Sets them all; what stands right already is left alone, so that compiled code stays valid."""
        for module, attribute in self.places:
            if getattr(module, attribute) != p:
                setattr(module, attribute, p)


class Dropout(Technique):
    """Sets entries to zero at random in training and scales up the others, wherever the model has a place for it.

        y = x · m / (1 − p),    m ~ Bernoulli(1 − p)

    Sources: Srivastava et al. 2014, "Dropout", section 4 (scaled in training rather than in test); Vaswani et al. 2017,
    "Attention Is All You Need", section 5.4 (the output of each sub-layer, the embeddings). The places are the model's
    dropout modules and its attention's dropout. Decoders of the llama kind have none on the residual path and the
    embedding: there the out-projection of attention and MLP (or a whole expert layer) and the embedding drop their
    output; names and weights stay. The dropout of an adapter is the adapter's own. All turn with the dial `dropout`
    (p); p = 0 is none at all, also in models that come with some. In evaluation and export it is off. Cost: a random
    number an entry; attention dropout keeps CUDA from its fastest attention kernels, hence `attention: false`.

    When not: when each example is seen about once (pre-training on plenty of data).
    """

    state: ClassVar = "held"
    random_in_forward: ClassVar[bool] = True
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"p": 0.3}

    p: float = Field(default=0.1, ge=0.0, lt=1.0)
    """the chance of an entry to be dropped"""
    attention: bool = True
    """drop entries of the attention's weights too; false leaves those as the model has them"""

    def dials(self) -> Sequence[Dial]:
        return (constant("dropout", self.p, high=0.99),)

    def on_model(self, model: nn.Module) -> nn.Module:
        for module in _lacking(model):
            extend(module, Dropping)
        return model

    def start(self, model: nn.Module) -> Places:
        places = [(module, key) for module, key, on_weights in places_of(model) if self.attention or not on_weights]
        added = [(module, "output_p") for module in model.modules() if isinstance(module, Dropping)]
        return Places([*places, *added])

    def before_step(self, ctx: StepContext, state: TechniqueState | None) -> Sequence[Action]:
        assert isinstance(state, Places)
        state.turn(ctx.dial("dropout"))
        return ()

    @contextlib.contextmanager
    def on_export(self, model: nn.Module, state: TechniqueState | None) -> Iterator[nn.Module]:
        assert isinstance(state, Places)
        before = [getattr(module, attribute) for module, attribute in state.places]
        state.turn(0.0)
        try:
            yield model
        finally:
            for (module, attribute), p in zip(state.places, before, strict=True):
                setattr(module, attribute, p)


def places_of(model: nn.Module) -> Iterator[tuple[nn.Module, str, bool]]:
    """Every dropout probability of a model as (module, attribute, whether it drops attention weights)."""
    for path, module in model.named_modules():
        if "lora_dropout" in path:
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd):
            parent = model.get_submodule(path.rpartition(".")[0])
            yield module, "p", _drops_weights(path.rpartition(".")[2], parent)
            continue
        for key, value in vars(module).items():
            if type(value) in (int, float) and (key == "dropout" or key.endswith("_dropout")):
                yield module, key, _drops_weights(key, module)


def _drops_weights(key: str, owner: nn.Module) -> bool:
    """Told by their names: transformers has no other sign of what a dropout is applied to."""
    if key.startswith(("attn_drop", "attention_drop")):
        return True
    kind = type(owner).__name__
    return key == "dropout" and "Attention" in kind and "Layer" not in kind


def _lacking(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that must drop their output for the residual paths and the embedding to have dropout."""
    lists = block_lists(model)
    for blocks in lists:
        for block in blocks:
            yield from _lacking_in(block)
    table = input_embedding(model)
    owners = [module for module in model.modules() if any(child in lists for child in module.children())]
    if table is not None and lists and not _has_embedding_dropout(model, owners):
        yield table


def _lacking_in(block: nn.Module) -> Iterator[nn.Module]:
    """What in a block writes to the residual path: out-projections, else whole sub-layers; none if it has dropout."""
    if any(not on_weights for *_, on_weights in places_of(block)):
        return
    for layer in filter(holds_matrices, block.children()):
        outs = [part for path, part in layer.named_modules() if path.rpartition(".")[2] in OUT_PROJECTIONS]
        has_experts = any(parameter.ndim > 2 for parameter in layer.parameters())
        yield outs[0] if len(outs) == 1 and not has_experts else layer


def _has_embedding_dropout(model: nn.Module, owners: Sequence[nn.Module]) -> bool:
    """True when a dropout stands beside the blocks or in a part named for embeddings."""
    beside = {id(child) for owner in owners for child in owner.children()} | {id(owner) for owner in owners}
    named = {id(part) for path, part in model.named_modules() if "emb" in path}
    return any(id(module) in beside | named for module, *_ in places_of(model))
