"""The state of a module and its optimiser as a tree keyed by parameter names, whatever shares them.

torch numbers an optimiser's parameters; here they go by name, so that a state written by any number of processes, under
ddp or fsdp, fits any other. (torch.distributed.checkpoint.state_dict does the same, but takes a step with a zero
gradient to learn the shape of an empty optimiser, which changes the ones that count their steps.)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from danlu.core.errors import RunError
from danlu.dist.local import is_sharded
from danlu.dist.wrap import unwrap

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Tree = dict[str, Any]


@runtime_checkable
class SavedTensor(Protocol):
    """A tensor that lies in a file, of which any box can be read."""

    shape: tuple[int, ...]

    def read(self, offsets: tuple[int, ...] | None = None, sizes: tuple[int, ...] | None = None) -> Tensor:
        """The box of `sizes` that begins at `offsets` (by default everything), on the CPU."""


class Deferred(dict[str, Any]):
    """A branch of a tree whose tensors stay in the file when it is loaded, until somebody asks for their shards."""


def state_of(module: nn.Module, optimizer: Optimizer | None = None, *, frozen: bool = True) -> Deferred:
    """What a checkpoint keeps of both, as references (no copies): `{"model": {...}, "optimizer": {...}}`.

    Args:
        module: as `wrap` returned it.
        optimizer: made from its parameters.
        frozen: False leaves frozen parameters out (the base below an adapter, which is loaded from its own place).
    """
    inner = unwrap(module)
    left_out = set() if frozen else {name for name, parameter in _names(inner) if not parameter.requires_grad}
    model = {name: tensor for name, tensor in inner.state_dict().items() if name not in left_out}
    optimizer_tree = {} if optimizer is None else _by_name(optimizer.state_dict(), _order(inner, optimizer))
    return Deferred(model=model, optimizer=optimizer_tree)


@torch.no_grad()
def load_state(module: nn.Module, optimizer: Optimizer | None, tree: Mapping[str, Any]) -> None:
    """Puts a tree of `state_of` back, each process taking its own shard of what is sharded now.

    Raises:
        RunError: the tree is of another model.
    """
    inner = unwrap(module)
    _load_model(inner, tree["model"])
    if optimizer is None:
        return
    order = _order(inner, optimizer)
    parameters = dict(_names(inner))
    state = _by_number(tree["optimizer"], order, parameters)
    optimizer.load_state_dict(state)
    _keep_dtypes(optimizer, state)


def laid_out(saved: Any, like: Any) -> Any:
    """A saved tensor as a tensor: sharded as `like` where that is a DTensor of its shape, else whole, on its device."""
    is_saved = isinstance(saved, SavedTensor)
    if is_sharded(like) and tuple(saved.shape) == tuple(like.shape):
        offsets, sizes = local_box(like)
        local = saved.read(offsets, sizes) if is_saved else _box(saved, offsets, sizes)
        local = local.to(like.to_local().device)
        return type(like).from_local(
            local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
    return saved.read() if is_saved else saved


def local_box(tensor: "DTensor") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where this process's shard lies in the whole tensor: (offsets, sizes)."""
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(chunk.offsets), tuple(chunk.sizes)


def _load_model(inner: nn.Module, saved: Mapping[str, Any]) -> None:
    present = inner.state_dict()
    trainable = {name for name, parameter in _names(inner) if parameter.requires_grad}
    missing = sorted(trainable - saved.keys()) + sorted(saved.keys() - present.keys())
    if missing:
        raise RunError(
            f"the checkpoint is of another model: {missing[0]} is only in one of them",
            mend="Resume with the recipe that wrote it, or start anew",
        )
    extra = {name: value for name, value in saved.items() if not isinstance(value, (Tensor, SavedTensor))}
    if extra:
        inner.load_state_dict(extra, strict=False)
    for name, value in saved.items():
        if name in extra:
            continue
        into = present[name]
        if tuple(value.shape) != tuple(into.shape):
            raise RunError(
                f"the checkpoint is of another model: {name} is {tuple(value.shape)}, not {tuple(into.shape)}",
                mend="Resume with the recipe that wrote it, or start anew",
            )
        source = laid_out(value, into)
        if is_sharded(into):
            into.to_local().copy_(source.to_local())
        else:
            into.copy_(source)


def _names(inner: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(inner.named_parameters())


def _order(inner: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of the optimiser's parameters in torch's order of numbering."""
    names = {id(parameter): name for name, parameter in _names(inner)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        return [names[id(parameter)] for parameter in parameters]
    except KeyError as error:
        raise ValueError("the optimiser holds a parameter that is not the module's: make it after wrap()") from error


def _by_name(state: Mapping[str, Any], order: list[str]) -> Tree:
    tree = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    tree["state"] = {order[number]: dict(entry) for number, entry in state["state"].items()}
    tree["param_groups"] = [
        {**group, "params": [order[number] for number in group["params"]]} for group in state["param_groups"]
    ]
    return tree


def _by_number(tree: Mapping[str, Any], order: list[str], parameters: Mapping[str, nn.Parameter]) -> Tree:
    numbers = {name: number for number, name in enumerate(order)}
    unknown = sorted(set(tree["state"]) - set(numbers))
    if unknown:
        raise RunError(
            f"the checkpoint trains {unknown[0]}, which is not trained here",
            mend="Resume with the recipe that wrote it, or start anew",
        )
    state: Tree = {
        key: _laid_out_tree(value, None) for key, value in tree.items() if key not in ("state", "param_groups")
    }
    state["state"] = {
        numbers[name]: {key: _laid_out_tree(value, parameters[name]) for key, value in entry.items()}
        for name, entry in tree["state"].items()
    }
    state["param_groups"] = [
        {**_laid_out_tree(group, None), "params": [numbers[name] for name in group["params"]]}
        for group in tree["param_groups"]
    ]
    return state


def _laid_out_tree(value: Any, like: Tensor | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _laid_out_tree(entry, like) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_laid_out_tree(entry, like) for entry in value)
    return laid_out(value, like) if isinstance(value, (Tensor, SavedTensor)) else value


def _keep_dtypes(optimizer: Optimizer, state: Tree) -> None:
    """torch casts a loaded state to its parameter's dtype; what was kept in another one goes back as it was."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entry in state["state"].items():
        held = optimizer.state.get(parameters[number], {})
        for key, value in entry.items():
            if isinstance(value, Tensor) and isinstance(held.get(key), Tensor) and held[key].dtype != value.dtype:
                held[key] = value.to(held[key].device)


def _box(tensor: Tensor, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    if is_sharded(tensor):
        tensor = tensor.full_tensor()
    for dim, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        tensor = tensor.narrow(dim, offset, size)
    return tensor.clone()
