"""Object detection: losses that add up, what is told about wrong boxes, and a whole small run from train to report."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForObjectDetection

from danlu.core.errors import DataError, RequestError
from danlu.data.config import DataConfig
from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.models.families.dense_detector import DenseDetectorConfig, DenseDetectorForObjectDetection
from danlu.recipe.load import read_tree
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.tasks._detection_loss import SummedLoss
from danlu.tasks._detections import Found, Judged, coco_scores
from danlu.tasks.object_detection import ObjectDetection
from tests.conformance.cases.object_detection import DENSE, NAMES, RT_DETR, pictures

LABELS = {"num_labels": 2, "id2label": dict(enumerate(NAMES))}

RESNET = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
SIZES = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "num_queries": 8}
ENCODER = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "auxiliary_loss": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "rt-detr": RT_DETR,
    "conditional-detr": {
        "family": "conditional_detr",
        "options": {**SIZES, **ENCODER, "backbone_config": {**RESNET, "out_features": ["stage2"]}},
    },
    "deformable-detr": {
        "family": "deformable_detr",
        "options": {
            **{**SIZES, **ENCODER, "d_model": 32, "num_feature_levels": 2, "disable_custom_kernels": True},
            "backbone_config": {**RESNET, "out_features": ["stage1", "stage2"]},
        },
    },
    "d-fine": {
        "family": "d_fine",
        "options": {
            **SIZES,
            **{
                "encoder_in_channels": [8, 16],
                "feat_strides": [4, 8],
                "encode_proj_layers": [1],
                "num_feature_levels": 2,
            },
            **{"encoder_hidden_dim": 16, "encoder_ffn_dim": 16, "encoder_attention_heads": 2, "hidden_expansion": 1.0},
            **{"decoder_in_channels": [16, 16], "decoder_n_points": [2, 2], "num_denoising": 8},
            "backbone_config": {
                **{"model_type": "hgnet_v2", "stem_channels": [3, 8, 8], "stage_in_channels": [8, 8]},
                **{"stage_mid_channels": [8, 8], "stage_out_channels": [8, 16], "stage_num_blocks": [1, 1]},
                **{"stage_downsample": [False, True], "stage_light_block": [False, False], "stage_kernel_size": [3, 3]},
                **{"stage_numb_of_layers": [1, 1], "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8},
                "out_features": ["stage1", "stage2"],
            },
        },
    },
    "rf-detr": {
        "family": "rf_detr",
        "options": {
            **{"d_model": 32, "decoder_layers": 2, "num_queries": 8, "group_detr": 2},
            **{"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2},
            "backbone_config": {
                **{"model_type": "rf_detr_dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
                **{"image_size": 32, "patch_size": 8, "num_windows": 2, "out_features": ["stage1", "stage2"]},
            },
        },
    },
}


def own(boxes: list[list[float]], classes: list[int], weight: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "class_labels": torch.tensor(classes, dtype=torch.int64),
        "weight": torch.tensor(weight),
    }


def model_of(design: dict[str, Any]) -> Any:
    config = ModelConfig.model_validate({"design": design})
    model = build_model(config, auto_class="AutoModelForObjectDetection", options=LABELS, seed=0)
    ObjectDetection().for_model(model)
    return model


@pytest.mark.parametrize("design", FAMILIES.values(), ids=FAMILIES)
def test_the_loss_is_a_sum_over_objects_with_denoising_too(design: dict[str, Any]) -> None:
    model = model_of(design).train()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()  # they look across pictures
    pixels = torch.rand(3, 3, 32, 32)
    labels = [own([[0.5, 0.5, 0.4, 0.4], [0.2, 0.3, 0.2, 0.2]], [0, 1]), own([], []), own([[0.6, 0.4, 0.5, 0.3]], [1])]

    def loss(rows: list[int], weights: list[float]) -> float:
        torch.manual_seed(0)
        chosen = [{**labels[at], "weight": torch.tensor(weight)} for at, weight in zip(rows, weights, strict=True)]
        return float(model(pixels[rows], labels=chosen).loss.detach())

    assert model(pixels, labels=labels).loss.requires_grad
    whole = loss([0, 1, 2], [1.0, 1.0, 1.0])
    assert loss([0, 1, 2], [2.0, 2.0, 2.0]) == pytest.approx(2 * whole, rel=1e-4)
    parts = [loss([0, 1, 2], [float(at == one) for at in range(3)]) for one in range(3)]
    assert sum(parts) == pytest.approx(whole, rel=1e-3)  # one call for all, or one for each
    assert loss([1], [0.0]) == 0.0


def test_a_loss_that_meets_other_processes_is_refused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="the loss of rf_detr divides by the objects of all processes"):
        model_of(FAMILIES["rf-detr"])


def test_a_second_call_does_not_sum_twice() -> None:
    model = model_of(DENSE)
    first = model.loss_function
    ObjectDetection().for_model(model)
    assert isinstance(first, SummedLoss)
    assert model.loss_function is first


def test_the_dense_detector_learns_saves_and_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DenseDetectorConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_size=16, num_labels=2)
    model = DenseDetectorForObjectDetection(config).train()
    pixels = torch.zeros(2, 3, 32, 40)
    pixels[0, :, 8:24, 10:30] = 1.0
    labels = [own([[0.5, 0.5, 0.5, 0.5]], [1]), own([], [])]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(50):
        loss = model(pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    made = model.eval()(pixels)
    best = int(made.logits[0, :, 1].argmax())
    assert torch.allclose(made.pred_boxes[0, best], torch.full((4,), 0.5), atol=0.1)
    assert made.logits[0].max() > made.logits[1].max() + 1
    model.save_pretrained(tmp_path)
    again = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert torch.equal(again(pixels).pred_boxes, made.pred_boxes)


def test_average_precision_of_a_perfect_and_of_an_empty_answer() -> None:
    truth = Found(np.array([[2.0, 2.0, 40.0, 40.0], [50.0, 50.0, 60.0, 60.0]]), np.array([0, 1]), np.ones(2))
    nothing = Found(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0))
    perfect, rows = coco_scores([Judged(0, (64, 64), truth, truth)], NAMES)
    assert (perfect["map"], perfect["map_small"], perfect["map_medium"]) == (1.0, 1.0, 1.0)
    assert np.isnan(perfect["map_large"])
    assert rows == [["disc", 1.0, 1.0, 1.0, 1], ["square", 1.0, 1.0, 1.0, 1]]
    empty, _ = coco_scores([Judged(0, (64, 64), nothing, truth)], NAMES)
    assert empty["map"] == 0.0
    assert set(empty) == set(perfect)


def test_what_is_found_in_a_crowd_counts_neither_way() -> None:
    truth = Found(np.array([[2.0, 2.0, 40.0, 40.0], [50.0, 50.0, 60.0, 60.0]]), np.array([0, 1]), np.ones(2))
    boxes = np.concatenate([truth.boxes, [[41, 41, 49, 49]]])
    found = Found(boxes, np.array([0, 1, 0]), np.array([0.5, 0.5, 0.9]))
    crowd = Found(np.array([[40.0, 40.0, 60.0, 60.0]]), np.array([0]), np.ones(1))
    assert coco_scores([Judged(0, (64, 64), found, truth)], NAMES)[0]["map"] < 0.8
    scores, rows = coco_scores([Judged(0, (64, 64), found, truth, crowd)], NAMES)
    assert scores["map"] == 1.0
    assert rows[0] == ["disc", 1.0, 1.0, 1.0, 1]


def run(folder: Path, **train_more: object) -> Any:
    return {
        "name": "tiny",
        "task": {"kind": "object-detection", "image_size": 32},
        "data": {"train": str(folder), "valid": "30%"},
        "model": {"design": copy.deepcopy(DENSE)},
        "train": {
            "budget": {"steps": 4},
            "batch": {"examples": 8},
            "micro_batch": 8,
            "evaluate_every": {"steps": 4},
            "precision": "fp32",
            **train_more,
        },
    }


def test_from_train_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "coco"
    folder.mkdir()
    pictures(folder, 40)
    made = train(read_tree(run(folder)), out=tmp_path / "run")
    summary = json.loads((made / "summary.json").read_text())
    assert {"map", "map_50", "map_small", "loss"} <= set(summary["metrics"]["best"])
    page = (made / "report.html").read_text()
    assert 'id="boxes"' in page
    assert page.count("data:image/jpeg;base64,") == 6
    found = evaluate(made, data=str(folder))
    assert found["loss"] > 0
    number = predict(made, input=str(folder / "*.png"), out=tmp_path / "out.jsonl", options={"threshold": 0.0})
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert number == len(rows) == 40
    assert {"box", "label", "score"} == set(rows[0]["prediction"][0])
    assert rows[0]["prediction"][0]["label"] in NAMES


def test_a_wrong_metric_and_a_wrong_box_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures(tmp_path, 4)
    data = DataConfig(train=str(tmp_path), valid="50%")
    with pytest.raises(RequestError, match=r"map50'.*map_50"):
        ObjectDetection(judge="map50").prepare(data, seed=0, base=None, say=print)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["annotations"][0]["bbox"][0] = 60
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\[0\].bbox.*leaves the picture of \d+×\d+"):
        ObjectDetection(image_size=32).prepare(data, seed=0, base=None, say=print)
