import pytest
from pydantic import ValidationError

from danlu.core.clock import Budget, Clock
from danlu.core.errors import RequestError
from danlu.optim.config import OptimizerConfig, ScheduleConfig


def test_defaults_of_the_kind_are_written_out_and_read_back() -> None:
    config = OptimizerConfig(kind="sgd", lr=0.1)
    assert config.model_dump() == {"kind": "sgd", "lr": 0.1, "offload": False, "momentum": 0.9, "nesterov": False}
    assert OptimizerConfig(**config.model_dump()) == config


def test_a_rate_may_be_found() -> None:
    config = OptimizerConfig(lr="find")
    with pytest.raises(RequestError, match="still to be found"):
        _ = config.rate
    assert config.with_rate(0.5).rate == 0.5
    assert config.with_rate(0.5) == OptimizerConfig(lr=0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "adamw", "beta": 1}, "Did you mean 'betas'"),
        ({"kind": "adamw", "momentum": 0.9}, "adamw has no option 'momentum'"),
        ({"kind": "adam"}, "Did you mean 'adamw'"),
        ({"kind": "sgd", "momentum": "much"}, "momentum"),
        ({"lr": 0}, "greater than 0"),
        ({"lr": "search"}, "'find'"),
        ({"kind": "sgd", "states": "8bit"}, "sgd has no option 'states'"),
    ],
)
def test_wrong_options_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        OptimizerConfig(**given)


def test_schema_knows_the_options() -> None:
    schema = OptimizerConfig.model_json_schema()
    assert {"kind", "lr", "betas", "momentum", "clip"} <= set(schema["properties"])
    assert "muon" in schema["properties"]["kind"]["enum"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["momentum"]["type"] == "number"


def _at(step: int, budget: Budget | None = None, **fields: float) -> Clock:
    return Clock(budget=budget or Budget(steps=100), step=step, **fields)


def test_warmup_in_steps_and_share() -> None:
    by_steps = ScheduleConfig(warmup=10, shape="linear")
    assert by_steps.factor(_at(0)) == pytest.approx(0.1)
    assert by_steps.factor(_at(9)) == pytest.approx(1.0)
    assert by_steps.factor(_at(10)) == pytest.approx(1.0)
    assert by_steps.factor(_at(55)) == pytest.approx(0.5)
    by_share = ScheduleConfig(warmup="10%", shape="linear", floor="20%")
    assert by_share.factor(_at(5)) == pytest.approx(0.5)
    assert by_share.factor(_at(55)) == pytest.approx(0.6)
    assert by_share.factor(_at(100)) == pytest.approx(0.2)


def test_minutes_budget_ends_on_time() -> None:
    schedule = ScheduleConfig(warmup=10, shape="cosine", floor=0.1)
    budget = Budget(minutes=2)
    assert schedule.factor(_at(40, budget, seconds=120)) == pytest.approx(0.1)
    # 10 of 40 steps at 60 s: the warm-up took an eighth of the time
    middle = schedule.factor(_at(40, budget, seconds=60))
    assert 0.1 < middle < 1.0
    assert ScheduleConfig(warmup="50%").factor(_at(3, budget, seconds=30)) == pytest.approx(0.5)


def test_dial_is_the_learning_rate() -> None:
    dial = ScheduleConfig(shape="one-cycle", peak_at=0.5).dial(2.0)
    assert dial.name == "learning_rate"
    assert dial.schedule(_at(50)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shape": "cosin"}, "Did you mean 'cosine'"),
        ({"shape": "cosine", "drops": 3}, "has no option 'drops'"),
        ({"shape": "wsd", "decay": 2}, "decay must lie"),
        ({"floor": "ten"}, "floor must be a number or a percentage"),
        ({"warmup": "120%"}, "warmup must be a share"),
        ({"warmup": -3}, "below zero"),
    ],
)
def test_wrong_schedules_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ScheduleConfig(**given)
