import math

import pytest

from danlu.control.base import Controller
from danlu.control.policy import Decision, Policy, Verdict, controllers
from danlu.core.action import Expectation, Rollback, SetDial, Stop, action_record, read_action
from danlu.core.clock import Budget, Clock
from danlu.core.finding import Finding, Readings
from danlu.monitor.findings.base import History

NAN = Finding(name="nan_loss", step=20, severity="serious", sentence="", evidence={"loss": math.nan, "step": 14.0})
SPIKE = Finding(name="loss_spike", step=20, severity="warning", sentence="", evidence={})
NOTE = Finding(name="loss_spike", step=20, severity="note", sentence="", evidence={})


class _Halve(Controller):
    """Halves the learning rate at each spike."""

    answers = ("loss_spike",)

    max_actions: int = 2
    cooldown_steps: int = 10
    expects: Expectation | None = None

    def decide(self, now):
        number = now.factor("learning_rate") / 2
        return [SetDial(dial="learning_rate", kind="scale", number=number, expects=self.expects)]


class _Guard(Controller):
    answers = ("nan_loss",)
    guard = True

    @classmethod
    def name(cls):
        return "guard"

    def decide(self, now):
        return [Stop(failed=True)]


def _history(losses, start=10):
    history = History()
    for number, loss in enumerate(losses):
        history.add(Readings(step=start + 10 * number, values={"loss": loss}))
    return history


def _answer(policy, findings, step=20, history=None):
    clock = Clock(budget=Budget(steps=100), step=step)
    return policy.answer(findings, clock, {"learning_rate": 1e-3}, history or _history([1.0, 1.0]))


@pytest.mark.parametrize(("mode", "told", "applied"), [("off", 1, 1), ("suggest", 2, 1), ("auto", 2, 2)])
def test_guards_act_always_others_as_allowed(mode, told, applied):
    decisions = _answer(Policy(mode, [_Guard(), _Halve()]), [SPIKE, NAN])
    assert (len(decisions), sum(decision.apply for decision in decisions)) == (told, applied)


def test_a_note_asks_for_nothing():
    assert _answer(Policy("auto", [_Halve()]), [NOTE]) == []


def test_budget_and_cooldown_outlive_a_resume():
    policy = Policy("auto", [_Halve()])
    acted = []
    for step in (10, 15, 20, 40, 60):
        again = Policy("auto", [_Halve()])
        again.load_state_dict(policy.state_dict())
        policy = again
        acted += [step] if _answer(policy, [SPIKE], step) else []
    assert acted == [10, 20]


@pytest.mark.parametrize(("after", "kept"), [([1.0, 0.9, 0.8, 0.7], True), ([1.0, 1.1, 1.2, 1.3], False)])
def test_an_action_is_judged_by_what_it_expected_and_taken_back(after, kept):
    expects = Expectation(reading="loss", by=0.1, after=20)
    policy = Policy("auto", [_Halve(expects=expects)])
    _answer(policy, [SPIKE], 20, _history([1.0, 1.0]))
    again = Policy("auto", [_Halve(expects=expects)])
    again.load_state_dict(policy.state_dict())
    assert _answer(again, [], 30, _history([1.0, *after[:2]])) == []
    said = _answer(again, [], 50, _history([1.0, *after]))
    assert isinstance(said[0], Verdict)
    assert (said[0].kept, said[0].about, said[0].then) == (kept, 20, 1.0)
    back = [item.action for item in said[1:] if isinstance(item, Decision)]
    assert back == ([] if kept else [SetDial(dial="learning_rate", number=None, because="it did not help")])
    assert _answer(again, [], 90, _history([1.0, *after])) == []


def test_a_second_turn_closes_the_first_and_is_taken_back_to_before_both():
    policy = Policy("auto", [_Halve(cooldown_steps=0, expects=Expectation(reading="loss", by=0.5, after=20))])
    policy.members[0].__class__.urgent = True
    try:
        first = _answer(policy, [SPIKE], 20)
        closed, second = _answer(policy, [SPIKE], 30, _history([1.0, 1.0, 1.0]))
        assert (first[0].action.number, second.action.number) == (0.5, 0.25)
        assert closed.kept
        _, back = _answer(policy, [], 60, _history([1.0] * 6))
        assert back.action.number is None
    finally:
        policy.members[0].__class__.urgent = False


def test_a_finding_that_one_acts_on_is_not_shown_to_the_next():
    first, second = Policy("auto", [_Halve(), _Halve()]), Policy("suggest", [_Halve(), _Guard()])
    assert len(_answer(first, [SPIKE])) == 1
    assert len(_answer(second, [SPIKE, NAN])) == 2


def test_actions_read_back_as_they_were_written():
    for action in (Rollback(to="best"), SetDial(dial="x", number=1.0, expects=Expectation(after=3))):
        assert read_action(action_record(action)) == action


@pytest.mark.parametrize("member", controllers(), ids=lambda member: member.name())
def test_every_controller_says_what_it_is_for(member):
    assert member.__doc__
    assert member.answers or member.name() == "skip_step"


@pytest.mark.parametrize("name", sorted({name for member in controllers() for name in member.answers}))
def test_what_auto_does_about_each_finding_is_bounded_and_explained(name):
    """However often a finding comes, it is answered a few times, each with its reason."""
    policy = Policy("auto")
    evidence = {"loss": 2.0, "step": 5.0}
    finding = Finding(name=name, step=20, severity="serious", sentence="it is so", evidence=evidence)
    dials = dict.fromkeys(("learning_rate", "grad_clip", "weight_decay", "label_smoothing", "class_balance"), 0.01)
    dials |= {"batch_examples": 64.0, "dropout": 0.8}
    history, acted = _history([1.0] * 3), []
    for reading in range(60):
        step = 50 + 10 * reading
        history.add(Readings(step=step, values={"loss": 2.0, "learning_rate": 1.0, "grad_norm": 3.0}))
        said = policy.answer([finding], Clock(budget=Budget(steps=700), step=step), dials, history)
        acted += [item.action for item in said if isinstance(item, Decision) and item.reverts is None]
    assert len(acted) <= 16
    assert all(action.because for action in acted)


def _first_action(name, suggests, **dials):
    finding = Finding(name=name, step=50, severity="warning", sentence="", evidence={}, suggests=suggests)
    clock = Clock(budget=Budget(steps=200), step=50)
    said = Policy("auto").answer([finding], clock, {"learning_rate": 1e-3, **dials}, _history([1.0, 1.0]))
    return [item.action for item in said if isinstance(item, Decision)]


def test_forks_try_what_the_finding_says():
    (raised,) = _first_action("rate_too_low", (SetDial(dial="learning_rate", kind="scale", number=64.0),))
    assert [tried[0].number for tried in raised.tries] == [8.0, 64.0]
    (batch,) = _first_action("batch_too_small", (SetDial(dial="batch_examples", number=32.0),), batch_examples=2.0)
    assert [[turn.number for turn in tried] for tried in batch.tries] == [[16.0], [16.0, 4.0]]


def test_decayed_weights_are_put_back_before_the_decay_is_lowered():
    back = Rollback(skip_data=False)
    assert [type(action) for action in _first_action("over_regularised", (back,), weight_decay=10.0)] == [
        Rollback,
        SetDial,
    ]
