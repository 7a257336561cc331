import pickle
import re

import numpy as np
import pytest

from danlu.core.errors import RequestError
from danlu.data.columns import Columns, find_columns
from danlu.data.rows import WHOLE, BadField, Part, Row
from danlu.data.sources import open_source
from danlu.data.text import TextEncoder, texts_of

TEXT = Columns(kind="text", by_role={"text": "text"})
PROMPT = Columns(kind="prompt", by_role={"prompt": "q", "response": "a"})
CHAT = Columns(kind="messages", by_role={"messages": "m"})


def encode(encoder, *fields, part=WHOLE):
    return encoder.encode_rows([Row("f", n, entry, part) for n, entry in enumerate(fields, 1)])


def one(encoder, fields, part=WHOLE):
    (result,) = encode(encoder, fields, part=part)
    assert not isinstance(result, BadField), result
    (example,) = result
    return example


def problem(encoder, fields):
    (bad,) = encode(encoder, fields)
    assert isinstance(bad, BadField)
    return f"{bad.field} {bad.problem}; {bad.mend}"


def learnt(tokenizer, example):
    ids, mask = example["input_ids"], example["labels_mask"]
    return tokenizer.decode(ids[~mask]), tokenizer.decode(ids[mask])


def test_a_text_stands_between_start_and_end(tokenizer):
    example = one(TextEncoder(tokenizer, TEXT, context=8), {"text": "fire é"})
    assert tokenizer.decode(example["input_ids"]) == "<|bos|>fire é<|eos|>"
    assert example["input_ids"].dtype == np.uint16
    assert int(example["num_bytes"]) == 7
    assert example.keys() == {"input_ids", "num_bytes"}


def test_parts_of_a_text_have_only_the_marks_of_their_own_ends(tokenizer):
    encoder = TextEncoder(tokenizer, TEXT, context=8)
    decoded = [
        tokenizer.decode(one(encoder, {"text": "fire"}, Part(*ends))["input_ids"])
        for ends in ((True, False), (False, False, True), (False, True, True))
    ]
    assert decoded == ["<|bos|>fire", "fire", "fire<|eos|>"]


def test_bytes_that_nothing_comes_before_are_not_counted(tokenizer):
    """Without a start token the first token carries no loss, so its bytes must not enter bits per byte."""
    encoder = TextEncoder(tokenizer, TEXT, context=8)
    example = one(encoder, {"text": "丹fire"}, Part(False, True, joined=False))
    first = len(tokenizer.decode(example["input_ids"][:1]).encode())
    assert int(example["num_bytes"]) == len("丹fire".encode()) - first


def test_the_tokenizers_own_limits_do_not_cut(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    example = one(TextEncoder(tokenizer, TEXT, context=8), {"text": "fire " * 30})
    assert tokenizer.decode(example["input_ids"]) == "<|bos|>" + "fire " * 30 + "<|eos|>"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": None}, "text is empty .null"),
        ({"text": ""}, "text holds no text"),
        ({"text": 5}, "text is a int, not a text"),
        ({"txt": "a"}, "text is missing.*Did you mean 'txt'"),
        ({"text": "half \ud83d"}, "text holds half a character"),
    ],
)
def test_bad_fields(tokenizer, fields, expected):
    encoder = TextEncoder(tokenizer, TEXT, context=8)
    assert re.match(expected, problem(encoder, fields))
    good, bad, also_good = encode(encoder, {"text": "a"}, fields, {"text": "b"})
    assert isinstance(bad, BadField)
    assert (good[0]["input_ids"] != also_good[0]["input_ids"]).any()


def test_long_texts(tokenizer):
    long = {"text": "fire é" * 20}
    split = TextEncoder(tokenizer, TEXT, context=16)
    assert (split.long, split.whole_documents) == ("split", False)
    whole = one(split, long)
    assert len(whole["input_ids"]) > 16
    cut = TextEncoder(tokenizer, TEXT, context=16, long="truncate")
    assert cut.whole_documents
    example = one(cut, long)
    assert example["input_ids"].tolist() == whole["input_ids"][:16].tolist()
    assert bool(example["truncated"])
    assert 0 < int(example["num_bytes"]) < int(whole["num_bytes"])
    refuse = TextEncoder(tokenizer, TEXT, context=16, long="refuse")
    length = len(whole["input_ids"])
    assert f"is {length} tokens long, the context holds 16; Set data.context to {length}" in problem(refuse, long)
    assert "truncated" not in one(refuse, {"text": "a"})


def test_only_the_answer_is_learnt(tokenizer):
    encoder = TextEncoder(tokenizer, PROMPT, context=64)
    example = one(encoder, {"q": "wood?", "a": "yes é"})
    assert learnt(tokenizer, example) == ("<|bos|>wood?\n", "yes é<|eos|>")
    assert int(example["num_bytes"]) == 6
    assert tokenizer.decode(encoder.prompt_ids({"q": "wood?"})) == "<|bos|>wood?\n"
    assert tokenizer.decode(encoder.prompt_ids({"q": "wood: "})) == "<|bos|>wood: "


def test_more_than_a_question(tokenizer):
    columns = find_columns({"instruction": "", "input": "", "output": "", "system": ""}, where="a")
    encoder = TextEncoder(tokenizer, columns, context=64)
    row = {"instruction": "add", "input": "1 2", "output": "3", "system": "be brief"}
    assert learnt(tokenizer, one(encoder, row)) == ("<|bos|>be brief\n\nadd\n\n1 2\n", "3<|eos|>")
    assert learnt(tokenizer, one(encoder, {**row, "input": None, "system": ""})) == ("<|bos|>add\n", "3<|eos|>")
    assert "input is a int" in problem(encoder, {**row, "input": 5})


def test_a_template_makes_a_turn_of_a_prompt(tokenizer):
    encoder = TextEncoder(tokenizer, PROMPT, context=64, template="danlu")
    before, after = learnt(tokenizer, one(encoder, {"q": "wood?", "a": "yes"}))
    assert (before, after) == ("<|bos|><|user|>\nwood?\n<|assistant|>\n\n", "yes<|eos|>")
    assert tokenizer.decode(encoder.prompt_ids({"q": "wood?"})) == "<|bos|><|user|>\nwood?\n<|assistant|>\n"


def test_messages(tokenizer):
    encoder = TextEncoder(tokenizer, CHAT, context=64)
    turns = [{"role": "user", "content": "wood?"}, {"role": "assistant", "content": "yes"}]
    example = one(encoder, {"m": turns})
    assert learnt(tokenizer, example)[1] == "yes<|eos|>"
    assert int(example["num_bytes"]) == 3
    assert tokenizer.decode(encoder.prompt_ids({"m": turns})) == "<|bos|><|user|>\nwood?\n<|assistant|>\n"
    assert tokenizer.chat_template == encoder.template
    assert "m is missing" in problem(encoder, {"n": turns})
    assert "no message of the assistant" in problem(encoder, {"m": turns[:1]})


def test_long_conversations(tokenizer):
    short, long = "ash", "wood " * 40 + "?"
    with pytest.raises(RequestError, match="cannot be split"):
        TextEncoder(tokenizer, PROMPT, context=16, long="split")
    refusing = TextEncoder(tokenizer, PROMPT, context=16)
    assert refusing.long == "refuse"
    assert "the context holds 16; Set data.context" in problem(refusing, {"q": long, "a": short})
    cutting = TextEncoder(tokenizer, PROMPT, context=16, long="truncate")
    example = one(cutting, {"q": long, "a": short})
    before, after = learnt(tokenizer, example)
    assert (len(example["input_ids"]), after) == (16, "ash<|eos|>")
    assert before.startswith("<|bos|>")
    assert before.endswith("\n")
    assert bool(example["truncated"])
    assert "the answer alone does not fit" in problem(cutting, {"q": short, "a": long})
    chat = TextEncoder(tokenizer, CHAT, context=24, long="truncate")
    turns = [{"role": role, "content": short} for role in ("user", "assistant") * 5]
    example = one(chat, {"m": turns})
    assert (len(example["input_ids"]), bool(example["truncated"])) == (24, True)
    assert 0 < int(example["num_bytes"]) < 15
    turns[0] = {"role": "user", "content": long}
    assert "does not fit" in problem(chat, {"m": turns})


def test_the_key_names_what_matters(tokenizer):
    keys = {
        TextEncoder(tokenizer, columns, context=context, long=long, template=template).key
        for columns, context, long, template in [
            (TEXT, 16, "split", None),
            (TEXT, 16, "truncate", None),
            (TEXT, 32, "truncate", None),
            (PROMPT, 16, "refuse", None),
            (PROMPT, 16, "refuse", "danlu"),
            (Columns(kind="text", by_role={"text": "other"}), 16, "split", None),
        ]
    }
    assert len(keys) == 6
    assert TextEncoder(tokenizer, TEXT, context=8).key == TextEncoder(tokenizer, TEXT, context=99).key


@pytest.mark.parametrize("columns", [TEXT, PROMPT, CHAT])
def test_an_encoder_travels_to_another_process(tokenizer, columns):
    encoder = TextEncoder(tokenizer, columns, context=64)
    there = pickle.loads(pickle.dumps(encoder))
    assert there.key == encoder.key
    row = {"text": "a b", "q": "c", "a": "d", "m": [{"role": "assistant", "content": "e"}]}
    assert one(there, row)["input_ids"].tolist() == one(encoder, row)["input_ids"].tolist()


def test_what_a_tokenizer_is_trained_on(write, cache):
    rows = [{"q": "one", "a": "two"}, {"q": None, "a": "\ud83d"}, {"q": "three"}]
    source = open_source(str(write("a.jsonl", rows)), cache=cache)
    assert list(texts_of(source, PROMPT)) == ["one", "two", "three"]
    chats = open_source(
        str(write("b.jsonl", [{"m": [{"role": "user", "content": "x"}, {"from": "gpt", "value": "y"}]}]))
    )
    assert list(texts_of(chats, CHAT)) == ["x", "y"]
