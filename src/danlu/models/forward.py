"""Forward: one way to call any model, with the head left to the loss where the model allows it."""

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.technique import Extra

Packing = Literal["positions", "causal mask", "mask", "none"]
"""How documents in one row are kept apart: by their positions, by a mask made of these, or not at all"""

_LOUD = 1e3
_FIRST, _SECOND = 4, 3


class Forward(nn.Module):
    """Calls a transformers model (or a peft one round it) by names, without a key/value cache.

    Two questions are settled once, by comparing on a tiny input:

    * Do the logits equal `head(hidden)` for a plain linear head? Then `Outputs` carries hidden state and head, so that
      a loss may fuse the two; else (scaled, shifted or capped logits, classifiers) it carries the logits.
    * Are documents packed in one row (positions that restart, no attention mask) kept apart? If the model does not look
      at positions, a mask is made from them. `packs` is False where nothing helps, as in recurrent models.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        parameters = inspect.signature(type(self.inner).forward).parameters
        self._takes_cache = "use_cache" in parameters
        self._takes_positions = "position_ids" in parameters
        self._not_taken = {"position_ids", "token_type_ids", "timestamps"} - parameters.keys()
        self.fused = False
        self.packing: Packing = "none"
        if _is_text_model(self.inner) and _has_weights(self.inner):
            self._try_out()

    def _try_out(self) -> None:
        try:
            with _evaluated(self.inner):
                self.fused = self._head_is_plain()
                self.packing = self._find_packing()
        except RuntimeError as error:
            name, said = type(self.inner).__name__, str(error).strip().splitlines()[0].rstrip(".")
            mend = "Some of the family's own keys may have to fit the sizes; set them under model.design.options"
            raise RequestError(f"{name} fails on a few tokens: {said}", where="model", mend=mend) from error

    @property
    def inner(self) -> PreTrainedModel:
        """The transformers model itself, inside an adapter or not."""
        unwrap = getattr(self.model, "get_base_model", None)
        return cast(PreTrainedModel, unwrap() if callable(unwrap) else self.model)

    @property
    def packs(self) -> bool:
        """True when rows of several documents, told by positions that restart, are computed as if each were alone."""
        return self.packing != "none"

    def forward(self, inputs: Mapping[str, Any], *, also: Iterable[Extra] = ()) -> Outputs:
        """Runs the model on what its forward takes by name; tuples of ragged tensors are handed on as lists.

        `also` names what it is to give besides, under transformers' names, in `extra`.

        Raises:
            RequestError: documents share a row and the model cannot keep them apart.
        """
        given: dict[str, Any] = {
            name: list(field) if isinstance(field, tuple) else field for name, field in inputs.items()
        }
        if "position_ids" in given and given.get("attention_mask") is None:
            self._keep_apart(given)
        for name in self._not_taken & given.keys():
            del given[name]
        if self._takes_cache:
            given["use_cache"] = False
        given.update({f"output_{name}": True for name in also})
        if self.fused:
            result = self.inner.base_model(**given)
            head = cast(nn.Linear, self.inner.get_output_embeddings())
            extra = {name: value for name, value in result.items() if name != "last_hidden_state"} if also else {}
            return Outputs(hidden=result.last_hidden_state, head=head, extra=extra, model=self.inner)
        result = self.model(**given, return_dict=True)
        extra = {name: value for name, value in result.items() if name != "logits"}
        return Outputs(logits=result.get("logits"), extra=extra, model=self.inner)

    def _keep_apart(self, given: dict[str, Any]) -> None:
        if self.packing == "none" and _is_text_model(self.inner) and _has_weights(self.inner):
            raise RequestError(
                f"{type(self.inner).__name__} cannot keep documents that share a row apart",
                where="data.packing",
                mend="Set data.packing: pad",
            )
        if self.packing in ("causal mask", "mask"):
            dtype = self._embedding().weight.dtype
            given["attention_mask"] = document_mask(given["position_ids"], self.packing == "causal mask", dtype)

    def _head_is_plain(self) -> bool:
        """Compares both ways with the head's output made loud, so that a cap on the logits cannot hide."""
        head = self.inner.get_output_embeddings()
        body = self.inner.base_model
        given = {"input_ids": self._tokens(_FIRST), **self._start()}
        if type(head) is not nn.Linear or body is self.inner:
            self.inner(**given)
            return False
        handle = head.register_forward_hook(lambda _module, _inputs, output: output * _LOUD)
        try:
            hidden = getattr(body(**given), "last_hidden_state", None)
            if hidden is None or hidden.shape[-1] != head.in_features:
                return False
            plain, whole = head(hidden), self.inner(**given).logits
            return plain.shape == whole.shape and torch.allclose(plain.float(), whole.float(), rtol=1e-4, atol=1e-2)
        finally:
            handle.remove()

    def _find_packing(self) -> Packing:
        if not self._takes_positions or self.inner.config.is_encoder_decoder:
            return "none"
        ways: tuple[Packing, ...] = ("positions", "causal mask", "mask")
        return next((way for way in ways if self._is_apart(way)), "none")

    def _is_apart(self, packing: Packing) -> bool:
        """Other words in the first document must change nothing in the second, which must be as if it were alone."""
        first, other, second = self._tokens(_FIRST), self._tokens(_FIRST).flip(1) + 1, self._tokens(_SECOND)
        try:
            row = self._run(torch.cat([first, second], 1), packing)
            changed = self._run(torch.cat([other % int(second.max() + 2), second], 1), packing)
            alone = self._run(second, "positions")
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        if row.ndim != 3 or not torch.isfinite(row).all():
            return False
        behind, size = row[:, _FIRST:], float(row.abs().max())
        exact = not _is_mixed(self.inner)
        untouched = torch.allclose(behind, changed[:, _FIRST:], rtol=0.0, atol=1e-5 * size if exact else 0.0)
        return untouched and torch.allclose(behind, alone, rtol=0.0, atol=(1e-4 if exact else 5e-2) * size)

    def _run(self, ids_BT: Tensor, packing: Packing) -> Tensor:
        """The last hidden state of a row: one document, or two if it is longer than the second."""
        length = ids_BT.shape[1]
        places = list(range(length)) if length == _SECOND else [*range(_FIRST), *range(length - _FIRST)]
        positions_BT = torch.tensor([places], device=ids_BT.device)
        given: dict[str, Any] = {"input_ids": ids_BT, "position_ids": positions_BT, **self._no_cache()}
        if packing != "positions":
            dtype = self._embedding().weight.dtype
            given["attention_mask"] = document_mask(positions_BT, packing == "causal mask", dtype)
        hidden_BTD: Tensor = self.inner.base_model(**given)[0]
        return hidden_BTD.float()

    def _tokens(self, length: int) -> Tensor:
        embedding = self._embedding()
        numbers_T = torch.arange(1, length + 1, device=embedding.weight.device)
        return (numbers_T * 7 % max(2, embedding.num_embeddings - 2)).unsqueeze(0)

    def _embedding(self) -> nn.Embedding:
        return cast(nn.Embedding, self.inner.get_input_embeddings())

    def _start(self) -> dict[str, Any]:
        start = {"decoder_input_ids": self._tokens(1)} if self.inner.config.is_encoder_decoder else {}
        return start | self._no_cache()

    def _no_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if self._takes_cache else {}


def document_mask(positions_BT: Tensor, causal: bool, dtype: torch.dtype) -> Tensor:
    """What is added to the attention scores, (B, 1, T, S): 0 within a document, the least number across documents.

    A document begins wherever a position is not its predecessor plus one.
    """
    starts_BT = torch.ones_like(positions_BT, dtype=torch.bool)
    starts_BT[:, 1:] = positions_BT[:, 1:] != positions_BT[:, :-1] + 1
    documents_BT = starts_BT.cumsum(1)
    allowed_BTS = documents_BT[:, :, None] == documents_BT[:, None, :]
    if causal:
        allowed_BTS = allowed_BTS.tril()
    mask = torch.zeros(allowed_BTS.shape, dtype=dtype, device=positions_BT.device)
    return mask.masked_fill(~allowed_BTS, torch.finfo(dtype).min).unsqueeze(1)


@contextlib.contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and mixed precision where weights of several types meet; then all as before."""
    modes = {part: part.training for part in model.modules()}
    device = next(model.parameters()).device.type
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=_is_mixed(model)):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _is_text_model(model: PreTrainedModel) -> bool:
    if getattr(model, "main_input_name", None) != "input_ids":
        return False
    try:
        return isinstance(model.get_input_embeddings(), nn.Embedding)
    except (NotImplementedError, AttributeError):
        return False


def _has_weights(model: nn.Module) -> bool:
    return all(parameter.device.type != "meta" for parameter in model.parameters())


def _is_mixed(model: nn.Module) -> bool:
    return len({parameter.dtype for parameter in model.parameters()}) > 1
