"""Wraps a module for its world: DistributedDataParallel, or fully sharded data parallel (FSDP2)."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from danlu.core.errors import RequestError
from danlu.dist.config import ParallelConfig
from danlu.dist.local import gathers
from danlu.dist.world import World


def wrap(module: nn.Module, config: ParallelConfig, world: World) -> nn.Module:
    """The module, made to average its gradients over the processes. With one process it is returned as it is.

    All processes leave with the first one's weights. `module.forward` must compute everything up to the loss, for the
    gradients are exchanged by hooks around it. Under fsdp the parameters are replaced by sharded ones (DTensor), in
    the same module and under the same names: make the optimiser afterwards, from this module's parameters.

    Gradients come out as the *mean* over processes: multiply each process's loss by `gradient_scale(world)` to get
    the gradient of the sum.

    Raises:
        RequestError: nothing in the module can be trained.
    """
    if world.size == 1:
        return module
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise RequestError("every weight of the model is frozen", where="model", mend="Leave something to train")
    return _wrap_ddp(module, config, world) if config.strategy == "ddp" else _wrap_fsdp(module, config, world)


def gradient_scale(world: World) -> float:
    """What a process's loss is multiplied with, since DDP and FSDP divide the sum of gradients by the world's size."""
    return float(world.size)


def unwrap(module: nn.Module) -> nn.Module:
    """The module as it was given to `wrap`; under fsdp it is the same object, its parameters sharded."""
    return module.module if isinstance(module, DistributedDataParallel) else module


@contextlib.contextmanager
def synchronised(module: nn.Module, on: bool) -> Iterator[None]:
    """A micro-batch's forward and backward go inside: gradients are exchanged when `on`, else only added up.

    Under fsdp, gradients that wait are kept whole (not sharded) on every process until the last micro-batch.
    """
    if isinstance(module, DistributedDataParallel) and not on:
        with module.no_sync():
            yield
    elif gathers(module):
        module.set_requires_gradient_sync(on)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)
    else:
        yield


@contextlib.contextmanager
def full_weights(module: nn.Module) -> Iterator[nn.Module]:
    """Within it every parameter is whole on every process: to save it, or to call a part of it, such as `generate`.

    All processes enter and leave together; inside, one of them may work alone. The weights are copies under fsdp:
    what is written to them is lost at the end. Use it without gradients, and give transformers' `generate`
    `synced_gpus=False`, or it waits for the other processes by itself. Yields the unwrapped module.
    """
    inner = unwrap(module)
    if not gathers(inner):
        yield inner
        return
    shards = [part for part in inner.modules() if gathers(part)]
    with contextlib.ExitStack() as stack:
        for shard in shards:
            shard.unshard()
            stack.callback(shard.reshard)
        for part in inner.modules():
            stack.enter_context(_without_hooks(part))
        yield inner


def _wrap_ddp(module: nn.Module, config: ParallelConfig, world: World) -> nn.Module:
    return DistributedDataParallel(
        module,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        broadcast_buffers=False,  # positions and masks: constant, the same everywhere
        gradient_as_bucket_view=True,  # one copy of the gradients instead of two
        find_unused_parameters=config.find_unused,
    )


def _wrap_fsdp(module: nn.Module, config: ParallelConfig, world: World) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in _distinct([*module.parameters(), *module.buffers()]):
        shared = tensor.detach().contiguous()
        dist.broadcast(shared, src=0)
        tensor.detach().copy_(shared)
    mesh = init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("data",))
    layers = repeated_layers(module)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=config.reshard, ignored_params=_unshardable(layer))
    fully_shard(module, mesh=mesh, reshard_after_forward=False, ignored_params=_unshardable(module))
    return module


@contextlib.contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Within it FSDP does not see the module run or give its state.

    FSDP keeps a record of who ran, to gather weights ahead of need in the backward: what one process does alone would
    part it from the others. And it shards the weights again before `state_dict` reads them.
    """
    hidden: list[tuple[OrderedDict[int, Any], list[tuple[int, Any]]]] = []
    for kind in ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks"):
        hooks = getattr(module, kind)
        ours = [key for key, hook in hooks.items() if _is_of_fsdp(hook)]
        hidden.append((hooks, [(key, hooks.pop(key)) for key in ours]))
    try:
        yield
    finally:
        for hooks, entries in hidden:
            for key, hook in reversed(entries):
                hooks[key] = hook
                hooks.move_to_end(key, last=False)


def _is_of_fsdp(hook: Any) -> bool:
    return str(getattr(getattr(hook, "hook", hook), "__module__", "")).startswith("torch.distributed.fsdp")


def repeated_layers(module: nn.Module) -> list[nn.Module]:
    """The layers that a Transformer repeats: what lies in outermost `nn.ModuleList`s of one class with own children.

    A list of plain leaves (heads, projections) does not count, nor does a layer that shares a parameter with something
    outside it, since a shard must own its parameters.
    """
    layers: list[nn.Module] = []
    _collect_layers(module, layers)
    uses: dict[int, int] = {}
    for parameter in _every_use(module):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    kept = []
    for layer in layers:
        own: dict[int, int] = {}
        for parameter in _every_use(layer):
            own[id(parameter)] = own.get(id(parameter), 0) + 1
        if own and all(uses[key] == count for key, count in own.items()):
            kept.append(layer)
    return kept


def _collect_layers(module: nn.Module, found: list[nn.Module]) -> None:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and _is_stack(child):
            found.extend(child)
        else:
            _collect_layers(child, found)


def _is_stack(layers: nn.ModuleList) -> bool:
    if len({type(layer) for layer in layers}) != 1:
        return False
    return all(any(True for _ in layer.children()) and not isinstance(layer, nn.ModuleList) for layer in layers)


def _every_use(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of all modules below, a shared one as often as it is used."""
    parts = (part for _, part in module.named_modules(remove_duplicate=False))
    return [parameter for part in parts for parameter in part.parameters(recurse=False)]


def _unshardable(module: nn.Module) -> set[nn.Parameter]:
    """Frozen weights in a packed, non-floating form (a quantised base): each process keeps them whole."""
    return {parameter for parameter in module.parameters() if not parameter.is_floating_point()}


def _distinct(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
