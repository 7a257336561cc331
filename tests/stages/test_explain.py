"""Explain says what will happen, and starts nothing."""

from pathlib import Path

import pytest

from danlu.core.words import sparkline
from danlu.recipe.load import read_tree
from danlu.recipe.recipe import Recipe
from danlu.stages.explain import Explanation, explain


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(10):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number} " * 2000)
    return read_tree(
        {
            "name": "small",
            "task": "text-generation",
            "data": {"train": "texts", "valid": "20%", "context": 64, "tokenizer": {"train": "bpe", "size": 500}},
            "model": {"design": {"family": "llama", "layers": 2, "width": 32, "heads": 2}},
            "train": {
                "budget": {"steps": 100},
                "batch": {"tokens": 256},
                "schedule": {"warmup": 10, "shape": "linear"},
            },
            "techniques": {"dropout": {"p": 0.1}, "grad_clip": {"norm": 1.0}},
        }
    )


def lines(explanation: Explanation, title: str) -> dict[str, str]:
    return dict(next(section.lines for section in explanation.sections if section.title.startswith(title)))


def test_every_section(recipe: Recipe, tmp_path: Path) -> None:
    told = explain(recipe, processes=2)
    assert "8 files" in lines(told, "data")["train"]
    assert "2 files" in lines(told, "data")["valid"]
    assert "500 entries" in lines(told, "data")["tokenizer"]
    assert lines(told, "run")["processes"] == "2, ddp"
    assert {"feed-forward", "attention", "embedding", "head", "norms"} == {
        what.strip() for what in lines(told, "model") if what.startswith("  ")
    }
    assert lines(told, "techniques")["dropout"].startswith("on_model")
    assert "dial grad_clip" in lines(told, "techniques")["grad_clip"]
    rate = lines(told, "dials")["learning_rate"]
    assert [float(word) for word in rate.split()[:6]] == pytest.approx(
        [1e-4, 6e-4, 8.33e-4, 5.56e-4, 2.78e-4, 0], rel=0.02
    )
    assert "100 steps: about 100 step" in lines(told, "time")["budget"]
    assert "MiB" in lines(told, "memory")["weights"] or "KiB" in lines(told, "memory")["weights"]
    assert not (tmp_path / "runs").exists()


def test_a_rate_to_be_found_is_told_as_a_share(recipe: Recipe) -> None:
    optimizer = recipe.train.optimizer.model_copy(update={"lr": "find"})
    told = explain(recipe.model_copy(update={"train": recipe.train.model_copy(update={"optimizer": optimizer})}))
    rate = lines(told, "dials")["learning_rate (× the one found)"]
    assert [float(word) for word in rate.split()[:3]] == pytest.approx([0.1, 0.6, 0.833], rel=0.02)


def test_the_model_is_counted_without_being_made(recipe: Recipe) -> None:
    # embedding and head 500·32 each; a layer: q, k, v, o 32·32 each, gate, up, down 32·M each, two norms; one norm
    told = lines(explain(recipe), "model")
    assert told["parameters"].endswith("k")
    assert told["  embedding"].startswith("16k")
    assert told["  attention"].startswith("8.19k")


def test_warnings(recipe: Recipe) -> None:
    train = recipe.train.model_copy(update={"batch": recipe.train.batch.model_copy(update={"tokens": 32})})
    told = " ".join(explain(recipe.model_copy(update={"train": train})).warnings)
    assert "holds not one whole row" in told


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 7]) == "▁▂▃█"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([5.0, 5.0]) == "██"
