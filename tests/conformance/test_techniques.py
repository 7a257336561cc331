"""Every technique that is found by its path keeps the promises of a technique, in the real engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from danlu.core import discover
from danlu.core.technique import SLOTS, Technique

from .tiny import SIDE, STEPS, Done, farthest, finish, make_engine, whole

ROOT = Path(__file__).parents[2]
NAMES = sorted(discover.paths("danlu.techniques"))
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs to the end, each different one once."""
    done: dict[str, Done] = {}

    def run_once(*techniques: Technique, **options: object) -> Done:
        key = repr((techniques, sorted(options.items())))
        if key not in done:
            done[key] = finish(make_engine(tmp_path_factory.mktemp("run"), techniques, **options))
        return done[key]

    return run_once


def _over(name: str) -> dict[str, bool]:
    """Augmentations have something to do on pictures alone."""
    return {"pictures": True} if ".augment." in discover.paths("danlu.techniques")[name] else {}


def _class(name: str) -> type[Technique]:
    return discover.find("danlu.techniques", name, Technique)


def _example(name: str) -> list[Technique]:
    cls = _class(name)
    return [cls(**cls.example), *_beside(name)]


def _beside(name: str) -> list[Technique]:
    return [_class(other)(**options) for other, options in _class(name).beside.items()]


@pytest.mark.parametrize("name", NAMES)
def test_resumes_bit_for_bit_from_the_middle(name: str, run: Run, tmp_path: Path) -> None:
    straight = run(*_example(name), **_over(name))
    for path in (straight.engine.plan.folder / "checkpoints").glob("step-*"):
        if int(path.name.rpartition("-")[2]) <= 4:
            shutil.copytree(path, tmp_path / "checkpoints" / path.name)
    shutil.copy(straight.engine.plan.folder / "journal.jsonl", tmp_path)
    engine = make_engine(tmp_path, _example(name), **_over(name))
    engine.restore(engine.checkpoints.newest())
    assert engine.clock.step == 4
    resumed = finish(engine)
    assert resumed.engine.clock.step == straight.engine.clock.step
    assert farthest(resumed.weights, straight.weights) == 0.0
    assert farthest(resumed.exported, straight.exported) == 0.0
    assert resumed.losses == straight.losses[-len(resumed.losses) :]
    for (technique, ours), (_, theirs) in zip(engine.active, straight.engine.active, strict=True):
        if ours is not None and technique.state == "saved":
            assert _equal(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_off_is_the_identity(name: str, run: Run) -> None:
    cls = _class(name)
    off, without = run(cls(**cls.off), **_over(name)), run(**_over(name))
    assert farthest(off.weights, without.weights) == 0.0
    assert farthest(off.exported, without.exported) == 0.0
    assert off.losses == without.losses


@pytest.mark.parametrize("name", [name for name in NAMES if _class(name).off])
def test_its_example_is_not(name: str, run: Run) -> None:
    """Options that do nothing would pass every other test."""
    example, without = run(*_example(name), **_over(name)), run(*_beside(name), **_over(name))
    changed = farthest(example.exported, without.exported) > 1e-6
    assert changed or example.engine.clock.step < STEPS


@pytest.mark.parametrize("name", NAMES)
def test_one_micro_batch_is_many(name: str, run: Run) -> None:
    """With sgd, which turns equal gradients into equal steps; random draws inside the model are switched off."""
    cls = _class(name)
    technique = cls(**(cls.off if cls.random_in_forward else cls.example))
    one, many = (run(technique, kind="sgd", lr=0.1, steps=4, micro_rows=rows, **_over(name)) for rows in (8, 2))
    assert farthest(one.weights, many.weights) < 1e-5
    assert farthest(one.exported, many.exported) < 1e-5
    assert one.losses == pytest.approx(many.losses, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_exports_to_a_model_that_loads_without_danlu(name: str, run: Run, tmp_path: Path) -> None:
    engine = run(*_example(name), **_over(name)).engine
    inputs = torch.zeros(1, 3, SIDE, SIDE) if _over(name) else torch.arange(3, 13)[None]
    with engine.weights_to_use() as model, torch.no_grad():
        expected = model.eval()(inputs).logits
        model.save_pretrained(tmp_path)
        weights = whole(engine)
        model.train()
    auto = AutoModelForImageClassification if _over(name) else AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path, attn_implementation=model.config._attn_implementation)
    assert type(loaded).__module__.startswith("transformers.")
    assert farthest(dict(loaded.named_parameters()), weights) == 0.0
    torch.testing.assert_close(loaded(inputs).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_serialises(name: str) -> None:
    cls = _class(name)
    for options in ({}, cls.off, cls.example):
        technique = cls(**options)
        again = cls.model_validate(json.loads(json.dumps(technique.model_dump(mode="json"))))
        assert again == technique
    with pytest.raises(ValueError, match="extra"):
        cls(no_such_option=1)


@pytest.mark.parametrize("name", NAMES)
def test_is_described(name: str) -> None:
    cls = _class(name)
    page = ROOT / "docs" / "techniques" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    for part in ("## Formula", "## When to use it", "## When not", "## Source", "techniques:"):
        assert part in text, f"{page.name} lacks {part!r}"
    assert all(field.description for field in cls.model_fields.values())
    assert cls.__doc__
    assert "Source" in cls.__doc__ and "When not" in cls.__doc__  # noqa: PT018
    assert set(cls.slots()) <= set(SLOTS)


def _equal(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    return one == two
