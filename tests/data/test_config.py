import pytest
from pydantic import ValidationError

from danlu.core.errors import RequestError
from danlu.data.config import DataConfig, TokenizerConfig, share_of


def test_a_recipe_needs_no_more_than_a_source():
    data = DataConfig(train="a.txt")
    assert (data.valid, data.format, data.packing, data.on_bad, data.context) == ("2%", "auto", "pack", "refuse", 512)
    assert data.train_sources == ("a.txt",)
    assert DataConfig(train=("a", "b")).train_sources == ("a", "b")


def test_the_tokenizer_is_loaded_or_trained_not_both():
    assert TokenizerConfig.model_validate({"from": "x"}).from_ == "x"
    assert TokenizerConfig(train="unigram").size == 8192
    for wrong in ({}, {"from": "x", "train": "bpe"}, {"from": "x", "size": 500}, {"train": "bpe", "size": 10}):
        with pytest.raises(ValidationError):
            TokenizerConfig.model_validate(wrong)


def test_a_recipe_reads_back_what_it_wrote():
    data = DataConfig.model_validate({"train": "a", "tokenizer": {"train": "bpe", "size": 600}})
    assert DataConfig.model_validate(data.model_dump(by_alias=True, exclude_unset=True)) == data


@pytest.mark.parametrize(("valid", "share"), [("2%", 0.02), (" 12.5 % ", 0.125), (".5%", 0.005), ("valid.jsonl", None)])
def test_shares(valid, share):
    assert share_of(valid) == share


@pytest.mark.parametrize("valid", ["0%", "100%", "250%"])
def test_a_share_outside_is_refused(valid):
    with pytest.raises(RequestError, match="no share"):
        share_of(valid)
    with pytest.raises(ValidationError, match="no share"):
        DataConfig(train="a", valid=valid)
