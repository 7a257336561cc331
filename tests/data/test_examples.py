import numpy as np
import pytest

from danlu.data.examples import Examples, Listed, Meta, Writer, concatenate, open_examples


def written(folder, examples, *, joined=()):
    writer = Writer(folder)
    for at, example in enumerate(examples):
        writer.add(example, joined=at in joined)
    writer.close()
    meta = Meta(
        fingerprint="f", num_examples=writer.num_examples, fields=writer.layouts, skipped=Listed(), truncated=Listed()
    )
    meta.write(folder / "meta.json")
    return writer


def text(ids, num_bytes=1):
    return {"input_ids": np.array(ids, dtype=np.uint16), "num_bytes": np.asarray(num_bytes, dtype=np.int64)}


def test_what_goes_in_comes_out(tmp_path):
    written(tmp_path, [text([1, 2, 3], 5), text([], 0), text([9], 7)])
    examples = Examples(tmp_path)
    assert len(examples) == 3
    assert [example["input_ids"].tolist() for example in (examples[0], examples[1], examples[-1])] == [
        [1, 2, 3],
        [],
        [9],
    ]
    assert [int(examples[at]["num_bytes"]) for at in range(3)] == [5, 0, 7]
    assert examples.lengths.tolist() == [3, 0, 1]
    assert examples.num_tokens == 4
    assert examples.column("num_bytes").tolist() == [5, 0, 7]
    assert examples.part("input_ids", 0, 1, 3).tolist() == [2, 3]
    assert examples.part("input_ids", 0, 1, 99).tolist() == [2, 3]
    assert not examples[0]["input_ids"].flags.writeable
    for outside in (3, -4):
        with pytest.raises(IndexError):
            examples[outside]


def test_joined_examples_become_one(tmp_path):
    written(tmp_path, [text([1], 1), text([2, 3], 2), text([4], 4), text([5], 8)], joined={1, 2})
    examples = Examples(tmp_path)
    assert [examples[at]["input_ids"].tolist() for at in range(2)] == [[1, 2, 3, 4], [5]]
    assert examples.column("num_bytes").tolist() == [7, 8]


def test_joining_survives_writing_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "_BUFFER_BYTES", 1)
    written(tmp_path, [text([n], 1) for n in range(100)], joined=set(range(1, 100)) - {50})
    examples = Examples(tmp_path)
    assert examples.lengths.tolist() == [50, 50]
    assert examples.column("num_bytes").tolist() == [50, 50]
    assert examples[1]["input_ids"].tolist() == list(range(50, 100))


def test_pictures_keep_their_shape(tmp_path):
    pictures = [np.arange(n * 6, dtype=np.uint8).reshape(n, 2, 3) for n in (1, 4)]
    written(tmp_path, [{"pixels": picture, "label": np.asarray(1.5)} for picture in pictures])
    examples = Examples(tmp_path)
    assert all((examples[at]["pixels"] == picture).all() for at, picture in enumerate(pictures))
    assert float(examples[0]["label"]) == 1.5
    assert examples.lengths.tolist() == [1, 4]


def test_fields_must_agree(tmp_path):
    writer = Writer(tmp_path)
    writer.add(text([1]))
    for other in ({"input_ids": np.array([1], dtype=np.uint16)}, text([1]) | {"num_bytes": np.asarray(1.0)}):
        with pytest.raises(TypeError, match="must agree"):
            writer.add(other)


def test_shards_are_one_after_the_other(tmp_path):
    shards = [tmp_path / f"shard-{at}" for at in range(3)]
    layouts = [written(shard, [text([at, at], at), text([7], 1)]).layouts for at, shard in enumerate(shards)]
    whole = tmp_path / "whole"
    whole.mkdir()
    concatenate([(shard, layout, False) for shard, layout in zip(shards, layouts, strict=True)], whole)
    Meta(fingerprint="f", num_examples=6, fields=layouts[0], skipped=Listed(), truncated=Listed()).write(
        whole / "meta.json"
    )
    examples = Examples(whole)
    assert [examples[at]["input_ids"].tolist() for at in range(6)] == [[0, 0], [7], [1, 1], [7], [2, 2], [7]]
    assert examples.column("num_bytes").tolist() == [0, 1, 1, 1, 2, 1]
    assert [path.name for shard in shards for path in shard.iterdir()] == ["meta.json"] * 3


def test_a_shard_may_continue_the_one_before(tmp_path):
    shards = [tmp_path / f"shard-{at}" for at in range(3)]
    layouts = [written(shard, [text([at], at + 1), text([7], 1)]).layouts for at, shard in enumerate(shards)]
    whole = tmp_path / "whole"
    whole.mkdir()
    concatenate([(shards[at], layouts[at], joined) for at, joined in enumerate((False, True, False))], whole)
    Meta(fingerprint="f", num_examples=5, fields=layouts[0], skipped=Listed(), truncated=Listed()).write(
        whole / "meta.json"
    )
    examples = Examples(whole)
    assert [examples[at]["input_ids"].tolist() for at in range(5)] == [[0], [7, 1], [7], [2], [7]]
    assert examples.column("num_bytes").tolist() == [1, 3, 1, 3, 1]


@pytest.mark.parametrize("name", ["input_ids.values", "input_ids.ends", "num_bytes.values", "meta.json"])
def test_a_damaged_folder_is_as_good_as_none(tmp_path, name):
    written(tmp_path, [text([1, 2, 3]), text([4])])
    assert open_examples(tmp_path) is not None
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1])
    assert open_examples(tmp_path) is None
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert open_examples(tmp_path) is None
    (tmp_path / name).unlink()
    assert open_examples(tmp_path) is None


def test_a_list_keeps_its_first_thousand():
    one = Listed(count=800, rows=tuple({"row": n} for n in range(800)))
    both = one.plus(one)
    assert (both.count, len(both.rows)) == (1600, 1000)
