"""Pairs of texts: columns found, both sides encoded, bad ones named, and mBART's way of marking languages."""

import json

import numpy as np
import pytest

from danlu.core.errors import DataError, RequestError
from danlu.data.cache import encode_cached
from danlu.data.pairs import PairEncoder, Pairs, pair_columns, pair_texts
from danlu.data.rows import BadField, Row
from danlu.data.sources import open_source
from danlu.data.tokenizers import load_tokenizer


@pytest.fixture
def tokenizer(trained_folder):
    return load_tokenizer(str(trained_folder))


def columns(fields, **told):
    return pair_columns(fields, told=told, where="here")


@pytest.mark.parametrize(
    ("fields", "told", "expected"),
    [
        ({"src": "", "tgt": ""}, {}, ("src", "tgt")),
        ({"msgid": "", "msgstr": ""}, {}, ("msgid", "msgstr")),
        ({"en-US": "", "de": ""}, {"source": "en", "target": "de"}, ("en-US", "de")),
        ({"id": "1", "translation": {"de": "", "en": ""}}, {"source": "en", "target": "de"}, ("en", "de")),
        ({"text": "", "target": ""}, {"source": "text"}, ("text", "target")),
    ],
)
def test_columns(fields, told, expected):
    found = columns(fields, **told)
    assert (found["source"], found["target"]) == expected


def test_a_direction_is_never_guessed():
    with pytest.raises(DataError, match="no column for 'source'; its columns are en, de"):
        columns({"en": "", "de": ""})
    with pytest.raises(DataError, match="no column 'fr'"):
        columns({"en": "", "de": ""}, source="en", target="fr")
    with pytest.raises(RequestError, match="no role 'sauce'"):
        columns({"en": "", "de": ""}, sauce="en")
    assert pair_columns({"en": ""}, told={"source": "en", "target": "de"}, where="", answered=False)["source"] == "en"


def test_both_sides_are_encoded(tokenizer):
    encoder = PairEncoder(
        tokenizer, columns({"source": "", "target": ""}), context=32, prefix="to German: ", referenced=True
    )
    example = encoder.one({"source": " fire ", "target": "Feuer"})
    assert tokenizer.decode(example["input_ids"], skip_special_tokens=True) == "to German: fire"
    assert tokenizer.decode(example["labels"], skip_special_tokens=True) == "Feuer"
    assert (example["input_ids"][-1], example["labels"][-1]) == (tokenizer.eos_token_id, tokenizer.eos_token_id)
    assert bytes(example["reference"]).decode() == "Feuer"
    assert encoder.key != PairEncoder(tokenizer, encoder.columns, context=32).key


@pytest.mark.parametrize(
    ("row", "field", "problem"),
    [
        ({"source": "fire", "target": ""}, "target", "holds no text"),
        ({"source": " \n", "target": "Feuer"}, "source", "holds no text"),
        ({"source": None, "target": "Feuer"}, "source", "is empty (null)"),
        ({"source": "fire"}, "target", "is missing"),
        ({"source": "fire", "target": "Feuer " * 30}, "target", "tokens long, the context holds 16"),
    ],
)
def test_bad_rows_name_their_side(tokenizer, row, field, problem):
    encoder = PairEncoder(tokenizer, columns({"source": "", "target": ""}), context=16)
    good = {"source": "wood", "target": "Holz"}
    bad, fine = encoder.encode_rows([Row("a.jsonl", 1, row), Row("a.jsonl", 2, good)])
    assert isinstance(bad, BadField)
    assert bad.field == field
    assert problem in bad.problem
    assert tokenizer.decode(fine[0]["input_ids"], skip_special_tokens=True) == "wood"


def test_long_sides_can_be_cut(tokenizer):
    encoder = PairEncoder(tokenizer, columns({"source": "", "target": ""}), context=8, long="truncate")
    example = encoder.one({"source": "fire", "target": "Feuer " * 30})
    assert len(example["labels"]) == 8
    assert example["labels"][-1] == tokenizer.eos_token_id
    assert "truncated" in example
    with pytest.raises(RequestError, match="cannot be split"):
        PairEncoder(tokenizer, encoder.columns, context=8, long="split")


def test_pairs_are_as_long_as_both_sides_and_some_are_judged(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"translation": {"en": "wood " * at, "de": "Holz"}} for at in range(1, 8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(path), cache=tmp_path / "cache")
    found = columns(rows[0], source="en", target="de")
    assert list(pair_texts(source, found))[:2] == ["wood", "Holz"]
    encoder = PairEncoder(tokenizer, found, context=64)
    examples = encode_cached(source, encoder, key=encoder.key)
    pairs = Pairs(examples, translated=3)
    assert pairs.lengths.tolist() == [len(pairs[at]["input_ids"]) + len(pairs[at]["labels"]) for at in range(7)]
    assert [at for at in range(7) if pairs[at]["judged"]] == [0, 3, 6]
    assert all(Pairs(examples, translated=None).judged_N)
    assert not Pairs(examples).judged_N.any()


def test_a_language_mark_is_the_targets_own(tokenizer, tmp_path):
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    class Marking(PreTrainedTokenizerFast):
        def _mark(self, token):
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{token} $A", special_tokens=[(token, self.convert_tokens_to_ids(token))]
            )

        def _switch_to_input_mode(self):
            self._mark("<|bos|>")

        def _switch_to_target_mode(self):
            self._mark("<|unk|>")

    marking = Marking(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|bos|>", eos_token="<|eos|>", unk_token="<|unk|>"
    )
    example = PairEncoder(marking, columns({"source": "", "target": ""}), context=16).one(
        {"source": "a", "target": "a"}
    )
    assert example["input_ids"][0] == marking.bos_token_id
    assert example["labels"][0] == marking.unk_token_id
    assert np.array_equal(example["input_ids"][1:], example["labels"][1:])
