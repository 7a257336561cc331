"""The cheapest rows of the fault benchmark, run as the benchmark runs them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from faulty.faults import FAULTS, cells
from faulty.measures import Results, criterion, harm, named_ids
from faulty.running import Job, Outcome, run

STEPS_HEALTHY = 240


@pytest.fixture(scope="module")
def healthy() -> Outcome:
    return run(Job(task="circles", seed=0))


def test_a_healthy_run_learns_and_runs_alike_again(healthy):
    assert healthy.status == "finished"
    assert healthy.score > 0.95
    assert healthy.steps == STEPS_HEALTHY
    assert run(Job(task="circles", seed=0)).score == healthy.score


def test_one_nan_gradient_is_skipped(healthy):
    left_alone = run(Job(task="circles", seed=0, fault="nan_gradient"))
    mended = run(Job(task="circles", seed=0, fault="nan_gradient", policy="danlu"))
    assert harm([healthy], [left_alone])[1]
    results = Results([healthy, left_alone, mended])
    verdict = results.verdict(
        next(cell for cell in cells() if (cell.task, cell.fault) == ("circles", "nan_gradient")), "danlu"
    )
    assert verdict is not None
    assert verdict.met, verdict.why


def test_batches_a_thousandfold_are_skipped_and_named(healthy):
    mended = run(Job(task="circles", seed=0, fault="batches_x1000", policy="danlu"))
    met, why = criterion(FAULTS["batches_x1000"], float("nan"), [healthy], [mended])
    assert met, why
    assert set(mended.notes["bad_ids"]) <= named_ids(mended)


def test_a_killed_worker_costs_no_example(healthy):
    mended = run(Job(task="circles", seed=0, fault="killed_worker"))
    assert mended.notes["once_an_epoch"]
    assert mended.score == healthy.score


def test_nan_for_ever_ends_the_run_and_names_the_layer():
    stopped = run(Job(task="circles", seed=0, fault="nan_layer", policy="danlu"))
    met, why = criterion(FAULTS["nan_layer"], float("nan"), [], [stopped])
    assert met, why


def test_half_of_the_cells_are_held_out():
    held = sum(cell.held_out for cell in cells())
    assert 0.4 < held / len(cells()) < 0.6
    assert {FAULTS[cell.fault].row for cell in cells()} == set(range(1, 21))
