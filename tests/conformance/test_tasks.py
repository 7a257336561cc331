"""Every task that is found by its path keeps the promises of a task. Its cases are in `tests/conformance/cases/`."""

import dataclasses
import importlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from danlu.core import discover
from danlu.core.batch import Batch
from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials, constant
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.loader import batches
from danlu.data.sampler import BatchSize
from danlu.dist.world import World
from danlu.models.forward import Forward
from danlu.tasks.base import Task
from danlu.train.contrast import pulls
from danlu.train.evaluation import evaluate
from danlu.train.stepper import LossModule, Stepper

from .cases.case import Case

NAMES = sorted(discover.paths("danlu.tasks"))
FOLDER = Path(__file__).parent / "cases"


def all_cases() -> list[tuple[str, str]]:
    """(task, case); a task without a file of cases still appears, and fails."""
    found = []
    for name in NAMES:
        here = (FOLDER / f"{name}.py").is_file()
        cases = importlib.import_module(f"{__package__}.cases.{name}").CASES if here else {"none": None}
        found += [(name, case) for case in cases]
    return found


@pytest.fixture(scope="module", params=all_cases(), ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, which = request.param
    assert (FOLDER / f"{name}.py").is_file(), f"write tests/conformance/cases/{name}.py with CASES"
    make = importlib.import_module(f"{__package__}.cases.{name}").CASES[which]
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp(name)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return make(folder)


def _context(case: Case) -> StepContext:
    return StepContext(
        clock=Clock(budget=Budget(steps=1)), dials=Dials(()), model=case.model, seed=0, device=torch.device("cpu")
    )


def _batch(case: Case, places: list[int]) -> Batch:
    batch = case.task.collate([case.prepared.valid[at] for at in places], torch.tensor(places))
    return case.task.rollout(Forward(case.model), batch, _context(case))


@torch.no_grad()
def _loss(case: Case, batch: Batch) -> float:
    return float(case.task.loss(_outputs(case, batch), batch, _context(case)))


@torch.no_grad()
def _outputs(case: Case, batch: Batch) -> Outputs:
    return case.task.forward(Forward(case.model), batch)


def _all(case: Case) -> list[int]:
    return list(range(len(case.prepared.valid)))


def _same(one: dict[str, float], two: dict[str, float], tolerance: float) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        close = pytest.approx(two[name], rel=tolerance, abs=tolerance, nan_ok=True)
        assert value == close, name


def test_it_is_a_task_of_its_file(case: Case) -> None:
    assert isinstance(case.task, Task)
    again = type(case.task).model_validate(json.loads(json.dumps(case.task.model_dump(mode="json"))))
    assert again == case.task
    assert all(field.description for field in type(case.task).model_fields.values())
    assert json.loads(json.dumps(case.task.notes(case.data), default=str))["task"]["kind"] == case.task.kind()


def test_metrics_equal_an_independent_implementation(case: Case) -> None:
    batch = _batch(case, _all(case))
    outputs = _outputs(case, batch)
    evaluator = case.task.evaluator()
    evaluator.update(outputs, batch)
    found = evaluator.result()
    assert case.task.judged in found
    expected = case.reference(outputs, batch)
    assert set(found) == set(expected), "each metric needs a second opinion"
    _same(found, expected, 1e-4)
    assert json.loads(json.dumps(evaluator.tables())) == evaluator.tables()


def test_two_shares_merge_to_the_metrics_of_one(case: Case) -> None:
    places = _all(case)
    whole, first, second, merged = (case.task.evaluator() for _ in range(4))
    for evaluator, rows in ((whole, places), (first, places[::2]), (second, places[1::2])):
        batch = _batch(case, rows)
        evaluator.update(_outputs(case, batch), batch)
    merged.absorb(first.state())
    merged.absorb(second.state())
    _same(merged.result(), whole.result(), 1e-5)
    assert merged.tables() == whole.tables()


def test_padding_and_micro_batches_do_not_change_the_loss(case: Case) -> None:
    places = _all(case)[:8]
    batch = _batch(case, places)
    whole = _loss(case, batch)
    assert whole != 0
    assert math.isfinite(whole)
    alone = [_batch(case, [at]) for at in places]  # without any padding
    assert sum(row.num_targets for row in alone) == batch.num_targets
    for parts in (batch.split(3), alone):
        if case.task.contrasted:  # rows have a loss only together
            outputs = [_outputs(case, part) for part in parts]
            pulled = pulls(case.task, parts, outputs, _context(case), World())
            found = sum(float(pull.term(part)) for pull, part in zip(pulled, outputs, strict=True))
        else:
            found = sum(_loss(case, part) for part in parts)
        assert found == pytest.approx(whole, rel=1e-4)


def test_micro_batches_do_not_change_the_gradients(case: Case) -> None:
    batch = _batch(case, _all(case)[:8])
    parameters = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    ctx = dataclasses.replace(_context(case), dials=Dials([constant("learning_rate", 0.0)]))
    found = []
    for rows in (8, 3):
        optimizer = torch.optim.SGD(parameters, lr=0.0)
        module = LossModule(Forward(case.model), case.task)
        stepper = Stepper(module, optimizer, (), world=World(), precision="fp32", seed=0)
        stepper.micro_cost = rows * int(batch.tokens_B.max())
        loss = float(stepper.step(batch, ctx).terms["loss"])
        found.append((loss, [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]))
        optimizer.zero_grad()
    (whole, one), (cut, two) = found
    assert cut == pytest.approx(whole, rel=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in one)
    assert largest > 0
    assert max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True)) < 5e-4 * largest


def test_rows_of_no_weight_count_nothing(case: Case) -> None:
    places = _all(case)
    some, batch = _batch(case, places[:5]), _batch(case, places)
    weights_B = torch.isin(batch.example_ids_B, some.example_ids_B).float()  # a row may come in several copies
    weighted = batch.replace(weights_B=weights_B)
    assert _loss(case, weighted) == pytest.approx(_loss(case, some), rel=1e-4)
    assert _loss(case, batch.replace(weights_B=2 * torch.ones(batch.num_rows))) == pytest.approx(2 * _loss(case, batch))
    muted = some.muted()
    assert (_loss(case, muted), muted.num_targets) == (0.0, 0)
    one, two = case.task.evaluator(), case.task.evaluator()
    one.update(_outputs(case, some), some)
    two.update(_outputs(case, some), some)
    two.update(_outputs(case, muted), muted)
    _same(two.result(), one.result(), 1e-6)


def test_an_interrupted_evaluation_leaves_no_trace(case: Case) -> None:
    """In the model: its mode, and what the next evaluation says. The stage's files have a test of their own."""

    def rows(last: int | None = None) -> Iterator[Batch]:
        yield from itertools.islice(batches(case.prepared.valid, case.task.collate, BatchSize(examples=3)), last)
        if last is not None:
            raise KeyboardInterrupt

    module = LossModule(Forward(case.model), case.task).train()
    before = evaluate(module, case.task, rows(), world=World(), precision="fp32")
    with pytest.raises(KeyboardInterrupt):
        evaluate(module, case.task, rows(1), world=World(), precision="fp32")
    assert module.training
    again = evaluate(module, case.task, rows(), world=World(), precision="fp32")
    _same(again.metrics, before.metrics, 0.0)
    case.model.eval()


def test_losses_are_those_of_the_rows_alone(case: Case) -> None:
    """Whatever weighs, smooths or focuses the loss that is trained on, and whoever asked for it before."""
    places = _all(case)[:6]
    batch = _batch(case, places)
    if not case.task.tells_losses:
        with pytest.raises(RequestError, match="does not tell the loss of a single row"):
            case.task.losses(_outputs(case, batch), batch)
        return
    losses_B = case.task.losses(_outputs(case, batch), batch)
    assert losses_B.dtype == torch.float32
    if case.task.contrasted:
        assert float(losses_B.sum()) == pytest.approx(_loss(case, batch), rel=1e-5)
        return
    assert losses_B.tolist() == pytest.approx([_loss(case, _batch(case, [at])) for at in places], rel=1e-4, abs=1e-6)
    shaped = dataclasses.replace(
        _context(case), dials=Dials([constant("label_smoothing", 0.1), constant("focal_gamma", 1.0)])
    )
    outputs, weighted = _outputs(case, batch), batch.replace(weights_B=torch.arange(6.0))
    case.task.loss(outputs, weighted, shaped)
    assert case.task.losses(outputs, weighted).tolist() == pytest.approx(losses_B.tolist(), rel=1e-4, abs=1e-6)


def test_predictions_are_lines_of_json_in_order(case: Case) -> None:
    if not case.asked:
        pytest.skip("nothing to ask")
    options = dict(case.options)
    made = list(case.task.predict(case.model, case.prepared.tools, iter(case.asked), options))
    assert len(made) == len(case.asked)
    assert [json.loads(json.dumps(row)) for row in made] == made
    backwards = list(case.task.predict(case.model, case.prepared.tools, iter(case.asked[::-1]), options))[::-1]
    assert [row["prediction"] for row in backwards] == [row["prediction"] for row in made]
