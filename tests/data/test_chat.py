import json

import numpy as np
import pytest

from danlu.core.errors import RequestError
from danlu.data.chat import DEFAULT_TEMPLATE, answer_bytes, chosen_template, encode_chat, read_messages
from danlu.data.rows import BadField

PLAIN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REWRITING = (
    "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}{{ m['role'] + ':' + m['content'] + ';' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        json.dumps(PLAIN),
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}],
        tuple(PLAIN),
        [{"role": "User", "content": "hi"}, {"role": "model", "content": "yes"}],
    ],
)
def test_shapes_of_conversations(value):
    assert read_messages(value, "messages") == PLAIN


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "empty .null"),
        ([], "empty conversation"),
        (5, "is a int, not a list"),
        ("{oops", "is not JSON"),
        ('"words"', "is a str, not a list"),
        (["hi"], "message 1 is a str"),
        ([{"role": "king", "content": "hi"}], "role 'king'"),
        ([{"content": "hi"}], "role None"),
        ([{"role": "user", "content": None}], "message 1 has no text"),
        ([{"role": "user", "content": "hi"}], "no message of the assistant"),
    ],
)
def test_what_is_no_conversation(value, problem):
    with pytest.raises(BadField, match=problem):
        read_messages(value, "messages")


def test_a_question_needs_no_answer():
    assert len(read_messages(PLAIN[:1], "messages", answered=False)) == 1


def test_answers_are_counted_in_bytes():
    assert answer_bytes([*PLAIN, {"role": "assistant", "content": "é!"}]) == 6
    assert answer_bytes([{"role": "assistant", "content": [{"type": "text", "text": "four"}]}]) == 4


def learnt(tokenizer, template, messages):
    ids, mask = encode_chat(tokenizer, template, messages, "messages")
    assert ids.shape == mask.shape
    return [tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(np.diff(mask)) + 1)]


TURNS = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "2 é丹"},
    {"role": "user", "content": "three?"},
    {"role": "assistant", "content": "3"},
]


def test_danlus_own_template_learns_answers_and_their_end(tokenizer):
    assert learnt(tokenizer, DEFAULT_TEMPLATE, TURNS) == [
        "<|bos|><|system|>\nbe kind\n<|user|>\ntwo?\n<|assistant|>\n",
        "2 é丹<|eos|>",
        "\n<|user|>\nthree?\n<|assistant|>\n",
        "3<|eos|>",
        "\n",
    ]


def test_answers_are_found_in_a_template_without_marks(tokenizer):
    pieces = learnt(tokenizer, CHATML, TURNS)
    assert [pieces[1], pieces[3]] == ["2 é丹<|im_end|>\n", "3<|im_end|>\n"]
    assert "".join(pieces) == tokenizer.apply_chat_template(TURNS, chat_template=CHATML, tokenize=False)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    with pytest.raises(RequestError, match=r"cannot be found.*template: danlu"):
        encode_chat(tokenizer, REWRITING, TURNS, "messages")


def test_a_conversation_that_the_template_refuses(tokenizer):
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadField, match="roles must alternate"):
        encode_chat(tokenizer, template, PLAIN, "messages")


def test_which_template(tokenizer, write):
    assert chosen_template(tokenizer, None) == DEFAULT_TEMPLATE
    assert chosen_template(tokenizer, CHATML) == CHATML
    assert chosen_template(tokenizer, str(write("mine.jinja", CHATML))) == CHATML
    tokenizer.chat_template = CHATML
    assert chosen_template(tokenizer, None) == CHATML
    assert chosen_template(tokenizer, "danlu") == DEFAULT_TEMPLATE
    with pytest.raises(RequestError, match="neither a Jinja text nor a file"):
        chosen_template(tokenizer, "chatml")
