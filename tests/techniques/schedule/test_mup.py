import pytest
import torch

from danlu.core.errors import RequestError
from danlu.optim.build import build_optimizer, parameter_groups
from danlu.optim.config import OptimizerConfig
from danlu.techniques.schedule.mup import Mup

BASE = 16


def _model(make_model, width, **options):
    heads = width // 8
    sizes = {"num_attention_heads": heads, "num_key_value_heads": heads, "intermediate_size": 2 * width}
    return make_model(hidden_size=width, **sizes, **options)


def test_scales_of_table_3(make_model):
    plain, model = _model(make_model, 64), Mup(base_width=BASE).on_model(_model(make_model, 64))
    ratios = {
        name: float((scaled.norm() / before.norm()).detach())
        for (name, scaled), before in zip(model.named_parameters(), plain.parameters(), strict=True)
    }
    groups = {name: group for group in parameter_groups(model) for name in group["names"]}
    expected = {"model.layers.0.mlp.up_proj.weight": (0.5, 0.25, 4.0), "lm_head.weight": (0.25, 0.25, 4.0)}
    expected |= {"model.embed_tokens.weight": (1.0, 1.0, 1.0), "model.norm.weight": (1.0, 1.0, 0.0)}
    for name, (init, lr, decay) in expected.items():
        assert ratios[name] == pytest.approx(init), name
        assert (groups[name]["lr_scale"], groups[name]["decay"]) == (lr, decay), name


def _coordinates(model, steps):
    """Mean sizes of the last hidden state's and the logits' change over some steps of AdamW at one rate."""
    tokens_BT = torch.randint(3, 64, (4, 16), generator=torch.Generator().manual_seed(0))
    optimizer = build_optimizer(OptimizerConfig(kind="adamw", lr=0.02), model)
    for group in optimizer.param_groups:
        group["lr"] = 0.02 * group["lr_scale"]

    def look():
        with torch.no_grad():
            out = model(tokens_BT, output_hidden_states=True)
        return out.hidden_states[1], out.logits  # what the first block gave, and the head

    before = look()
    for _ in range(steps):
        optimizer.zero_grad()
        model(tokens_BT, labels=tokens_BT).loss.backward()
        optimizer.step()
    return [float((now - old).abs().mean()) for now, old in zip(look(), before, strict=True)]


def test_coordinate_check(make_model):
    """What activations change by keeps its size over an eightfold width; without mup it grows."""
    widths = (BASE, 8 * BASE)
    standard = [_coordinates(_model(make_model, width), 3) for width in widths]
    scaled = [_coordinates(Mup(base_width=BASE).on_model(_model(make_model, width)), 3) for width in widths]
    assert standard[0] == scaled[0]  # the identity at the base
    for which in range(2):
        assert 0.5 < scaled[1][which] / scaled[0][which] < 2.0
        assert standard[1][which] / standard[0][which] > 3.0


def test_what_cannot_be_scaled_is_refused(make_model):
    with pytest.raises(RequestError, match="shares the embedding"):
        Mup(base_width=8).on_model(make_model(tie_word_embeddings=True))
    trained = make_model()
    trained.config.name_or_path = "somewhere"
    with pytest.raises(RequestError, match="trained weights"):
        Mup(base_width=8).on_model(trained)
    with pytest.raises(RequestError, match="no single width"):
        Mup().on_model(torch.nn.Linear(2, 2))
