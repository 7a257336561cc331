import torch

from danlu.core.technique import in_order
from danlu.techniques.regularise.grad_clip import GradClip
from danlu.techniques.schedule.gradual_unfreezing import GradualUnfreezing


def _with_gradient(model, make_ctx, technique, step):
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    ctx = make_ctx(model, technique, step=step, steps=12)
    technique.on_grads(list(model.parameters()), ctx, technique.start(model))
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_thaws_from_the_top_down(make_model, make_ctx):
    model, technique = make_model(num_hidden_layers=2), GradualUnfreezing(until=0.5)
    at = lambda step: _with_gradient(model, make_ctx, technique, step)  # noqa: E731
    head = {"model.norm.weight", "lm_head.weight"}
    assert at(0) == at(1) == head  # 3 thaws in the first 6 of 12 steps: at 2, 4 and 6
    assert all(name in head or ".layers.1." in name for name in at(2))
    assert any(".layers.1." in name for name in at(3))
    assert any(".layers.0." in name for name in at(4))
    assert "model.embed_tokens.weight" not in at(5)
    assert at(6) == {name for name, _ in model.named_parameters()}


def test_the_norm_is_clipped_without_what_is_frozen():
    assert [t.name() for t in in_order([GradClip(), GradualUnfreezing()])] == ["gradual_unfreezing", "grad_clip"]
