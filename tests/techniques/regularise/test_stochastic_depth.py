import pytest
import torch

from danlu.techniques.regularise.stochastic_depth import StochasticDepth


@pytest.fixture(params=["llama", "gpt2"])
def model(request, make_model):
    small = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    return make_model(request.param, **(small | {"embd_pdrop": 0.0} if request.param == "gpt2" else {}))


def _through_first_block(model, block):
    """What entered and left the first block in one forward pass of 16 rows."""
    seen = []
    hooks = (
        block.register_forward_pre_hook(
            lambda _module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        ),
        block.register_forward_hook(lambda _module, _args, out: seen.append(out[0] if isinstance(out, tuple) else out)),
    )
    torch.manual_seed(3)
    model(torch.arange(64).view(16, 4))
    for hook in hooks:
        hook.remove()
    return seen


def test_rows_take_a_block_whole_and_scaled_or_not_at_all(model, make_ctx):
    technique = StochasticDepth(p=0.5)
    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    clean_in, clean_out = _through_first_block(model, blocks[0])
    model = technique.on_model(model)
    technique.before_step(make_ctx(model, technique), technique.start(model))
    entering, leaving = _through_first_block(model, blocks[0])
    kept_B = (leaving - entering).flatten(1).norm(dim=1) > 1e-6
    assert 0 < kept_B.sum() < 16
    expected = entering[kept_B] + (clean_out - clean_in)[kept_B] / 0.75
    torch.testing.assert_close(leaving[kept_B], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(leaving[~kept_B], entering[~kept_B])
    assert [block.skip_p for block in blocks] == [0.25, 0.5]


def test_evaluation_and_p_zero_are_the_identity(model, make_ctx):
    tokens_BT = torch.arange(24).view(2, 12)
    clean = model(tokens_BT).logits
    for p, mode in ((0.0, True), (0.5, False)):
        technique = StochasticDepth(p=p)
        model = technique.on_model(model).train(mode)
        technique.before_step(make_ctx(model, technique), technique.start(model))
        assert torch.equal(model(tokens_BT).logits, clean)
