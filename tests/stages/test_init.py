"""Init looks at data and writes a recipe that loads, with what the data needs."""

import json
from pathlib import Path

import pytest

from danlu.core.errors import RequestError
from danlu.recipe import document
from danlu.recipe.load import load_recipe
from danlu.stages.init import look_at, propose, write_recipe


def recipe_for(tmp_path: Path, name: str, text: str, **options: str) -> tuple[str, dict[str, dict[str, object]]]:
    (tmp_path / name).write_text(text)
    made = propose(look_at(str(tmp_path / name)), **options)  # type: ignore[arg-type]
    write_recipe(made, tmp_path / "made.yaml", over=True)
    load_recipe(tmp_path / "made.yaml")
    tree = document.parse(made, source="made")
    assert isinstance(tree, dict)
    return made, tree


def test_plain_text(tmp_path: Path) -> None:
    made, tree = recipe_for(tmp_path, "a book.txt", "once upon a time\n" * 3000)
    assert tree["name"] == "a-book"
    assert tree["data"]["format"] == "text"
    assert "columns" not in tree["data"]
    assert tree["techniques"]["early_stop"] == {"patience": 3}
    assert "# " in made
    assert f"danlu explain {tmp_path / 'made.yaml'}" in (tmp_path / "made.yaml").read_text()


def test_prompts_with_other_names(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"Question": f"how much is {n}?", "answer": "much " * n}) + "\n" for n in range(1, 60))
    _made, tree = recipe_for(tmp_path, "qa.jsonl", rows)
    assert tree["data"]["format"] == "prompt"
    assert tree["data"]["columns"] == {"prompt": "Question", "response": "answer"}
    assert tree["data"]["valid"] == "10%"
    assert tree["data"]["context"] == 128


def test_chats_and_a_model_to_start_from(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    rows = (json.dumps({"messages": chat}) + "\n") * 20
    _made, tree = recipe_for(tmp_path, "chats.jsonl", rows, model="some/model")
    assert tree["data"]["format"] == "messages"
    assert tree["model"] == {"from": "some/model", "adapter": {"kind": "lora", "r": 16}}
    assert "tokenizer" not in tree["data"]


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        write_recipe("new", path)
    assert path.read_text() == "mine"


def test_a_wrong_task_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n" * 100)
    with pytest.raises(RequestError, match=r"there is no task 'text-gen'"):
        propose(look_at(str(tmp_path / "a.txt")), task="text-gen")
