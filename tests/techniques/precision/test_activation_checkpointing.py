import pytest
import torch

from danlu.core.errors import RequestError
from danlu.techniques.precision.activation_checkpointing import ActivationCheckpointing


def _gradients(model):
    """The gradients of one step under dropout, and the bytes that autograd kept for them."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens_BT = torch.arange(128).view(2, 64) % 64
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens_BT, labels=tokens_BT, use_cache=False).loss
    loss.backward()
    return [parameter.grad for parameter in model.parameters()], sum(kept.values())


def test_same_gradients_from_less_memory(make_model):
    options = {"num_hidden_layers": 4, "attention_dropout": 0.1}
    plain, plain_bytes = _gradients(make_model(**options))
    model = ActivationCheckpointing().on_model(make_model(**options))
    saved, saved_bytes = _gradients(model)
    assert all(torch.equal(a, b) for a, b in zip(plain, saved, strict=True))
    assert saved_bytes < plain_bytes / 2


def test_a_model_that_cannot_is_refused():
    with pytest.raises(RequestError, match="cannot checkpoint"):
        ActivationCheckpointing().on_model(torch.nn.Linear(2, 2))
