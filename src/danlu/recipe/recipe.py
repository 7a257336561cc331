"""Recipe: everything that one run needs to be told, as one frozen object."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from danlu.core import discover
from danlu.core.clock import Budget, Every
from danlu.core.config import Config
from danlu.core.errors import RequestError, nearest
from danlu.core.technique import in_order
from danlu.data.config import DataConfig
from danlu.data.sampler import BatchSize
from danlu.dist.config import ParallelConfig
from danlu.models.config import ModelConfig
from danlu.optim.config import OptimizerConfig, ScheduleConfig
from danlu.recipe.parts import TaskPart, TechniqueParts
from danlu.recipe.problems import Problem, ProblemsError, RecipeError, problems_of
from danlu.recipe.study import StudyConfig
from danlu.recipe.tune import TuneConfig


def _tenth(made: dict[str, Any]) -> Every:
    """Ten times over the whole run, in the units of the budget."""
    budget: Budget = made.get("budget") or Budget(epochs=1)
    return Every(
        steps=max(1, budget.steps // 10) if budget.steps else None,
        epochs=budget.epochs / 10 if budget.epochs else None,
        tokens=budget.tokens / 10 if budget.tokens else None,
        seconds=budget.minutes * 6 if budget.minutes else None,
    )


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class TrainConfig(Config):
    """How to train."""

    budget: Budget = Budget(epochs=1)
    """how long: steps, epochs, tokens or minutes, whichever comes first"""
    batch: BatchSize = BatchSize(tokens=8192)
    """what one optimiser step learns from, over all processes"""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """rows that one process computes at a time; found by a dry run when not given"""
    optimizer: OptimizerConfig = OptimizerConfig()
    """which optimiser, its learning rate and its options"""
    schedule: ScheduleConfig = ScheduleConfig()
    """how the learning rate moves over the run"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """the number format of the forward and backward pass; weights and optimiser stay fp32"""
    evaluate_every: Every = Field(default_factory=_tenth)
    """how often to evaluate on the validation data, besides at the end; a tenth of the budget by default"""
    checkpoint_every: Every = Every(seconds=300)
    """how often to write a checkpoint, besides at the end and when the run is stopped"""
    log_every: Every = Every(steps=10)
    """how often the probes read and the journal gets a line"""
    samples: bool = True
    """write a few outputs of the model to the journal at each evaluation, where the task has something to read"""


class Recipe(Config):
    """One run: what to do, with which data and model, how to train, and what else to switch on.

    Raises:
        RecipeError: something is wrong; the message holds every problem with its place.
    """

    name: Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")] = "run"
    """the run's name, part of the folder that it writes; the recipe's file name by default"""
    seed: Annotated[int, Field(ge=0)] = 0
    """everything random follows from it"""
    task: TaskPart
    """what the model is to learn: a task's name, or {kind: name, option: value}"""
    data: DataConfig
    """what to learn from"""
    model: ModelConfig
    """the model: `from` weights that exist, or by `design`"""
    train: TrainConfig = TrainConfig()
    """how to train"""
    parallel: ParallelConfig = ParallelConfig()
    """how several processes share the work"""
    techniques: TechniqueParts = ()
    """what to switch on, by name: {name: {option: value}}, or true, or false"""
    control: Literal["off", "suggest", "auto"] = "auto"
    """what findings may do: nothing, be told, or act"""
    track: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """boards that follow the run besides its journal: tensorboard, mlflow, wandb"""
    tune: TuneConfig | None = None
    """what `danlu tune` searches; `danlu train` does not look at it"""
    study: StudyConfig | None = None
    """what `danlu study` measures; `danlu train` does not look at it"""

    @field_validator("track")
    @classmethod
    def _boards_exist(cls, track: tuple[str, ...]) -> tuple[str, ...]:
        known = discover.paths("danlu.monitor.trackers")
        for name in track:
            if name.replace("-", "_") not in known:
                raise ValueError(f"there is no board {name!r}. {nearest(name, known)}")
        return track

    @model_validator(mode="after")
    def _techniques_agree(self) -> Self:
        names = [technique.name() for technique in self.techniques]
        for name in names:
            if names.count(name) > 1:
                raise ProblemsError([Problem(place=("techniques", name), problem="is given twice", mend="Keep one")])
        try:
            in_order(self.techniques)
        except RequestError as error:
            raise ProblemsError([Problem(place=("techniques",), problem=error.problem, mend=error.mend)]) from None
        return self

    @model_validator(mode="wrap")  # the last one stands outermost: it sees what all others raise
    @classmethod
    def _in_plain_words(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise RecipeError(problems_of(error, cls)) from None
        except RecipeError:
            raise
        except RequestError as error:
            place = tuple(error.where.split(".")) if error.where else ()
            raise RecipeError([Problem(place=place, problem=error.problem, mend=error.mend)]) from None
