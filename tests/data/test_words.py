import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from danlu.data import words as module
from danlu.data.text import Codec
from danlu.data.words import shortcut_for

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = CL100K.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "The furnace's fire  burns; it isn't\n\n    out, costs 1234.50 and\tMORE (much).\r\n",
    "def burn(wood: int) -> float:\n        return wood * 0.5  # été 丹炉 naïve½\n",
] * 10


def byte_level(regex: bool):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def split(pattern: str):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)])


KINDS = {
    "gpt2": byte_level(True),
    "llama3": split(CL100K),
    "qwen": split(QWEN),
    "o200k": split(O200K),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
}


def trained(pre_tokenizer, *, normalizer=None, special=("<|pad|>", "<|end|>")) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return core


@pytest.fixture(scope="module")
def pairs():
    """Tokenizers of each kind with their shortcuts."""
    made = {name: trained(kind) for name, kind in KINDS.items()}
    made["qwen"] = trained(KINDS["qwen"], normalizer=normalizers.NFC())
    return {name: (core, shortcut_for(core, np.dtype(np.uint16))) for name, core in made.items()}


ODD = st.text(alphabet=" \n\t\r\x0b\x1c\x85\u00a0\u3000aBz19½é丹\u0301e'’s.,(_-<|>/🔥ſK", max_size=40)
SENTENCES = st.lists(
    st.sampled_from(["it's", "12", " ", "  \n", "été", "x_y", "<|end|>", "I'LL", "\u200b", "end."])
).map(" ".join)


@pytest.mark.parametrize("name", KINDS)
def test_the_tokens_are_the_tokenizers_own(pairs, name):
    core, shortcut = pairs[name]
    assert shortcut is not None

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.one_of(ODD, SENTENCES, st.text(max_size=30)), max_size=4))
    def check(texts):
        expected = [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=False)]
        assert [ids.tolist() for ids in shortcut.ids(texts)] == expected

    check()


def test_what_is_not_known_to_hold_is_left_alone():
    def refused(core):
        return shortcut_for(core, np.dtype(np.uint16)) is None

    assert refused(trained(pre_tokenizers.Metaspace()))
    assert refused(trained(pre_tokenizers.ByteLevel(add_prefix_space=True)))
    assert refused(trained(KINDS["gpt2"], normalizer=normalizers.Lowercase()))
    assert refused(trained(KINDS["gpt2"], special=("<|pad|>", "  ")))
    assert refused(trained(split(r"\p{Greek}+|\s+")))
    assert refused(trained(split(r"a b|\s+|\S")))  # words may reach across a cut: the trials find it out
    dropping = trained(KINDS["gpt2"])
    dropping.model.dropout = 0.1
    assert refused(dropping)


def test_it_forgets_before_memory_grows(pairs, monkeypatch):
    core, shortcut = pairs["gpt2"]
    monkeypatch.setattr(module, "MOST_WORDS", 10)
    for text in ("a b c d e f g h", "i j k l m n o p", "a i b j " + "q r s t u v w x y z " * 3):
        assert shortcut.ids([text])[0].tolist() == core.encode(text, add_special_tokens=False).ids
        assert len(shortcut._known) <= max(10, len(set(text.split())) + 1)


def test_it_travels_light(pairs):
    _, shortcut = pairs["llama3"]
    shortcut.ids(TEXTS)
    there = pickle.loads(pickle.dumps(shortcut))
    assert there._known == {}
    assert there.ids(TEXTS)[1].tolist() == shortcut.ids(TEXTS)[1].tolist()


def test_danlus_own_tokenizer_takes_it(tokenizer):
    codec = Codec(tokenizer)
    assert codec.words is not None
    assert codec.ids(["fire <|eos|> 1"])[0].tolist() == tokenizer("fire <|eos|> 1", add_special_tokens=False).input_ids
