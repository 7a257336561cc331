import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from danlu.core.errors import DataError, RequestError
from danlu.data.sampler import BatchSize, Position, Sampler, Wanted

SIZES = st.one_of(
    st.integers(1, 40).map(lambda n: BatchSize(examples=n)), st.integers(1, 400).map(lambda n: BatchSize(tokens=n))
)


@st.composite
def samplers(draw):
    lengths = np.array(draw(st.lists(st.integers(1, 60), min_size=1, max_size=600)))
    return Sampler(
        lengths,
        seed=draw(st.integers(0, 2**30)),
        bucket=draw(st.booleans()),
        shuffle=draw(st.booleans()),
        run=draw(SIZES),
    )


def stream(sampler, sizes, position, until_epoch, skip=frozenset(), wanted=None):
    """(indices, position before) of each draw until an epoch begins."""
    at = 0
    while position.epoch < until_epoch:
        indices, after = sampler.draw(position, sizes[at % len(sizes)], skip, wanted)
        yield indices, position
        position, at = after, at + 1


@settings(max_examples=80, deadline=None)
@given(samplers(), st.lists(SIZES, min_size=1, max_size=3))
def test_every_example_once_an_epoch_whatever_the_sizes(sampler, sizes):
    for epoch in range(2):
        drawn = [indices for indices, _ in stream(sampler, sizes, Position(epoch=epoch), epoch + 1)]
        assert sorted(np.concatenate(drawn).tolist()) == list(range(len(sampler)))
        assert all(len(indices) for indices in drawn)


@settings(max_examples=50, deadline=None)
@given(samplers(), SIZES, st.data())
def test_a_run_goes_on_from_anywhere(sampler, size, data):
    whole = list(stream(sampler, [size], Position(), 2))
    at = data.draw(st.integers(0, len(whole) - 1))
    state = whole[at][1].state_dict()
    fresh = Sampler(
        sampler.lengths,
        seed=sampler._seed,
        bucket=bool(sampler._window_rows),
        shuffle=sampler._shuffle,
        run=sampler._run,
    )
    rest = list(stream(fresh, [size], Position.load(state), 2))
    assert [indices.tolist() for indices, _ in rest] == [indices.tolist() for indices, _ in whole[at:]]


@settings(max_examples=50, deadline=None)
@given(samplers(), SIZES, st.data())
def test_what_is_quarantined_is_left_out_and_nothing_else(sampler, size, data):
    skip = frozenset(data.draw(st.sets(st.integers(0, len(sampler) - 1), max_size=len(sampler) - 1)))
    position, first = Position(), []
    while position.epoch == 0:
        indices, position = sampler.draw(position, size, skip)
        assert not skip & set(indices.tolist())
        # where only quarantined ones are left of an epoch, the draw is the first of the epoch that follows
        first += indices.tolist() if (position.epoch, position.cursor) <= (1, 0) else []
    assert sorted(first) == sorted(set(range(len(sampler))) - skip)


@settings(max_examples=50, deadline=None)
@given(samplers(), SIZES)
def test_sizes_are_kept(sampler, size):
    for indices, position in stream(sampler, [size], Position(), 1):
        if size.examples is not None:
            left = len(sampler) - position.cursor
            assert len(indices) == min(size.examples, left)
        else:
            assert len(indices) == 1 or sampler.lengths[indices].sum() <= size.tokens


def test_tokens_fill_a_batch():
    sampler = Sampler(np.full(1000, 16), seed=0)
    indices, after = sampler.draw(Position(), BatchSize(tokens=160))
    assert (len(indices), after) == (10, Position(epoch=0, cursor=10))
    lengths = np.random.default_rng(0).integers(1, 64, 5000)
    sizes = [lengths[i].sum() for i, _ in stream(Sampler(lengths, seed=0), [BatchSize(tokens=1024)], Position(), 1)]
    assert min(sizes[:-1]) > 1024 - 64


def test_orders():
    lengths = np.ones(100, dtype=int)

    def epoch(number, **options):
        return Sampler(lengths, **options).draw(Position(epoch=number), BatchSize(examples=100))[0].tolist()

    assert epoch(0, seed=0, shuffle=False) == list(range(100))
    assert epoch(0, seed=0) == epoch(0, seed=0)
    assert len({tuple(epoch(number, seed=seed)) for number in range(2) for seed in range(2)}) == 4


def test_where_a_run_stands():
    sampler = Sampler(np.ones(10, dtype=int), seed=0)
    _, after = sampler.draw(Position(), BatchSize(examples=4))
    assert sampler.epochs(after) == 0.4
    _, after = sampler.draw(Position(cursor=8), BatchSize(examples=4))
    assert after == Position(epoch=1)
    assert Position.load(after.state_dict()) == after


def test_buckets_waste_little_and_come_in_random_order():
    rng = np.random.default_rng(0)
    lengths = np.minimum(np.exp(rng.normal(4.5, 1.0, 20_000)).astype(int) + 1, 1024)
    size = BatchSize(examples=32)

    def batches(**options):
        sampler = Sampler(lengths, seed=0, run=size, **options)
        return [lengths[indices] for indices, _ in stream(sampler, [size], Position(), 1)]

    def waste(drawn):
        return 1 - sum(map(np.sum, drawn)) / sum(batch.max() * len(batch) for batch in drawn)

    bucketed = batches(bucket=True)
    assert waste(bucketed) < 0.1
    assert waste(batches()) > 0.6
    means = np.array([batch.mean() for batch in bucketed])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.15


def test_runs_measured_in_tokens_line_up_with_batches():
    lengths = np.random.default_rng(0).integers(1, 200, 20_000)
    size = BatchSize(tokens=4096)
    sampler = Sampler(lengths, seed=0, bucket=True, run=size)
    drawn = [lengths[indices] for indices, _ in stream(sampler, [size], Position(), 1)]
    assert np.mean([batch.max() - batch.min() for batch in drawn]) < 10
    assert np.mean([batch.sum() for batch in drawn]) > 0.95 * 4096


def test_a_large_set_costs_no_more():
    sampler = Sampler(np.lib.stride_tricks.as_strided(np.array([100]), (10**7,), (0,)), seed=0)
    started = time.process_time()
    for cursor in range(0, 10**7, 10**6):
        sampler.draw(Position(cursor=cursor), BatchSize(tokens=100 * 512))
    assert time.process_time() - started < 1


def test_nothing_to_draw():
    with pytest.raises(DataError, match="no example"):
        Sampler(np.array([], dtype=int), seed=0)
    with pytest.raises(DataError, match="every example is quarantined"):
        Sampler(np.array([1, 2]), seed=0).draw(Position(), BatchSize(examples=1), frozenset({0, 1}))


def test_the_rest_of_an_epoch_may_be_quarantined():
    sampler = Sampler(np.ones(6, dtype=int), seed=0, shuffle=False)
    indices, after = sampler.draw(Position(cursor=3), BatchSize(examples=2), frozenset({3, 4, 5}))
    assert (indices.tolist(), after) == ([0, 1], Position(epoch=1, cursor=2))


@pytest.mark.parametrize("wrong", [{}, {"tokens": 1, "examples": 1}, {"tokens": 0}, {"rows": 3}])
def test_sizes_that_make_no_sense(wrong):
    with pytest.raises(ValidationError):
        BatchSize.model_validate(wrong)


@settings(max_examples=50, deadline=None)
@given(samplers(), SIZES, st.data())
def test_an_epoch_holds_each_example_as_often_as_it_is_wanted(sampler, size, data):
    number = len(sampler)
    weights = np.array(data.draw(st.lists(st.sampled_from([0, 0, 1, 2.5, 40]), min_size=number, max_size=number)))
    weights[data.draw(st.integers(0, number - 1))] = 1.0
    drawn = [indices for indices, _ in stream(sampler, [size], Position(), 1, wanted=Wanted(weights, number))]
    counts = np.bincount(np.concatenate(drawn), minlength=number)
    assert counts.sum() == number
    assert (np.abs(counts - number * weights / weights.sum()) < 1 + 1e-6).all()
    assert not counts[weights == 0].any()


@settings(max_examples=50, deadline=None)
@given(samplers(), SIZES, st.floats(1e-3, 1e3))
def test_equal_weights_change_nothing(sampler, size, weight):
    wanted = Wanted(np.full(len(sampler), weight), len(sampler))
    plain, weighed = (list(stream(sampler, [size], Position(), 2, wanted=which)) for which in (None, wanted))
    assert [indices.tolist() for indices, _ in plain] == [indices.tolist() for indices, _ in weighed]


@pytest.mark.parametrize("bucket", [False, True])
def test_a_weighted_draw_depends_on_place_and_weights_alone(bucket):
    lengths = np.random.default_rng(0).integers(1, 60, 900)
    first, second = (Wanted(np.random.default_rng(seed).random(900), 900) for seed in (1, 2))
    used, fresh = (Sampler(lengths, seed=5, bucket=bucket) for _ in range(2))
    size, position = BatchSize(examples=16), Position(cursor=320)
    for _ in used.draw(position, size, wanted=first), used.draw(position, size):
        pass
    ours, after = used.draw(position, size, frozenset({7}), second)
    theirs, as_well = fresh.draw(position, size, frozenset({7}), second)
    assert ours.tolist() == theirs.tolist()
    assert after == as_well
    assert 7 not in ours


def test_a_draw_is_as_likely_as_its_weight():
    """Over many seeds each place draws an example with its share of the weights."""
    weights, counts = np.array([1.0, 3.0, 0.5, 5.5]), np.zeros(4)
    wanted = Wanted(weights, 4)
    for seed in range(4000):
        counts[Sampler(np.ones(4, dtype=int), seed=seed).draw(Position(), BatchSize(examples=1), wanted=wanted)[0]] += 1
    assert np.abs(counts / 4000 - weights / 10).max() < 0.025


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_weights_that_make_no_sense(weights):
    with pytest.raises(RequestError, match="as many weights"):
        Wanted(np.array(weights), 2)
