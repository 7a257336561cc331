import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import RequestError
from danlu.data.config import TokenizerConfig
from danlu.data.tokenizers import _sample, load_tokenizer, make_tokenizer

TEXTS = ["the fire in the furnace burns the wood\n", "def burn(wood):\n    return wood\n", "Öfen brauchen Holz 丹炉\n"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_trained_tokenizers_write_everything_back(kind, cache):
    config = TokenizerConfig(train=kind, size=320)
    tokenizer = make_tokenizer(config, lambda: TEXTS * 5, key="k", cache=cache)
    assert len(tokenizer) <= 320
    assert None not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    for text in (*TEXTS, "never seen: 🔥\t\r\n  x", " leading"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_any_text_survives(tokenizer):
    @settings(max_examples=50, deadline=None)
    @given(text=st.text(max_size=60))
    def check(text):
        if not any(token in text for token in tokenizer.all_special_tokens):
            assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text

    check()


def test_a_tokenizer_is_trained_once(cache):
    config = TokenizerConfig(train="bpe", size=300)
    asked = []

    def texts():
        asked.append(True)
        return TEXTS

    first, second = (make_tokenizer(config, texts, key="k", cache=cache) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert len(asked) == 1
    make_tokenizer(config, texts, key="other", cache=cache)
    make_tokenizer(TokenizerConfig(train="bpe", size=301), texts, key="k", cache=cache)
    assert len(asked) == 3


def test_the_recipe_the_model_or_a_trained_one(trained_folder, cache):
    def none():
        raise AssertionError("nothing is to be trained")

    named = make_tokenizer(TokenizerConfig.model_validate({"from": str(trained_folder)}), none, key="k", cache=cache)
    of_model = make_tokenizer(None, none, key="k", cache=cache, base=str(trained_folder))
    assert named.get_vocab() == of_model.get_vocab()
    assert len(make_tokenizer(None, lambda: TEXTS, key="k", cache=cache)) > 256


@pytest.mark.parametrize("name", ["no/such-tokenizer", "./nowhere"])
def test_what_cannot_be_loaded(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    with pytest.raises(RequestError, match=r"no tokenizer can be loaded from .*train one"):
        load_tokenizer(name)
    assert time.monotonic() - started < 20


def test_no_text_to_train_on(cache):
    with pytest.raises(RequestError, match="no text to train"):
        make_tokenizer(None, lambda: [], key="k", cache=cache)


def test_padding_is_always_possible(trained_folder, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained_folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == tokenizer.eos_token


def test_much_text_is_sampled_evenly_and_the_same_each_time():
    texts = [f"{n:06d}" * 100_000 for n in range(150)]  # 90 MB in pieces of at most 1 MiB
    num_bytes = sum(map(len, texts))
    taken = list(_sample(texts, num_bytes))
    assert 30e6 < sum(map(len, taken)) < 36e6
    numbers = [int(piece[:6]) for piece in taken]
    assert numbers[0] == 0
    assert numbers[-1] > 140
    assert [piece[:6] for piece in _sample(texts, num_bytes)] == [piece[:6] for piece in taken]
    assert list(_sample(["a", "b"], 2)) == ["a", "b"]
