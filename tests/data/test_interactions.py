"""Interaction tables: the same from every format, in an order that the rows' order does not change."""

import random

import numpy as np
import pytest

from danlu.core.errors import DataError
from danlu.data.config import DataConfig
from danlu.data.histories import HeldOut, ItemVocabulary, Sequences, Windows
from danlu.data.interactions import interaction_columns, k_core, read_interactions, read_titles
from danlu.data.sources import open_source

ROWS = [("7", "20", 3.0, 5), ("7", "3", 4.0, 5), ("7", "100", 1.0, 2), ("10", "3", 5.0, 9), ("10", "20", 2.0, 1)]


def read(path, on_bad="refuse", skip=None):
    source = open_source(str(path))
    columns = interaction_columns(source.peek()[0].fields, {}, source.spec)
    return read_interactions(source, columns, DataConfig(train=str(path), on_bad=on_bad), skip=skip)


def as_text(found):
    return [(found.users[user], found.items[item]) for user, item in zip(found.users_N, found.items_N, strict=True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in ROWS)),
        (
            "a.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            + "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in ROWS),
        ),
        ("ratings.dat", "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in ROWS)),
        (
            "a.jsonl",
            "".join(
                f'{{"user": {u}, "item": {i}, "rating": {r}, "date": "1970-01-01T00:00:0{t}"}}\n' for u, i, r, t in ROWS
            ),
        ),
    ],
)
def test_formats(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    found = read(path)
    assert as_text(found) == [("7", "100"), ("7", "3"), ("7", "20"), ("10", "20"), ("10", "3")], "ties by number"
    assert found.times_N.tolist() == [2, 5, 5, 1, 9]
    assert found.ratings_N.tolist() == [1.0, 4.0, 3.0, 2.0, 5.0]
    assert found.starts().tolist() == [0, 3, 5]


def test_the_order_of_rows_does_not_matter(tmp_path):
    draw = random.Random(0)
    rows = [(draw.randrange(9), draw.randrange(30), 1, draw.randrange(4)) for _ in range(200)]
    found = []
    for name in ("one.dat", "two.dat"):
        draw.shuffle(rows)
        (tmp_path / name).write_text("".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in rows))
        found.append(as_text(read(tmp_path / name)))
    assert found[0] == found[1]


def test_without_time_the_rows_are_in_order(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\nb,z\na,y\nb,a\na,x\n")
    assert as_text(read(tmp_path / "a.csv")) == [("a", "y"), ("a", "x"), ("b", "z"), ("b", "a")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (",3,5,1", "row 3, field user: holds no id"),
        ("1,,5,1", "row 3, field item: holds no id"),
        ("1,3,good,1", "row 3, field rating: is 'good', not a number"),
        ("1,3,5,soon", "row 3, field timestamp: is 'soon', not a time"),
        ("1,3", "row 3: has 2 values where the header has 4"),
    ],
)
def test_broken_rows_are_named(tmp_path, row, said):
    path = tmp_path / "a.csv"
    path.write_text(f"user,item,rating,timestamp\n1,2,3,4\n{row}\n")
    with pytest.raises(DataError, match=f"a.csv, {said}"):
        read(path)
    skipped = []
    assert len(read(path, "skip", skipped.append)) == 1
    assert [bad.number for bad in skipped] == [3]


def test_a_broken_line_of_movielens(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text("1::2::3::4\n1::2::3\n")
    with pytest.raises(DataError, match=r"ratings.dat, row 2: has 3 values where 4 belong"):
        read(path)


def test_k_core_against_a_plain_loop(tmp_path):
    draw = random.Random(1)
    rows = [(draw.randrange(30), int(draw.random() ** 2 * 40), time) for time in range(250)]
    (tmp_path / "a.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    expected = rows
    for _ in range(50):
        users, items = [row[0] for row in expected], [row[1] for row in expected]
        expected = [row for row in expected if users.count(row[0]) >= 5 and items.count(row[1]) >= 5]
    found = k_core(read(tmp_path / "a.csv"), 5)
    assert 0 < len(found) < 250
    assert sorted(as_text(found)) == sorted((str(user), str(item)) for user, item, _ in expected)
    assert set(found.items) == {str(item) for _, item, _ in expected}


def test_titles(tmp_path):
    (tmp_path / "movies.dat").write_bytes("1::Toy Story::Animation\n2::Les Misérables::Drama\n".encode("latin-1"))
    assert read_titles(open_source(str(tmp_path / "movies.dat")), {}) == {"1": "Toy Story", "2": "Les Misérables"}


@pytest.fixture
def sequences():
    """Users with 3, 1, 12 and 2 items, all different."""
    lengths = [3, 1, 12, 2]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(tokens_N=np.arange(10, 28), times_N=np.arange(18), starts_U=starts)


def test_what_is_held_out_is_never_trained_on(sequences):
    test = HeldOut.last(sequences, "next", context=4, back=0, least=2)
    valid = HeldOut.last(sequences, "next", context=4, back=1, least=3)
    assert [int(example["labels"][-1]) for example in map(test.__getitem__, range(len(test)))] == [12, 25, 27]
    assert [int(example["labels"][-1]) for example in map(valid.__getitem__, range(len(valid)))] == [11, 24]
    assert test[1]["input_ids"].tolist() == [21, 22, 23, 24]
    assert test[1]["seen"].tolist() == list(range(14, 25)), "all of the history, not only what is read"
    for objective in ("next", "masked"):
        more = {"mask": 0.5, "copies": 3, "seed": 1} if objective == "masked" else {}
        train = Windows.over(sequences, objective, context=4, stride=4, held_out=2, **more)
        examples = list(map(train.__getitem__, range(len(train))))
        taught = {int(token) for example in examples for token in example["labels"] if token >= 0}
        assert not taught & {11, 12, 24, 25, 26, 27}
        assert [len(example["input_ids"]) for example in examples] == train.lengths.tolist()


def test_stretches_teach_each_step_once_or_overlap(sequences):
    apart = Windows.over(sequences, "next", context=4, stride=4, held_out=2)
    steps = [
        pair
        for example in map(apart.__getitem__, range(len(apart)))
        for pair in zip(example["input_ids"], example["labels"], strict=True)
    ]
    assert sorted(steps) == [(token, token + 1) for token in range(14, 23)]
    assert len(Windows.over(sequences, "next", context=4, stride=2, held_out=2)) > len(apart)


def test_masks_differ_between_copies_alone(sequences):
    train = Windows.over(sequences, "masked", context=8, stride=8, held_out=2, mask=0.3, copies=4, seed=3)
    longest = [example for example in map(train.__getitem__, range(len(train))) if len(example["labels"]) == 8]
    assert len({tuple(example["input_ids"]) for example in longest}) > 1
    for at in range(len(train)):
        example = train[at]
        assert (example["labels"] >= 0).any()
        assert ((example["input_ids"] == 1) == (example["labels"] >= 0)).all()
        assert (train[at]["input_ids"] == example["input_ids"]).all()


def test_the_vocabulary_is_a_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    made = ItemVocabulary(items=("b", "a", "c d"), counts=(3, 2, 0), levels=(1.0, 2.5), titles={"a": "A"})
    made.tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert ItemVocabulary.of(loaded) == made
    assert loaded("a b a", add_special_tokens=False)["input_ids"] == [5, 4, 5]
    assert (made.title(5), made.title(4), made.size) == ("A", "b", 7)
    with pytest.raises(DataError, match="<mask>"):
        ItemVocabulary(items=("<mask>",), counts=(1,)).tokenizer()
