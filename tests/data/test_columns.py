import pytest

from danlu.core.errors import DataError, RequestError
from danlu.data.columns import find_columns

CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("fields", "kind", "by_role"),
    [
        ({"text": "a", "id": 3}, "text", {"text": "text"}),
        ({"Content": "a", "url": "b"}, "text", {"text": "Content"}),
        ({"story": "a", "stars": 3}, "text", {"text": "story"}),
        ({"prompt": "a", "response": "b"}, "prompt", {"prompt": "prompt", "response": "response"}),
        ({"question": "a", "answer": "b", "text": "c"}, "prompt", {"prompt": "question", "response": "answer"}),
        (
            {"instruction": "a", "input": "", "output": "b"},
            "prompt",
            {"prompt": "instruction", "response": "output", "input": "input"},
        ),
        ({"input": "a", "output": "b"}, "prompt", {"prompt": "input", "response": "output"}),
        ({"messages": CHAT, "prompt": "a", "response": "b"}, "messages", {"messages": "messages"}),
        ({"conversations": '[{"from": "human", "value": "hi"}]'}, "messages", {"messages": "conversations"}),
        ({"chat": "just words"}, "text", {"text": "chat"}),
    ],
)
def test_what_columns_mean(fields, kind, by_role):
    found = find_columns(fields, where="a.jsonl")
    assert (found.kind, dict(found.by_role)) == (kind, by_role)


def test_the_recipe_may_tell():
    fields = {"q": "a", "a": "b", "text": "c"}
    found = find_columns(fields, told={"prompt": "q", "response": "a"}, where="a")
    assert (found.kind, dict(found.by_role)) == ("prompt", {"prompt": "q", "response": "a"})
    assert find_columns(fields, told={"text": "q"}, where="a").by_role == {"text": "q"}
    assert find_columns({"prompt": "a", "response": "b", "text": "c"}, format="text", where="a").kind == "text"
    assert find_columns({"messages": "[]"}, told={"text": "messages"}, where="a").kind == "text"


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"txet": "a", "b": "c"}, {"format": "text"}, "no column for 'text'.*{text: txet}"),
        ({"texts": "a", "b": "c"}, {}, "no column for 'text'"),
        ({"prompt": "a"}, {"format": "prompt"}, "no column for 'response'.*its columns are prompt"),
        ({"a": 1, "b": 2}, {}, "columns are a, b"),
        ({}, {}, "columns are none"),
        ({"body": "a"}, {"told": {"text": "bodi"}}, "no column 'bodi'.*Did you mean 'body'"),
    ],
)
def test_a_missing_column_is_told_with_the_nearest(fields, options, message):
    with pytest.raises(DataError, match=message) as told:
        find_columns(fields, **options, where="a.jsonl")
    assert str(told.value).startswith("a.jsonl: ")


def test_an_unknown_role():
    with pytest.raises(RequestError, match=r"no role 'txt'.*Did you mean 'text'"):
        find_columns({"a": "b"}, told={"txt": "a"}, where="a")
