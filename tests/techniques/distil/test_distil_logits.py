"""The loss against torch's own kl_div, the cache against the teacher itself, and what is refused."""

import shutil

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from danlu.core.batch import IGNORED, Batch
from danlu.core.errors import RequestError, RunError
from danlu.core.outputs import Outputs
from danlu.core.technique import Setting
from danlu.techniques import _scores
from danlu.techniques.distil import distil_logits
from danlu.techniques.distil._kept import Kept, Said, Shown, shown_of
from danlu.techniques.distil._teacher import _same_tokens
from danlu.techniques.distil.distil_logits import DistilLogits
from danlu.techniques.regularise.token_dropout import TokenDropout
from tests.conformance.tiny import VOCAB, farthest, finish, make_engine


def _first_batch(engine):
    return engine.draw()[0]


def _loss_terms(engine, batch):
    return engine.module(batch, engine.context()).terms


def _by_hand(engine, teacher, batch, T):
    """Hinton's loss over the valid targets, from the two models' whole logits."""
    theirs = AutoModelForCausalLM.from_pretrained(teacher)
    given = {name: field for name, field in batch.inputs.items() if name == "input_ids"}
    with torch.no_grad():
        p, q = (model.eval()(**given).logits / T for model in (theirs, engine.model))
    valid = batch.labels["tokens"] != IGNORED
    return T * T * functional.kl_div(q[valid].log_softmax(-1), p[valid].softmax(-1), reduction="sum")


def _alone(batch: Batch) -> Batch:
    """Rows that hold one document, which need no positions."""
    if "position_ids" not in batch.inputs:
        return batch
    whole = [at for at in range(batch.num_rows) if (batch.inputs["position_ids"][at, 1:] != 0).all()]
    return batch.rows(whole[0], whole[0] + 1)


def test_the_loss_is_hintons_over_valid_targets(make_teacher, tmp_path):
    teacher = make_teacher()
    engine = make_engine(tmp_path / "run", [DistilLogits(teacher=teacher, temperature=3.0, weight=0.5)])
    batch = _alone(_first_batch(engine))
    assert (batch.labels["tokens"] == IGNORED).any()
    ours = _loss_terms(engine, batch)["distil_logits"]
    torch.testing.assert_close(ours, 0.5 * _by_hand(engine, teacher, batch, 3.0), rtol=1e-4, atol=1e-4)
    engine.close()


def test_task_weight_scales_the_tasks_loss_exactly(tmp_path):
    engine = make_engine(tmp_path, [DistilLogits(task_weight=0.25)])
    batch = _first_batch(engine)
    total, terms, _ = engine.module(batch, engine.context())
    assert float(terms["distil_logits"]) == pytest.approx(0.0, abs=1e-4)  # `start` is the student itself, as yet
    torch.testing.assert_close(total.detach(), 0.25 * terms["loss"] + terms["distil_logits"])
    engine.close()


@pytest.mark.parametrize("cache", [False, True])
def test_chunks_of_logits_change_nothing(make_teacher, tmp_path, monkeypatch, cache):
    technique = DistilLogits(teacher=make_teacher(), divergence="js", cache=cache, top_k=5)
    whole = finish(make_engine(tmp_path / "whole", [technique], steps=3))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    monkeypatch.setattr(_scores, "CHUNK_ELEMENTS", 7 * VOCAB)
    monkeypatch.setattr(distil_logits, "CHUNK_ELEMENTS", 7 * VOCAB)
    parts = finish(make_engine(tmp_path / "parts", [technique], steps=3))
    assert farthest(whole.weights, parts.weights) < 1e-5


def test_a_cache_of_everything_is_the_teacher_and_runs_it_once(make_teacher, tmp_path, own_cache, monkeypatch):
    teacher = make_teacher()
    asked = finish(make_engine(tmp_path / "asked", [DistilLogits(teacher=teacher)], steps=8))  # 48 rows: 6 an epoch
    cached = DistilLogits(teacher=teacher, cache=True, top_k=VOCAB)
    first = finish(make_engine(tmp_path / "first", [cached], steps=8))
    assert first.losses == pytest.approx(asked.losses, rel=1e-3)

    def nobody(*args, **kwargs):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(distil_logits, "make_teacher", nobody)
    again = finish(make_engine(tmp_path / "again", [cached], steps=8))
    assert farthest(again.weights, first.weights) == 0.0
    assert again.losses == first.losses
    assert len(list(own_cache.glob("teachers/*/64/*.said"))) == 1


@pytest.mark.parametrize("emptied", [False, True])
def test_resumes_bit_for_bit_with_the_cache_and_without(make_teacher, tmp_path, own_cache, emptied):
    technique = DistilLogits(teacher=make_teacher(), cache=True, top_k=4)
    straight = finish(make_engine(tmp_path / "straight", [technique], steps=8, micro_rows=4))
    (checkpoint,) = (tmp_path / "straight/checkpoints").glob("step-*4")
    shutil.copytree(checkpoint, tmp_path / "on/checkpoints" / checkpoint.name)
    kept = next(own_cache.glob("teachers/*/64/*.said"))
    if (
        emptied
    ):  # a crash right after the checkpoint: what the steps after it had the teacher say is lost, half a record too
        whole = kept.read_bytes()
        kept.write_bytes(whole[: len(whole) * 4 // 5])
    engine = make_engine(tmp_path / "on", [technique], steps=8, micro_rows=4)
    engine.restore(engine.checkpoints.newest())
    resumed = finish(engine)
    assert farthest(resumed.weights, straight.weights) == 0.0


def test_changed_examples_are_noticed(make_teacher, tmp_path):
    techniques = [DistilLogits(teacher=make_teacher(), cache=True), TokenDropout(p=0.2)]
    with pytest.raises(RunError, match=r"distil_logits.cache: example \d+ was shown to the teacher with other inputs"):
        finish(make_engine(tmp_path / "run", techniques, steps=8))


def test_what_is_kept_survives_cuts_and_damage(tmp_path):
    said = [Said(torch.randn(n, 4).numpy(), torch.randint(0, 9, (n, 3)).numpy()) for n in (2, 1, 3)]
    shown = [Shown(example, -example, len(entry.indices)) for example, entry in enumerate(said, start=5)]
    kept = Kept(tmp_path, k=3, num_outcomes=70_000, where="here")
    written = kept.add(shown, said)
    for ours, theirs in zip(written, said, strict=True):
        assert (ours.indices == theirs.indices).all()
        assert abs(ours.log_probs - theirs.log_probs).max() < 2e-3
    (file,) = tmp_path.glob("*.said")
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        found = [Kept(tmp_path, k=3, num_outcomes=70_000, where="here").find([one]) for one in shown]
        assert sum(entry is not None for entry in found) == (length >= 64) + (length >= 108)
    file.write_bytes(whole[:30] + bytes([whole[30] ^ 1]) + whole[31:])
    again = Kept(tmp_path, k=3, num_outcomes=70_000, where="here")
    assert again.find(shown) is None
    assert len(again.find(shown[1:])) == 2
    again.add(shown[:1], said[:1])
    assert (again.find(shown)[0].indices == said[0].indices).all()


def test_padding_and_company_do_not_change_what_an_example_is_known_by(tmp_path):
    engine = make_engine(tmp_path, [])
    batch = _first_batch(engine)
    rows = [int(at) for at in batch.example_ids_B]
    single = [shown_of(engine.plan.task.collate([engine.plan.data.train[at]], torch.tensor([at])))[0] for at in rows]
    assert shown_of(batch) == single
    assert len({one.inputs for one in single}) == len(single)
    assert shown_of(batch.muted()) == []
    engine.close()


def test_refuses_what_cannot_be_compared(make_teacher, tmp_path):
    with pytest.raises(RequestError, match=r"teacher knows 32 tokens, the student 64"):
        make_engine(tmp_path / "a", [DistilLogits(teacher=make_teacher(vocab_size=32))])
    with pytest.raises(RequestError, match="no folder"):
        make_engine(tmp_path / "b", [DistilLogits(teacher=str(tmp_path / "nothing"))])
    engine = make_engine(tmp_path / "c", [])

    class Tools:
        def __init__(self, *words):
            self.words = words

        def get_vocab(self):
            return dict(enumerate(self.words))

    with pytest.raises(RequestError, match=r"distil_logits.teacher: T has another tokenizer .*2 tokens against 1"):
        _same_tokens(Tools("a"), Tools("a", "b"), "T", distil_logits.WHERE)
    boxes = Outputs(extra={"boxes": torch.zeros(1)})
    state = DistilLogits().start_in(Setting(), engine.model)
    with pytest.raises(RequestError, match="no probabilities"):
        DistilLogits().loss_terms(boxes, _first_batch(engine), engine.context(), state)
    engine.close()
