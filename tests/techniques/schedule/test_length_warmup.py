import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from danlu.core.errors import RequestError
from danlu.core.technique import Setting
from danlu.techniques.schedule.length_warmup import LengthWarmup


def test_rows_grow_by_multiples_of_eight(make_model, make_ctx, batch):
    model, technique = make_model(), LengthWarmup(begin=4, over=1.0)
    state, wide = technique.start_in(Setting(lengths_N=np.array([40, 12])), model), torch.arange(3, 43).repeat(4, 1)
    rows = dataclasses.replace(
        batch, inputs={"input_ids": wide}, labels={"tokens": wide}, targets_B=torch.tensor([40] * 4)
    )
    found = []
    for step in range(10):
        cut = technique.on_batch(rows, make_ctx(model, technique, step=step), state)
        assert torch.equal(cut.inputs["input_ids"], wide[:, : cut.inputs["input_ids"].shape[1]])
        found.append(cut.inputs["input_ids"].shape[1])
    assert found == [4, 4, 8, 8, 16, 16, 24, 24, 32, 32]  # 4 + 36 p, downwards


def test_what_is_cut_off_is_no_target(make_model, make_ctx, batch):
    model, technique = make_model(), LengthWarmup(begin=6)
    labels = batch.labels["tokens"].clone()
    labels[0, 2:10] = -100
    rows = dataclasses.replace(
        batch,
        inputs={**batch.inputs, "position_ids": torch.arange(16).repeat(4, 1)},
        labels={"tokens": labels, "num_bytes": torch.arange(4)},
        targets_B=(labels != -100).sum(1),
        tokens_B=torch.tensor([16, 16, 5, 16]),
    )
    cut = technique.on_batch(
        rows, make_ctx(model, technique), technique.start_in(Setting(lengths_N=np.array([16])), model)
    )
    assert cut.inputs["position_ids"].shape == cut.labels["tokens"].shape == (4, 6)
    assert cut.targets_B.tolist() == (cut.labels["tokens"] != -100).sum(1).tolist() == [2, 6, 6, 6]
    assert cut.tokens_B.tolist() == [6, 6, 5, 6]
    assert torch.equal(cut.labels["num_bytes"], torch.arange(4))


def test_it_leaves_whole_what_is_short_or_late(make_model, make_ctx, batch):
    model, technique = make_model(), LengthWarmup(begin=6, over=0.5)
    state = technique.start_in(Setting(lengths_N=np.array([16])), model)
    assert technique.on_batch(batch, make_ctx(model, technique, step=5), state) is batch
    assert LengthWarmup(begin=16).on_batch(batch, make_ctx(model, LengthWarmup(begin=16)), state) is batch


def test_other_targets_are_refused(make_model, make_ctx, batch):
    config = AutoConfig.for_model("t5", d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=20)
    with pytest.raises(RequestError, match="do not lie along one text"):
        LengthWarmup().on_model(AutoModelForSeq2SeqLM.from_config(config))
    model, technique = make_model(), LengthWarmup(begin=6)
    rows = dataclasses.replace(batch, labels={"classes": torch.zeros(4)})
    with pytest.raises(RequestError, match="this task's targets"):
        technique.on_batch(
            rows, make_ctx(model, technique), technique.start_in(Setting(lengths_N=np.array([16])), model)
        )
