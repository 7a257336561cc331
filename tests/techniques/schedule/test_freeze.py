import pytest

from danlu.core.errors import RequestError
from danlu.optim.build import parameter_groups
from danlu.techniques.schedule.freeze import Freeze


def _trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_first_blocks_and_what_lies_before_them(make_model):
    trained = _trained(Freeze(blocks=1).on_model(make_model()))
    assert {name.split(".")[1] if "." in name else name for name in trained} >= {"layers", "norm"}
    assert all(name.startswith(("model.layers.1.", "model.norm", "lm_head")) for name in trained)
    assert "lm_head.weight" in trained


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"names": ["*"], "keep": ["lm_head"]}, {"lm_head.weight"}),
        ({"names": ("model",), "keep": ("*.norm.weight",)}, {"lm_head.weight", "model.norm.weight"}),
    ],
)
def test_by_name(make_model, options, expected):
    assert _trained(Freeze(**options).on_model(make_model())) == expected


def test_what_fits_nothing_is_refused(make_model):
    with pytest.raises(RequestError, match=r"Did you mean 'lm_head\.weight'"):
        Freeze(names=("lm_heads.weight",)).on_model(make_model())
    with pytest.raises(RequestError, match="Names look like"):
        Freeze(names=("zzz",)).on_model(make_model())
    with pytest.raises(RequestError, match="no weight that may be trained"):
        parameter_groups(Freeze(names=("*",)).on_model(make_model()))
