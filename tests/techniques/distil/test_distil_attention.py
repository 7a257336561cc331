"""The loss by hand over the maps that transformers' plain attention gives, and what is refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.core.batch import IGNORED
from danlu.core.errors import RequestError
from danlu.maths.distillation import attention_distance
from danlu.techniques.distil.distil_attention import DistilAttention
from tests.conformance.tiny import finish, make_engine


@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_the_loss_by_hand(make_teacher, tmp_path, distance):
    teacher = make_teacher()
    engine = make_engine(tmp_path / "run", [DistilAttention(teacher=teacher, layers="uniform", distance=distance)])
    batch = engine.draw()[0].rows(0, 3)
    ours = engine.module(batch, engine.context()).terms["distil_attention"]
    theirs = AutoModelForCausalLM.from_pretrained(teacher, attn_implementation="eager")
    with torch.no_grad():
        maps = [model.eval()(**batch.inputs, output_attentions=True).attentions for model in (engine.model, theirs)]
    total = torch.zeros(())
    for row, place in (batch.labels["tokens"] != IGNORED).nonzero().tolist():
        for one, other in ((0, 1), (1, 3)):  # layers 1 and 2 of two learn from 2 and 4 of four
            b, a = maps[0][one][row, :, place], maps[1][other][row, :, place]
            seen = a > 0
            total += (a[seen] * (a[seen] / b[seen]).log()).sum() / 4 if distance == "kl" else ((a - b) ** 2).sum() / 4
    torch.testing.assert_close(ours, total, rtol=1e-4, atol=1e-4)
    engine.close()


def test_it_brings_the_maps_nearer_and_evaluations_do_without(make_teacher, tmp_path):
    engine = make_engine(tmp_path / "run", [DistilAttention(teacher=make_teacher(), weight=20.0)])
    batch = engine.draw()[0]
    first = engine.module(batch, engine.context()).terms["distil_attention"]
    finish(engine)
    assert engine.module(batch, engine.context()).terms["distil_attention"] < first


def test_other_numbers_of_heads_are_refused_or_averaged(make_teacher, tmp_path):
    teacher = make_teacher(num_attention_heads=4, num_key_value_heads=4)
    with pytest.raises(RequestError, match=r"heads: the teacher has 4 heads, the student 2. Set it to mean"):
        finish(make_engine(tmp_path / "each", [DistilAttention(teacher=teacher)]))
    done = finish(make_engine(tmp_path / "mean", [DistilAttention(teacher=teacher, heads="mean")], steps=2))
    assert done.engine.clock.step == 2


def test_gradients_are_finite_where_keys_are_masked():
    teacher = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    scores = torch.tensor([[[[0.0, float("-inf")], [200.0, -200.0]]]], requires_grad=True)
    attention_distance(scores.softmax(-1), teacher).sum().backward()
    assert scores.grad.isfinite().all()
