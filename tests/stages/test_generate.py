"""Generate: text piece by piece, the same for the same seed."""

import dataclasses

import pytest
from transformers import AutoTokenizer

from danlu.core.errors import RequestError
from danlu.data.chat import DEFAULT_TEMPLATE
from danlu.models.writing import Writing
from danlu.stages.generate import generate, prompt_ids
from danlu.stages.trained import open_model


@pytest.fixture(scope="module")
def opened(tiny_model):
    return open_model(tiny_model)


def test_pieces_make_the_text_and_a_seed_repeats_it(opened, tiny_model):
    told = []
    writing = Writing(max_tokens=20, seed=7)
    text = generate(opened, "def ", writing=writing, say=told.append)
    assert "".join(told) == text
    assert generate(tiny_model, "def ", writing=writing) == text
    assert generate(opened, "def ", writing=Writing(max_tokens=20, seed=8)) != text


def test_an_empty_prompt_starts_a_text(opened):
    assert generate(opened, "", writing=Writing(max_tokens=8, seed=1))


def test_chat_is_asked_for_or_as_in_training(opened, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = DEFAULT_TEMPLATE
    told = dataclasses.replace(opened, tools=tokenizer)
    spoken = "<|bos|><|user|>\nHello\n<|assistant|>\n"
    assert tokenizer.decode(prompt_ids(told, "Hello", None)) == "<|bos|>Hello"
    assert tokenizer.decode(prompt_ids(told, "Hello", True)) == spoken
    trained_on_chats = dataclasses.replace(told, data={"format": "messages"})
    assert tokenizer.decode(prompt_ids(trained_on_chats, "Hello", None)) == spoken
    assert tokenizer.decode(prompt_ids(trained_on_chats, "Hello", False)) == "<|bos|>Hello"


def test_chat_without_a_template_is_refused(tiny_model, opened):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    bare = dataclasses.replace(opened, tools=tokenizer)
    with pytest.raises(RequestError, match="no chat template"):
        generate(bare, "Hello", chat=True)


def test_a_prompt_longer_than_the_context_is_refused(opened):
    with pytest.raises(RequestError, match="context holds 64"):
        generate(opened, "long " * 100)
