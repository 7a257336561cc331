import math

import pytest

from danlu.control.base import Controller
from danlu.control.policy import Policy, controllers
from danlu.core.action import SetDial, Stop
from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials, constant
from danlu.core.finding import Finding

NAN = Finding(name="nan_loss", step=20, severity="serious", sentence="", evidence={"loss": math.nan, "step": 14.0})
SPIKE = Finding(name="loss_spike", step=20, severity="warning", sentence="", evidence={})


class _Halve(Controller):
    """Halves the learning rate at each spike."""

    max_actions: int = 2
    cooldown_steps: int = 10

    def decide(self, findings, clock, dials):
        if not any(finding.name == "loss_spike" for finding in findings):
            return []
        return [SetDial(dial="learning_rate", kind="scale", number=0.5)]


def _decide(policy, findings, step=20):
    clock = Clock(budget=Budget(steps=100), step=step)
    return policy.decide(findings, clock, Dials([constant("learning_rate", 1e-3)]))


def test_stop_on_nan_is_found_and_names_the_step():
    assert [member.name() for member in controllers()] == ["stop_on_nan"]
    (decision,) = _decide(Policy("auto"), [SPIKE, NAN])
    assert decision.action == Stop(because="the loss became nan at step 14", failed=True)
    assert decision.by == "stop_on_nan"


@pytest.mark.parametrize(("mode", "told", "applied"), [("off", 1, 1), ("suggest", 2, 1), ("auto", 2, 2)])
def test_guards_act_always_others_as_allowed(mode, told, applied):
    members = [*controllers(), _Halve()]
    decisions = _decide(Policy(mode, members), [SPIKE, NAN])
    assert (len(decisions), sum(decision.apply for decision in decisions)) == (told, applied)


def test_budget_and_cooldown_outlive_a_resume():
    policy = Policy("auto", [_Halve()])
    acted = []
    for step in (10, 15, 20, 40, 60):
        again = Policy("auto", [_Halve()])
        again.load_state_dict(policy.state_dict())
        policy = again
        acted += [step] if _decide(policy, [SPIKE], step) else []
    assert acted == [10, 20]


def test_no_findings_no_decisions():
    assert _decide(Policy("auto"), []) == []
