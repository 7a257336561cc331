import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.examples import Examples, Listed, Meta, Writer
from danlu.data.packing import best_fit, cut, pack


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """make(documents, masks) -> Examples; a document's bytes are ten times its tokens, less those of the first."""

    def build(documents, masks=None) -> Examples:
        folder = tmp_path_factory.mktemp("examples")
        writer = Writer(folder)
        for at, document in enumerate(documents):
            example = {
                "input_ids": np.array(document, dtype=np.uint16),
                "num_bytes": np.asarray(10 * len(document) + at, dtype=np.int64),
            }
            writer.add(example if masks is None else example | {"labels_mask": np.array(masks[at], dtype=bool)})
        writer.close()
        fields = writer.layouts
        Meta(fingerprint="f", num_examples=len(documents), fields=fields, skipped=Listed(), truncated=Listed()).write(
            folder / "meta.json"
        )
        return Examples(folder)

    return build


def documents_of(lengths):
    """Every token names its document and its place: 100 * document + place (mod 2**16)."""
    return [[(100 * at + place) % 65536 for place in range(length)] for at, length in enumerate(lengths)]


def placed_one_by_one(lengths, capacity, order):
    """Best-fit decreasing as in the textbook; gives the rooms left."""
    rooms = []
    for at in order:
        fitting = [row for row, room in enumerate(rooms) if room >= lengths[at]]
        if fitting:
            row = min(fitting, key=lambda row: rooms[row])
            rooms[row] -= lengths[at]
        else:
            rooms.append(capacity - lengths[at])
    return sorted(rooms)


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=200)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(0, 2**40))
def test_best_fit_holds_every_piece_once_and_is_the_textbooks(lengths, seed):
    lengths = np.array(lengths)
    order, ends = best_fit(lengths, 50, seed)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    rows = np.split(order, ends[:-1])
    assert all(0 < lengths[row].sum() <= 50 for row in rows)
    assert all((np.diff(row) > 0).all() for row in rows)
    descending = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    assert sorted(50 - lengths[row].sum() for row in rows) == placed_one_by_one(lengths, 50, descending)
    again, again_ends = best_fit(lengths, 50, seed)
    assert (again == order).all()
    assert (again_ends == ends).all()


def test_a_million_documents_take_seconds():
    lengths = np.minimum(np.exp(np.random.default_rng(0).normal(5, 1.2, 1_000_000)).astype(int) + 1, 2048)
    started = time.process_time()
    _, ends = best_fit(lengths, 2048, 0)
    assert time.process_time() - started < 10
    assert lengths.sum() / (len(ends) * 2048) > 0.999


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=30), st.integers(2, 20))
def test_every_token_but_the_first_is_predicted_once(make, lengths, context):
    documents = documents_of(lengths)
    rows = cut(make(documents), context)
    seen = {}
    for at in range(len(rows)):
        row = rows[at]
        ids, labels = row["input_ids"], row["labels"]
        assert 0 < len(ids) <= context
        assert labels[0] == -100
        assert (labels[1:] == ids[1:]).all()
        assert row["position_ids"].tolist() == list(range(len(ids)))
        assert (np.diff(ids.astype(int)) % 65536 == 1).all()  # a piece is a run of one document
        for token in labels[1:]:
            seen[int(token)] = seen.get(int(token), 0) + 1
    assert seen == {token: 1 for document in documents for token in document[1:]}
    assert int(rows.num_bytes.sum()) == sum(10 * length + at for at, length in enumerate(lengths))
    assert (rows.num_bytes >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=30), st.integers(2, 40), st.integers(0, 99))
def test_packing_mixes_nothing_and_loses_nothing(make, lengths, context, seed):
    documents = documents_of(lengths)
    examples = make(documents)
    rows = pack(examples, context, seed)
    targets = []
    num_bytes = 0
    for at in range(len(rows)):
        row = rows[at]
        assert len(row["input_ids"]) == rows.lengths[at] <= context
        starts = np.flatnonzero(row["position_ids"] == 0)
        for begin, end in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True):
            piece = row["input_ids"][begin:end].astype(int)
            assert (np.diff(piece) == 1).all()
            assert row["position_ids"][begin:end].tolist() == list(range(end - begin))
            assert row["labels"][begin] == -100
            assert (row["labels"][begin + 1 : end] == piece[1:]).all()
            targets += piece[1:].tolist()
        num_bytes += int(row["num_bytes"])
    assert sorted(targets) == sorted(token for document in documents for token in document[1:])
    assert num_bytes == sum(10 * length + at for at, length in enumerate(lengths))
    assert rows.fill == pytest.approx(cut(examples, context).num_tokens / (len(rows) * context))


def test_only_what_is_masked_is_learnt(make):
    rows = pack(make([[1, 2, 3, 4], [5, 6, 7]], [[0, 0, 1, 1], [1, 1, 0]]), 8, 0)
    assert len(rows) == 1
    assert rows[0]["labels"].tolist() == [-100, -100, 3, 4, -100, 6, -100]
    assert rows[0]["position_ids"].tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_names_follow_the_content(make):
    examples = make(documents_of([5, 60, 7]))
    names = {cut(examples, 10).fingerprint, cut(examples, 11).fingerprint}
    names |= {pack(examples, 10, 0).fingerprint, pack(examples, 10, 1).fingerprint}
    assert len(names) == 4
    assert pack(examples, 10, 0).fingerprint == pack(examples, 10, 0).fingerprint


def test_rows_outside(make):
    rows = pack(make(documents_of([5])), 10, 0)
    assert len(rows[-1]["input_ids"]) == 5
    for at in (1, -2):
        with pytest.raises(IndexError):
            rows[at]


def test_sources_share_no_row(make):
    examples = make(documents_of([3] * 10))
    examples.meta = dataclasses.replace(examples.meta, files=(("a", 4), ("b", 5), ("c", 1)))
    together = pack(examples, 8, 0)
    examples.sources = {"a": 0, "b": 1, "c": 1}
    apart = pack(examples, 8, 0)
    assert [len(together), len(apart)] == [5, 5]
    assert apart.column("source").tolist() == [0, 0, 1, 1, 1]
    for at, source in enumerate(apart.column("source")):
        assert {int(piece >= 4) for piece in apart.pieces_of(at)} == {source}
    assert sorted(np.concatenate([apart.pieces_of(at) for at in range(5)]).tolist()) == list(range(10))
    assert apart.fingerprint != together.fingerprint
