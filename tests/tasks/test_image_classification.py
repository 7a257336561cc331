"""Image classification: from folders and tables to a model that transformers loads, and back."""

import io
import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from danlu.core.errors import DataError, RequestError
from danlu.data.config import DataConfig
from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.models.estimate import flops_per_token
from danlu.recipe.load import load_recipe
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.report import write_report
from danlu.stages.train import train
from danlu.tasks.image_classification import ImageClassification

FAMILIES = {
    "vit": {"layers": 2, "width": 32, "heads": 2, "options": {"patch_size": 8}},
    "dinov2": {"layers": 2, "width": 32, "heads": 2, "options": {"patch_size": 8}},
    "resnet": {"options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}},
    "convnextv2": {"options": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}},
    "swinv2": {"options": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}},
}


def stripes(kind: str, seed: int) -> Image.Image:
    """Lines along the rows or along the columns, with noise."""
    draw = np.random.default_rng(seed)
    wave = np.sin(np.arange(32) * (0.9 + 0.2 * draw.random()) + 6 * draw.random())[:, None].repeat(32, 1)
    wave = wave if kind == "level" else wave.T
    return Image.fromarray((128 + 80 * wave + draw.normal(0, 15, (32, 32))).clip(0, 255).astype(np.uint8))


def folder_of(root: Path, num: int = 24) -> Path:
    for kind in ("level", "upright"):
        (root / kind).mkdir(parents=True)
        for at in range(num):
            stripes(kind, at).save(root / kind / f"{at:02}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on folders of stripes."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "recipe.yaml"
    path.write_text(f"""
name: stripes
task: {{kind: image-classification, image_size: 32, judge: accuracy, num_samples: 3}}
data: {{train: {folder_of(folder / "pictures")}, valid: 25%, cache: {folder / "cache"}}}
model: {{design: {{family: resnet, options: {json.dumps(FAMILIES["resnet"]["options"])}}}}}
train:
  budget: {{steps: 24}}
  batch: {{examples: 12}}
  optimizer: {{kind: adamw, lr: 5.0e-3}}
  precision: fp32
techniques: {{affine: {{degrees: 5, shift: 0.05}}, colour: {{}}}}
""")
    return train(load_recipe(path), out=folder / "out")


def test_trains_to_a_model_that_transformers_loads(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["metrics"]["best"]["accuracy"] == 1.0
    model = AutoModelForImageClassification.from_pretrained(run / "model").eval()
    processor = AutoImageProcessor.from_pretrained(run / "model")
    assert model.config.id2label == {0: "level", 1: "upright"}
    assert model.config.image_mean == list(processor.image_mean)
    inputs = processor([stripes(kind, 99).convert("RGB") for kind in ("upright", "level")], return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).logits.argmax(1).tolist() == [1, 0]


def test_evaluates_and_predicts_folders_and_tables(run: Path, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "new", num=3)
    assert evaluate(run, data=str(root))["accuracy"] == 1.0
    out = tmp_path / "made.jsonl"
    assert predict(run, input=root, out=out) == 6
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prediction"] for row in rows] == [row["folder"] for row in rows] == ["level"] * 3 + ["upright"] * 3
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4) for row in rows)
    (root / "rows.csv").write_text("image,note\nlevel/00.png,first\nupright/01.png,second\n")
    predict(run, input=root / "rows.csv", out=out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["note"], row["prediction"]) for row in rows] == [("first", "level"), ("second", "upright")]
    held = io.BytesIO()
    stripes("upright", 5).save(held, "png")
    pandas.DataFrame({"image": [{"bytes": held.getvalue(), "path": "u.png"}], "n": [1]}).to_parquet(root / "a.parquet")
    predict(run, input=root / "a.parquet", out=out)
    row = json.loads(out.read_text())
    assert (row["image"], row["n"], row["prediction"]) == ("u.png", 1, "upright")


def test_a_broken_picture_stops_a_prediction_with_its_place(run: Path, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "new", num=2)
    (root / "level" / "zz.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(DataError, match=r"level/zz.jpg, row 1, field image: .*no sound image"):
        predict(run, input=root, out=tmp_path / "made.jsonl")
    assert not (tmp_path / "made.jsonl").exists()


def test_the_report_shows_the_hardest_pictures(run: Path) -> None:
    page = write_report(run).read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "The hardest pictures" in page
    assert "Before and after" not in page
    assert "AutoImageProcessor" in page


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_designed_and_counted(family: str, tmp_path: Path) -> None:
    task = ImageClassification(image_size=32)
    data = DataConfig(train=str(folder_of(tmp_path / "pictures", num=4)), valid="25%", cache=str(tmp_path / "cache"))
    prepared = task.prepare(data, seed=0, base=None, say=lambda _text: None)
    model = build_model(
        ModelConfig.model_validate({"design": {"family": family, **FAMILIES[family]}}),
        auto_class=task.auto_class,
        context=prepared.context,
        options=prepared.model_options,
    )
    batch = task.collate([prepared.train[at] for at in range(2)], torch.arange(2))
    assert model(**batch.inputs).logits.shape == (2, 2)
    assert model.config.image_size == 32
    assert (batch.num_tokens, prepared.train.lengths.sum()) == (2 * 4, 4 * len(prepared.train))
    assert flops_per_token(model, 4) > 6 * sum(weight.numel() for weight in model.parameters() if weight.ndim > 1) / 32
    model.save_pretrained(tmp_path / "base")
    prepared.tools.save_pretrained(tmp_path / "base")
    again = task.prepare(data, seed=0, base=str(tmp_path / "base"), say=lambda _text: None)
    loaded = build_model(
        ModelConfig.model_validate({"from": str(tmp_path / "base")}),
        auto_class=task.auto_class,
        context=1,
        options=again.model_options,
    )
    torch.testing.assert_close(loaded.eval()(**batch.inputs).logits, model.eval()(**batch.inputs).logits)
    assert loaded.config.image_std == list(prepared.tools.image_std)


def test_flops_are_those_of_the_products() -> None:
    options = {"hidden_sizes": [8, 16], "embedding_size": 8, "depths": [1, 1], "layer_type": "basic"}
    config = ModelConfig.model_validate({"design": {"family": "resnet", "options": options}})
    model = build_model(config, auto_class=ImageClassification.auto_class, options={"image_size": 32, "num_labels": 2})
    stem = 8 * 3 * 7 * 7 * 16 * 16
    first, second = 2 * (8 * 8 * 9 * 8 * 8), (8 * 16 + 16 * 8 * 9 + 16 * 16 * 9) * 4 * 4
    assert flops_per_token(model, 4) == 3 * 2 / 4 * (stem + first + second + 2 * 16)


def test_words_that_a_family_lacks_are_refused() -> None:
    config = ModelConfig.model_validate({"design": {"family": "resnet", "layers": 3}})
    with pytest.raises(RequestError, match=r"resnet has no layers.*options: depths"):
        build_model(config, auto_class=ImageClassification.auto_class)


def test_wrong_requests(tmp_path: Path) -> None:
    data = DataConfig(train=str(folder_of(tmp_path / "pictures", num=2)), valid="25%", cache=str(tmp_path / "cache"))
    with pytest.raises(RequestError, match=r"no metric 'acuracy'.*accuracy"):
        ImageClassification(judge="acuracy").prepare(data, seed=0, base=None, say=lambda _text: None)
    with pytest.raises(DataError, match=r"level/00.png, row 1, field folder: .*label 'level'"):
        ImageClassification(labels=("a", "b")).prepare(data, seed=0, base=None, say=lambda _text: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no image processor"):
        ImageClassification().prepare(data, seed=0, base=str(tmp_path / "empty"), say=lambda _text: None)
