import pytest
import torch

from danlu.core.errors import RequestError
from danlu.techniques.regularise.noisy_embeddings import NoisyEmbeddings


def test_follows_the_paper(make_model, make_ctx):
    model, technique = make_model(), NoisyEmbeddings(alpha=5.0)
    table = model.get_input_embeddings()
    tokens_BT = torch.arange(24).view(2, 12)
    clean = table(tokens_BT)
    names = [name for name, _ in model.named_parameters()]
    model = technique.on_model(model)
    technique.before_step(make_ctx(model, technique), technique.start(model))
    torch.manual_seed(1)
    noisy = table(tokens_BT)
    torch.manual_seed(1)
    reach = 5.0 / (12 * 32) ** 0.5
    expected = clean + torch.empty_like(clean).uniform_(-reach, reach)
    assert torch.equal(noisy, expected)
    assert [name for name, _ in model.named_parameters()] == names
    model.eval()
    assert torch.equal(table(tokens_BT), clean)


def test_off_draws_nothing(make_model, make_ctx):
    model, technique = make_model(), NoisyEmbeddings(alpha=0.0)
    model = technique.on_model(model)
    technique.before_step(make_ctx(model, technique), technique.start(model))
    state = torch.get_rng_state()
    model(torch.arange(6).view(1, 6))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_a_table_is_refused():
    with pytest.raises(RequestError, match="no table of input embeddings"):
        NoisyEmbeddings().on_model(torch.nn.Linear(2, 2))
