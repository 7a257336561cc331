import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from danlu.models.estimate import flops_per_token, memory_estimate, num_parameters
from tests.models.conftest import Make


@pytest.mark.parametrize(("family", "tie"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_flops_agree_with_torchs_counter(tiny: Make, family: str, tie: bool) -> None:
    model = tiny(family, tie=tie)
    model.set_attn_implementation("eager")
    ids = torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False).logits.sum().backward()
    assert flops_per_token(model, 32) * ids.numel() == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_frozen_weights_and_visited_experts_cost_less(tiny: Make) -> None:
    model = tiny()
    whole = flops_per_token(model, 1)
    model.requires_grad_(False)
    assert flops_per_token(model, 1) == pytest.approx(whole * 4 / 6, rel=0.05)
    mixture = tiny("mixtral", options={"num_local_experts": 8, "num_experts_per_tok": 2})
    assert flops_per_token(mixture, 1) < 6 * num_parameters(mixture) / 2


def test_memory_is_near_what_autograd_keeps(tiny: Make) -> None:
    model = tiny("llama", width=64, mlp=192)
    ids = torch.zeros(4, 32, dtype=torch.long)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model(ids, use_cache=False)
    estimate = memory_estimate(model, context=32, rows=4)
    assert estimate.activations == pytest.approx(sum(kept.values()), rel=0.25)
    assert estimate.weights == num_parameters(model) * 4
    assert estimate.optimizer == 2 * estimate.gradients
    small = memory_estimate(model, context=32, rows=4, recompute=True)
    assert small.activations < estimate.activations
    assert estimate.total > small.total
