"""What a model is asked: samples of a run, and rows of files with all kinds of columns."""

import numpy as np
import pytest

from danlu.core.errors import DataError
from danlu.data.chat import DEFAULT_TEMPLATE
from danlu.stages.trained import open_model
from danlu.tasks._text_output import TextOptions, asking_encoder, prompts_from, sample_texts


@pytest.fixture
def opened(tiny_model):
    return open_model(tiny_model)


class Rows(list):
    """A list of examples, as much of an ExampleSet as prompts need."""


def example(tokenizer, text, **fields):
    return {"input_ids": np.array(tokenizer(text, add_special_tokens=False)["input_ids"]), **fields}


def test_samples_go_on_from_whole_lines(opened):
    text = "tail of a line\n    indented, whole\ndef push(self, item):\n    return 1\nbroken en"
    rows = Rows(example(opened.tools, text) for _ in range(9))
    assert prompts_from(rows, 3, opened.tools) == ["def push(self, item):"] * 3
    assert prompts_from(Rows([example(opened.tools, "only one broken line")]), 3, opened.tools)[0]


def test_samples_of_answers_go_on_from_the_question(opened):
    ids = example(opened.tools, "What is two and two?\nFour")["input_ids"]
    labels = np.where(np.arange(len(ids)) < 9, -100, ids)
    packed = np.concatenate([ids, ids])
    row = {
        "input_ids": packed,
        "labels": np.concatenate([labels, labels]),
        "position_ids": np.concatenate([np.arange(len(ids))] * 2),
    }
    assert prompts_from(Rows([row]), 1, opened.tools) == [ids[:9].tolist()]


def test_samples_are_prompt_and_text_and_repeat(opened):
    prompts = ["def ", [5, 6, 7]]
    samples = sample_texts(opened.model, opened.tools, prompts, seed=1)
    assert [sample.keys() for sample in samples] == [{"prompt", "text"}] * 2
    assert samples[0]["prompt"] == "def "
    assert samples == sample_texts(opened.model, opened.tools, prompts, seed=1)
    assert sample_texts(opened.model, opened.tools, [], seed=1) == []


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({"text": "Hi"}, {"format": "text"}, "<|bos|>Hi"),
        ({"prompt": "Hi", "id": 1}, {"format": "text"}, "<|bos|>Hi"),
        ({"story": "Hi", "id": 1}, {"format": "text"}, "<|bos|>Hi"),
        ({"q": "Hi"}, {"format": "prompt", "columns": {"prompt": "q", "response": "a"}}, "<|bos|>Hi\n"),
        ({"question": "Hi", "answer": "Ho"}, {"format": "prompt"}, "<|bos|>Hi\n"),
        ({"question": "Hi"}, {"format": "prompt", "template": "danlu"}, "<|bos|><|user|>\nHi\n<|assistant|>\n"),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
            {"format": "auto", "template": "danlu"},
            "<|bos|><|user|>\nHi\n<|assistant|>\n",
        ),
        ({"prompt": "Hi"}, {"format": "prompt", "template": "danlu", "chat": False}, "<|bos|>Hi"),
    ],
)
def test_rows_become_the_prompts_of_training(opened, fields, options, expected):
    encoder = asking_encoder(opened.tools, fields, TextOptions.model_validate(options))
    assert opened.tools.decode(encoder.prompt_ids(fields)) == expected


def test_a_model_of_others_answers_by_its_own_template(opened):
    opened.tools.chat_template = DEFAULT_TEMPLATE
    encoder = asking_encoder(opened.tools, {"prompt": "Hi"}, TextOptions())
    assert opened.tools.decode(encoder.prompt_ids({"prompt": "Hi"})) == "<|bos|><|user|>\nHi\n<|assistant|>\n"


def test_rows_without_a_question_are_refused(opened):
    with pytest.raises(DataError, match="no column for the prompt; its columns are a, b"):
        asking_encoder(opened.tools, {"a": "x", "b": "y"}, TextOptions(format="prompt"))
