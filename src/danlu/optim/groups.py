"""Which weights are decayed, and which are hidden matrices: the parameter groups that every optimiser gets."""

import re
from collections.abc import Iterator

from torch import nn

from danlu.core.errors import RequestError
from danlu.optim.base import Group

_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|module)(?=\.)")
_MARKS = "_rate_scales"
_ROLES = ("hidden", "kernel", "edge", "vector")
_HEADS = ("lm_head", "embed_out", "output_projection", "score", "classifier", "qa_outputs", "cls")


def plain_name(name: str) -> str:
    """A parameter's name without what compiling, checkpointing or DDP put into it."""
    return _WRAPPERS.sub("", name).lstrip(".")


def scale_rate(model: nn.Module, name: str, *, lr: float, decay: float = 1.0) -> None:
    """Multiplies one parameter's learning rate and weight decay; `name` is that of `model.named_parameters()`.

    It is written on the parameter's module, since sharding puts new parameters in the place of the old.
    """
    owner, _, leaf = name.rpartition(".")
    marks = vars(model.get_submodule(owner)).setdefault(_MARKS, {})
    before = marks.get(leaf, (1.0, 1.0))
    marks[leaf] = (before[0] * lr, before[1] * decay)


def _marked(model: nn.Module, name: str) -> tuple[float, float]:
    owner, _, leaf = name.rpartition(".")
    return vars(model.get_submodule(owner)).get(_MARKS, {}).get(leaf, (1.0, 1.0))


def parameter_groups(model: nn.Module) -> list[Group]:
    """The trainable parameters, each once (tied ones too), in a group for each role, cut by what `scale_rate` said.

    `role` is `hidden` (matrices inside the network), `kernel` (more than two axes: convolutions, experts), `edge`
    (embeddings and heads) or `vector` (biases, norms and whatever has only one axis longer than one). Vectors are not
    decayed: decaying a norm's gain or a bias shrinks the function without making it simpler; embeddings are, as in
    GPT-2 and Llama.

    Raises:
        RequestError: nothing is trainable.
    """
    edges, norms = _embeddings_and_heads(model), _norms(model)
    members: dict[tuple[str, float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if sum(size > 1 for size in parameter.shape) <= 1 or id(parameter) in norms:
            role = "vector"
        elif id(parameter) in edges:
            role = "edge"
        else:
            role = "hidden" if parameter.ndim == 2 else "kernel"
        members.setdefault((role, *_marked(model, name)), []).append((plain_name(name), parameter))
    if not members:
        raise RequestError("the model has no weight that may be trained", where="model", mend="Unfreeze a part of it")
    return [
        {
            "params": [parameter for _, parameter in entries],
            "names": [name for name, _ in entries],
            "role": role,
            "decay": 0.0 if role == "vector" else decay,
            "lr_scale": lr,
        }
        for (role, lr, decay), entries in sorted(members.items(), key=lambda entry: _ROLES.index(entry[0][0]))
    ]


def _embeddings_and_heads(model: nn.Module) -> set[int]:
    found: set[int] = set()
    for name, module in model.named_modules():
        is_head = isinstance(module, nn.Linear) and plain_name(name + ".").rstrip(".").rpartition(".")[2] in _HEADS
        if isinstance(module, nn.Embedding) or is_head:
            found.update(map(id, module.parameters(recurse=False)))
        for head in _declared_head(module):
            found.update(map(id, head.parameters(recurse=False)))
    return found


def _declared_head(module: nn.Module) -> Iterator[nn.Module]:
    """The head of a transformers model, whatever it is called there."""
    ask = getattr(module, "get_output_embeddings", None)
    head = ask() if callable(ask) else None
    if isinstance(head, nn.Module):
        yield head


def _norms(model: nn.Module) -> set[int]:
    """Weights of normalisation layers, told by their class's name: families bring norms of their own."""
    layers = (module for module in model.modules() if "norm" in type(module).__name__.lower())
    return {id(weight) for layer in layers if not any(layer.children()) for weight in layer.parameters(recurse=False)}
