from pathlib import Path

from danlu.techniques.schedule.batch_warmup import BatchWarmup

from ...conformance.tiny import finish, make_engine


def test_batches_grow_in_stages(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, [BatchWarmup(begin=0.25, over=0.75, stages=3)], steps=8)
    sizes, draw = [], engine.draw

    def counted():
        batch, position, seconds = draw()
        sizes.append(batch.num_examples)
        return batch, position, seconds

    engine.draw = counted
    assert engine.stepper.micro_cost == 8 * 16  # made for the whole batch, not for the first
    finish(engine)
    assert sizes == [2, 2, 4, 4, 6, 6, 8, 8]
    assert engine.clock.examples == sum(sizes)


def test_a_share_is_never_nothing(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, [BatchWarmup(begin=0.01)])
    assert engine.batch_size().examples == 1
    engine.close()
