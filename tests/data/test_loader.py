import threading
from concurrent.futures import BrokenExecutor

import numpy as np
import pytest
import torch

from danlu.core.batch import Batch
from danlu.data.loader import Loader, batches
from danlu.data.sampler import BatchSize, Position, Sampler


class Numbers:
    """Examples whose tokens are all their own number; made ones are counted by thread."""

    fingerprint = "numbers"

    def __init__(self, lengths):
        self.lengths = np.array(lengths)
        self.made = []

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, at):
        self.made.append((at, threading.current_thread().name))
        return {"input_ids": np.full(self.lengths[at], at)}


def collate(examples, ids_B):
    longest = max(len(example["input_ids"]) for example in examples)
    ids_BT = torch.full((len(examples), longest), -1)
    for row, example in zip(ids_BT, examples, strict=True):
        row[: len(example["input_ids"])] = torch.from_numpy(example["input_ids"])
    lengths_B = (ids_BT >= 0).sum(1)
    labels = {
        "tokens": ids_BT.clone(),
        "boxes": tuple(torch.ones(2, 4) for _ in examples),
        "score": torch.ones(len(examples)),
    }
    return Batch(
        inputs={"input_ids": ids_BT}, labels=labels, example_ids_B=ids_B, targets_B=lengths_B, tokens_B=lengths_B
    )


@pytest.fixture
def numbers():
    return Numbers(np.random.default_rng(0).integers(1, 9, 53))


def loader(numbers, **options):
    return Loader(numbers, Sampler(numbers.lengths, seed=3), collate, **options)


def drawn(loader, num_draws, size):
    position, seen = Position(), []
    for _ in range(num_draws):
        batch, position, waited = loader.draw(position, size)
        assert waited >= 0
        seen.append(batch)
    loader.close()
    return seen


@pytest.mark.parametrize("size", [BatchSize(examples=8), BatchSize(tokens=30), BatchSize(examples=1)])
def test_processes_share_what_one_would_draw(numbers, size):
    alone = drawn(loader(numbers), 12, size)
    shares = [drawn(loader(numbers, rank=rank, world_size=3), 12, size) for rank in range(3)]
    for at, whole in enumerate(alone):
        parts = [share[at] for share in shares]
        rows = torch.cat([part.example_ids_B[part.targets_B > 0] for part in parts])
        assert rows.tolist() == whole.example_ids_B.tolist()
        assert sum(part.num_targets for part in parts) == whole.num_targets
        assert sum(part.num_tokens for part in parts) == whole.num_tokens
        assert all(part.num_rows >= 1 for part in parts)


def test_a_process_without_rows_gets_a_muted_one(numbers):
    batch, _, _ = loader(numbers, rank=0, world_size=2).draw(Position(), BatchSize(examples=1))
    assert batch.num_rows == 1
    assert batch.num_targets == batch.num_tokens == 0
    assert (batch.labels["tokens"] == -100).all()
    assert (batch.labels["score"] == 1).all()
    assert batch.weights_B is not None
    assert batch.weights_B.tolist() == [0.0]


def test_the_next_batch_is_made_ahead_and_dropped_when_another_is_wanted(numbers):
    ahead = loader(numbers)
    size = BatchSize(examples=4)
    _, after, _ = ahead.draw(Position(), size)
    second, _, _ = ahead.draw(after, size)
    assert {thread for at, thread in numbers.made if at in second.example_ids_B.tolist()} == {"danlu-loader_0"}
    back, _, _ = ahead.draw(Position(cursor=20), size)
    plain = Sampler(numbers.lengths, seed=3)
    assert back.example_ids_B.tolist() == plain.draw(Position(cursor=20), size)[0].tolist()
    skip = frozenset(plain.draw(Position(cursor=24), size)[0].tolist())
    other, _, _ = ahead.draw(Position(cursor=24), size, skip)
    assert not skip & set(other.example_ids_B.tolist())
    ahead.close()


def test_a_fault_while_looking_ahead_shows_only_when_it_matters(numbers):
    class Faulty(Numbers):
        def __getitem__(self, at):
            if at == 7:
                raise OSError("the disk went away")
            return super().__getitem__(at)

    faulty = Faulty(numbers.lengths)
    ahead = Loader(faulty, Sampler(faulty.lengths, seed=0, shuffle=False), collate)
    _, after, _ = ahead.draw(Position(cursor=6), BatchSize(examples=1))
    with pytest.raises(OSError, match="went away"):
        ahead.draw(after, BatchSize(examples=1))
    assert ahead.draw(Position(cursor=8), BatchSize(examples=1))[0].example_ids_B.tolist() == [8]
    ahead.close()


@pytest.mark.parametrize("size", [BatchSize(examples=8), BatchSize(tokens=25), BatchSize(tokens=1)])
@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_sees_every_example_once(numbers, size, world_size):
    shares = [list(batches(numbers, collate, size, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    seen = torch.cat([batch.example_ids_B[batch.targets_B > 0] for share in shares for batch in share])
    assert sorted(seen.tolist()) == list(range(len(numbers)))
    assert max(int(share[0].tokens_B.max()) for share in shares) == numbers.lengths.max()


def test_a_batch_whose_worker_died_is_made_anew(numbers):
    told, fatal = [], [3]

    class Dying(Numbers):
        def __getitem__(self, at):
            if at in fatal:
                fatal.remove(at)
                raise BrokenExecutor("killed")
            return super().__getitem__(at)

    examples = Dying([1] * 8)
    loader = Loader(examples, Sampler(examples.lengths, seed=0, shuffle=False), collate, note=told.append)
    position, seen = Position(), []
    for _ in range(4):
        batch, position, _ = loader.draw(position, BatchSize(examples=2))
        seen += batch.example_ids_B.tolist()
    loader.close()
    assert seen == list(range(8))
    assert len(told) == loader.restarts == 1


def test_a_worker_that_dies_for_ever_ends_the_run():
    class Dead(Numbers):
        def __getitem__(self, at):
            raise OSError("gone")

    examples = Dead([1] * 4)
    loader = Loader(examples, Sampler(examples.lengths, seed=0), collate)
    with pytest.raises(OSError, match="gone"):
        loader.draw(Position(), BatchSize(examples=2))
    loader.close()
    assert loader.restarts == Loader.MOST_RESTARTS + 1


def test_rows_are_read_by_several_threads_and_stay_in_order(numbers):
    alone, many = loader(numbers), loader(numbers)
    many.set_workers(3)
    numbers.made.clear()
    one, two = (each.draw(Position(), BatchSize(examples=6))[0] for each in (alone, many))
    for each in (alone, many):
        each.close()
    assert torch.equal(one.example_ids_B, two.example_ids_B)
    assert torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
    assert any(name.startswith("danlu-reader") for _, name in numbers.made)
