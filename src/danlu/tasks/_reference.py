"""The reference model that a policy must not stray from: a frozen copy, the adapter switched off, or another model."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from danlu.core.errors import RequestError
from danlu.core.outputs import Call
from danlu.models.forward import Forward
from danlu.models.kernels import accelerate
from danlu.models.save import load_trained
from danlu.models.writing import at_rest


class Reference:
    """The model as it is when this is made (before training), or the one named; never trained, in evaluation mode.

    Beside an adapter nothing is held: the reference is the policy without it. Else the copy takes the memory of the
    weights once more, whole on every process. A named model is loaded when it is first asked.
    """

    def __init__(self, model: nn.Module, name: str | None) -> None:
        self._name = name
        self._switched = name is None and hasattr(type(model), "disable_adapter")
        self._model: nn.Module | None = None
        self._call: Forward | None = None
        if name is None and not self._switched:
            self._model = copy.deepcopy(model)

    @contextlib.contextmanager
    def instead_of(self, call: Call, device: torch.device) -> Iterator[Call]:
        """Within it, without gradients, what calls the reference where `call` calls the policy.

        Raises:
            RequestError: the model named cannot be loaded.
        """
        with torch.no_grad():
            if self._switched:
                model: Any = cast(Forward, getattr(call, "func", call)).model
                with at_rest(model), model.disable_adapter():
                    yield call
            else:
                yield self._ready(device)

    def _ready(self, device: torch.device) -> Forward:
        if self._call is None:
            model = self._model if self._model is not None else _loaded(str(self._name))
            model = model.requires_grad_(False).eval().to(device)
            mixed = torch.is_autocast_enabled(device.type)
            accelerate(cast(PreTrainedModel, model), device=device, precision="bf16" if mixed else "fp32")
            self._call = Forward(model)
        return self._call


def needs_start(base: str | None, reference: str | None, *, why: str) -> None:
    """Refuses a policy that starts from nothing.

    Raises:
        RequestError: neither `model.from` nor a reference is given.
    """
    if base is None and reference is None:
        mend = "Start from weights (model.from), or name the reference: task.reference"
        raise RequestError(f"{why} compares with a trained model, and this one is new", where="model", mend=mend)


def lasting(name: str | None) -> str | None:
    """A folder's whole path, so that it is found from elsewhere; a hub name as it is."""
    return str(Path(name).expanduser().resolve()) if name is not None and Path(name).expanduser().exists() else name


def _loaded(name: str) -> nn.Module:
    try:
        return load_trained(name, auto_class="AutoModelForCausalLM").model
    except RequestError as error:
        mend = "Name the model that training started from: task.reference=FOLDER"
        raise RequestError(f"the reference model cannot be loaded: {error.problem}", where=name, mend=mend) from None
