import math

import pytest

from danlu.core.action import Stop
from danlu.core.finding import Evaluation
from danlu.techniques.regularise.early_stop import EarlyStop


def _evaluations(losses, better="lower"):
    return [
        Evaluation(step=10 * number, metrics={"score": loss}, judged="score", better=better)
        for number, loss in enumerate(losses, start=1)
    ]


def _stopped_at(technique, evaluations, make_ctx):
    """The number of the evaluation after which the run ends; each is seen by several steps."""
    state = technique.start(None)
    for number, evaluation in enumerate(evaluations, start=1):
        for _ in range(3):
            actions = technique.before_step(make_ctx(None, evaluation=evaluation), state)
        if actions:
            return number, actions
    return None, ()


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "stops_at"),
    [
        ([3, 2, 1, 0.5], 2, 0.0, None),
        ([3, 2, 2.1, 2.2, 1], 2, 0.0, 4),
        ([3, 2, 2.1, 1.9, 2, 2], 2, 0.0, 6),
        ([3, 2.95, 2.9], 2, 0.2, 3),
        ([3, math.nan, math.nan], 2, 0.0, 3),
        ([3, 3], 1, 0.0, 2),
    ],
)
def test_counts_evaluations_without_improvement(losses, patience, min_delta, stops_at, make_ctx):
    technique = EarlyStop(patience=patience, min_delta=min_delta)
    number, actions = _stopped_at(technique, _evaluations(losses), make_ctx)
    assert number == stops_at
    assert all(isinstance(action, Stop) and action.restore_best for action in actions)


def test_higher_may_be_better(make_ctx):
    number, _ = _stopped_at(EarlyStop(patience=2), _evaluations([0.5, 0.6, 0.7, 0.6, 0.6], "higher"), make_ctx)
    assert number == 5


def test_goes_on_counting_after_a_resume(make_ctx):
    technique, evaluations = EarlyStop(patience=2), _evaluations([1, 2, 3])
    first = technique.start(None)
    for evaluation in evaluations[:2]:
        assert not technique.before_step(make_ctx(None, evaluation=evaluation), first)
    again = technique.start(None)
    again.load_state_dict(first.state_dict())
    assert not technique.before_step(make_ctx(None, evaluation=evaluations[1]), again)
    assert technique.before_step(make_ctx(None, evaluation=evaluations[2]), again)
