"""A recipe from YAML, from overrides and from Python; everything that is wrong with it in one message."""

from pathlib import Path

import pytest

from danlu.core.clock import Budget
from danlu.core.errors import RequestError
from danlu.recipe import document
from danlu.recipe.load import load_recipe, read_tree
from danlu.recipe.problems import RecipeError
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import resolved_tree, resolved_yaml

GOOD = """
task: text-generation
data:
  train: builtin:python-stdlib
  valid: 2%
  tokenizer: {train: bpe, size: 1000}
  context: 64
model:
  design: {family: llama, layers: 2, width: 32, heads: 2}
train:
  budget: {steps: 40}
  batch: {tokens: 512}
  optimizer: {kind: adamw, lr: 1e-3}
  schedule: {warmup: 5%, shape: cosine, floor: 10%}
techniques:
  dropout: {p: 0.1}
  grad_clip: true
  ema: false
control: off
"""

BAD = """
seed: -1
task: text-generatoin
lr: 3
dta: {train: x}
data:
  trian: x
  context: big
  tokenizer: {train: bpee}
model:
  design: {family: llama, layers: six}
train:
  batch: 5
  budget: {}
  optimizer: {kind: adamww, lr: 1e-3}
  schedule: {shape: cosin}
  dropout: 0.1
techniques:
  dropuot: {p: 1}
  grad_clip: {nrom: 1}
  ema: 3
control: aut
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-gpt.yaml"
    path.write_text(GOOD)
    return path


def test_a_good_recipe(good: Path) -> None:
    recipe = load_recipe(good)
    assert recipe.name == "tiny-gpt"
    assert recipe.task.kind() == "text-generation"
    assert recipe.train.optimizer.lr == 0.001
    assert recipe.train.budget == Budget(steps=40)
    assert recipe.train.evaluate_every.steps == 4
    assert recipe.control == "off"
    assert [technique.name() for technique in recipe.techniques] == ["dropout", "grad_clip"]


def test_the_resolved_recipe_loads_to_an_equal_one(good: Path) -> None:
    recipe = load_recipe(good)
    text = resolved_yaml(recipe)
    assert read_tree(document.parse(text, source="r")) == recipe  # type: ignore[arg-type]
    tree = resolved_tree(recipe)
    assert tree["train"]["checkpoint_every"] == {"seconds": 300.0}  # type: ignore[index]
    assert tree["seed"] == 0


def test_overrides(good: Path) -> None:
    words = [
        "train.optimizer.lr=3e-4",
        "train.budget={minutes: 1}",
        "techniques.dropout=off",
        "techniques.grad_clip.norm=0.5",
        "techniques.weight_decay.l2=0.1",
        "task.num_samples=1",
        "track=tensorboard",
        "name=other",
    ]
    recipe = load_recipe(good, words)
    assert recipe.train.optimizer.lr == 3e-4
    assert recipe.train.budget == Budget(minutes=1)
    assert recipe.train.evaluate_every.seconds == 6
    assert {technique.name(): technique.model_dump() for technique in recipe.techniques}.keys() == {
        "grad_clip",
        "weight_decay",
    }
    assert recipe.task.num_samples == 1  # type: ignore[attr-defined]
    assert recipe.track == ("tensorboard",)
    assert recipe.name == "other"


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    text = str(caught.value)
    for line in (
        "seed (line 2): must be at least 0, not -1.",
        "task (line 3): there is no task 'text-generatoin'. Did you mean 'text-generation'.",
        "lr (line 4): there is no such key. It belongs at train.optimizer.lr.",
        "dta (line 5): there is no such key. Did you mean 'data'.",
        "data.train (line 6): is missing.",
        "data.trian (line 7): there is no such key. Did you mean 'train'.",
        "data.context (line 8): must be a whole number, not 'big'.",
        "data.tokenizer.train (line 9): must be one of bpe, unigram, not 'bpee'. Did you mean 'bpe'.",
        "model.design.layers (line 11): must be a whole number, not 'six'.",
        "train.batch (line 13): must be a section of key: value pairs, not 5.",
        "train.budget (line 14): give at least one of steps, epochs, tokens, minutes.",
        "train.optimizer (line 15): there is no optimizer 'adamww'. Did you mean 'adamw'.",
        "train.schedule (line 16): there is no shape 'cosin'. Did you mean 'cosine'.",
        "train.dropout (line 17): there is no such key. It belongs at techniques.dropout.",
        "techniques.dropuot (line 19): there is no technique 'dropuot'. Did you mean 'dropout'.",
        "techniques.grad_clip.nrom (line 20): there is no such key. Did you mean 'norm'.",
        "techniques.ema (line 21): must be true, false or a section with its options.",
        "control (line 22): must be one of off, suggest, auto, not 'aut'. Did you mean 'auto'.",
    ):
        assert line in text
    assert f"{len(caught.value.problems)} things are wrong" in text
    assert "pydantic" not in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian.batch.tokens=5"], "trian (on the command line): there is no such key. Did you mean 'train'"),
        (["data.context=x"], "data.context (on the command line): must be a whole number, not 'x'"),
        (["train.optimizer.lrr=1"], "adamw has no option 'lrr'. Did you mean 'lr'"),
        (["model.from=abc"], "model (line 8): "),
        (["foo"], "foo: an override is written section.key=value"),
        (["seed=-1"], "seed (on the command line): must be at least 0, not -1"),
        (["track=[wandbb]"], "there is no board 'wandbb'. Did you mean 'wandb'"),
        (["task=5"], "task (on the command line): must be the name of a task"),
        (["name=a/b"], "name (on the command line): must match the pattern"),
        (["data.valid=200%"], "data.valid"),
    ],
)
def test_wrong_overrides(good: Path, words: list[str], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_recipe(good, words)
    assert said in str(caught.value)


def test_what_is_empty_is_not_given(good: Path) -> None:
    text = GOOD.replace("  schedule: {warmup: 5%, shape: cosine, floor: 10%}", "  schedule:").replace(
        "control: off", "control:"
    )
    good.write_text(text.replace("  ema: false", "  ema:") + "parallel:\n5: x\n")
    with pytest.raises(RecipeError, match=r"^[^\n]*: 5 \(line \d+\): there is no such key"):
        load_recipe(good)
    good.write_text(text.replace("  ema: false", "  ema:") + "parallel:\n")
    recipe = load_recipe(good)
    assert recipe.train.schedule.warmup == 0
    assert recipe.control == "auto"
    assert "ema" in [technique.name() for technique in recipe.techniques]


@pytest.mark.parametrize("text", ["", "- a\n", "5", "text", "# nothing\n"])
def test_what_is_no_recipe(good: Path, text: str) -> None:
    good.write_text(text)
    with pytest.raises(RequestError, match=r"a recipe is a list of sections"):
        load_recipe(good)


def test_a_value_is_no_section(good: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.context is no section, it is 64"):
        load_recipe(good, ["data.context.x=1"])


def test_a_file_that_is_not_there(good: Path) -> None:
    with pytest.raises(RequestError, match=r"no such file\. Did you mean"):
        load_recipe(good.with_name("tiny-gtp.yaml"))
    with pytest.raises(RequestError, match="this is a folder"):
        load_recipe(good.parent)


def test_from_python(good: Path) -> None:
    recipe = load_recipe(good)
    same = Recipe(
        name=recipe.name,
        task=recipe.task,
        data=recipe.data,
        model=recipe.model,
        train=recipe.train,
        techniques=tuple(reversed(recipe.techniques)),
        control="off",
    )
    assert resolved_yaml(same) == resolved_yaml(recipe)
    with pytest.raises(RecipeError, match=r"data\.trian: there is no such key. Did you mean 'train'"):
        Recipe(task="text-generation", data={"train": "x", "trian": "x"}, model=recipe.model)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"techniques\.dropout: is given twice"):
        Recipe.model_validate({**dict(recipe), "techniques": [recipe.techniques[0]] * 2})
