import time

import datasets
import pytest

from danlu.core import hub as reach
from danlu.core.errors import DataError
from danlu.data.formats.arrow import ArrowFormat
from danlu.data.formats.parquet import ParquetFormat
from danlu.data.hub import files_of
from danlu.data.sources import open_source


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reach.hub_reachable.cache_clear()
    yield
    reach.hub_reachable.cache_clear()


@pytest.mark.parametrize("spec", ["somebody/some-set", "somebody/some-set:test", "hub:some-set:config:test"])
def test_without_the_hub_there_is_one_kind_message_at_once(spec, cache, offline):
    started = time.monotonic()
    with pytest.raises(DataError, match=r"not a file here, and the Hugging Face hub does not give it.*Check"):
        open_source(spec, cache=cache)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("spec", ["a b", "hub:a/b/c", "hub:a:b:c:d", "what?"])
def test_what_is_no_name(spec, cache):
    with pytest.raises(DataError):
        open_source(spec, cache=cache)


def test_what_datasets_keeps_on_disk_is_read_where_it_lies(write, tmp_path, cache):
    path = write("a.jsonl", [{"text": f"row {n}"} for n in range(300)])
    data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "hf"))
    ((file, form),) = files_of(data, "name", cache)
    assert form == "arrow"
    assert [row.fields["text"] for row in ArrowFormat().rows(file, "a", None)] == [f"row {n}" for n in range(300)]
    assert not cache.exists()
    part = data.select(range(5, 8))
    for _ in range(2):
        ((file, form),) = files_of(part, "name[5:8]", cache)
        assert form == "parquet"
        assert [row.fields["text"] for row in ParquetFormat().rows(file, "a", None)] == ["row 5", "row 6", "row 7"]
    assert len(list((cache / "hub").glob("*.parquet"))) == 1


def test_a_folder_saved_by_datasets_is_a_source(tmp_path, cache):
    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    assert [row.fields["text"] for row in open_source(str(tmp_path / "saved"), cache=cache)] == ["one", "two"]
