"""The loss by hand, the projection that is trained and checkpointed but leaves no trace, and what is refused."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.core.batch import IGNORED
from danlu.core.errors import RequestError
from danlu.maths.distillation import hidden_distance
from danlu.techniques.distil._layers import layer_pairs, position_weights
from danlu.techniques.distil.distil_hidden import PROJECTION, DistilHidden
from danlu.techniques.regularise.ema import Ema
from tests.conformance.tiny import farthest, finish, make_engine


def test_the_loss_by_hand_with_a_projection(make_teacher, tmp_path):
    teacher = make_teacher()
    engine = make_engine(tmp_path / "run", [DistilHidden(teacher=teacher, weight=0.5, layers={0: 0, 2: 3})])
    batch = engine.draw()[0].rows(0, 3)
    ours = engine.module(batch, engine.context()).terms["distil_hidden"]
    theirs = AutoModelForCausalLM.from_pretrained(teacher)
    given = {**batch.inputs, "output_hidden_states": True}
    with torch.no_grad():
        student, taught = (model.eval()(**given).hidden_states for model in (engine.model, theirs))
        projected = [student[layer] @ getattr(engine.model, PROJECTION).weight.T for layer in (0, 2)]
    valid = batch.labels["tokens"] != IGNORED
    errors = [
        ((one - other) ** 2).mean(-1)[valid].sum() for one, other in zip(projected, (taught[0], taught[3]), strict=True)
    ]
    torch.testing.assert_close(ours, 0.5 * sum(errors) / 2, rtol=1e-4, atol=1e-4)
    engine.close()


def test_the_projection_is_trained_checkpointed_and_left_out(make_teacher, tmp_path):
    techniques = [DistilHidden(teacher=make_teacher(), weight=3.0), Ema(decay=0.5)]
    straight = finish(make_engine(tmp_path / "straight", techniques))
    name = f"{PROJECTION}.weight"
    fresh = make_engine(tmp_path / "fresh", techniques)
    assert farthest({name: straight.weights[name]}, {name: getattr(fresh.model, PROJECTION).weight}) > 1e-3
    assert name not in straight.exported
    with fresh.weights_to_use() as model:
        assert name not in model.state_dict()
    assert name in fresh.model.state_dict()
    fresh.close()
    (checkpoint,) = (tmp_path / "straight/checkpoints").glob("step-*4")
    shutil.copytree(checkpoint, tmp_path / "on/checkpoints" / checkpoint.name)
    engine = make_engine(tmp_path / "on", techniques)
    engine.restore(engine.checkpoints.newest())
    resumed = finish(engine)
    assert farthest(resumed.weights, straight.weights) == 0.0
    assert farthest(resumed.exported, straight.exported) == 0.0


def test_it_brings_the_states_nearer(make_teacher, tmp_path):
    technique = DistilHidden(teacher=make_teacher(), weight=3.0)
    engine = make_engine(tmp_path / "run", [technique])
    batch = engine.draw()[0]
    first = engine.module(batch, engine.context()).terms["distil_hidden"]
    finish(engine)
    assert engine.module(batch, engine.context()).terms["distil_hidden"] < first


def test_distances_and_layers():
    one, two = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 5.0])
    assert float(hidden_distance(one, two)) == pytest.approx((9 + 1) / 2)
    assert float(hidden_distance(one, two, "cosine")) == pytest.approx(1 - 20 / 25)
    assert layer_pairs("uniform", 4, 12, first=0, where="") == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert layer_pairs("last", 4, 12, first=0, where="") == [(4, 12)]
    with pytest.raises(RequestError, match=r"x.layers: the teacher has no layer 13. Its layers are 1 to 12"):
        layer_pairs({1: 13}, 4, 12, first=1, where="x")


def test_positions_of_a_classifier_share_its_rows_weight(make_model, batch):
    mask_BT = torch.ones(4, 16, dtype=torch.int64)
    mask_BT[0, 4:] = 0
    rows = batch.replace(
        inputs={"attention_mask": mask_BT},
        labels={"classes": torch.zeros(4).long()},
        targets_B=torch.ones(4).long(),
        weights_B=torch.tensor([2.0, 1.0, 1.0, 0.0]),
    )
    weights_BT = position_weights(rows, torch.Size((4, 16)))
    torch.testing.assert_close(weights_BT.sum(1), torch.tensor([2.0, 1.0, 1.0, 0.0]))
    assert (weights_BT[0, :4] == 0.5).all()
    assert (weights_BT[0, 4:] == 0).all()
    assert (position_weights(batch, torch.Size((4, 16))) == 1).all()
