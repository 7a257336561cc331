"""Decision: which of some actions to take next, learnt from recorded episodes, judged by playing."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.batch import Batch
from danlu.core.config import Config, read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.episodes import Environment, Episode, play
from danlu.data.examples import Examples, ExampleSet
from danlu.data.rows import BadField
from danlu.data.sources import Source, open_source
from danlu.data.split import split_source
from danlu.data.trajectories import (
    Measures,
    Steps,
    TrajectoryEncoder,
    as_observations,
    measure,
    shape_of,
    trajectory_columns,
)
from danlu.maths.losses import weighted_sum
from danlu.tasks import _playing as playing
from danlu.tasks._decision_evaluator import DecisionEvaluator, losses_of
from danlu.tasks._own_metrics import own_metrics
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools

BATCH_ROWS = 64
LOWER_IS_BETTER = ("loss", "regret", "crash_rate")
RECORDED = ("loss", "accuracy", "regret")


class Decision(Task):
    """Chooses an action from the last `data.context` observations: behaviour cloning, or a Decision Transformer.

    The loss of a step is -log p(action). Where the data hold the worth of every action (`scores`, which a planner
    gives), it is the cross-entropy with softmax(worth / temperature).
    """

    auto_class: ClassVar[str] = "AutoModel"
    taught: ClassVar[tuple[str, ...]] = ("columns",)
    needs_tools: ClassVar[bool] = False

    objective: Literal["clone", "return"] = "clone"
    """clone does what the data do; return also sees the return still to come, and is asked for one when it plays"""
    past_actions: bool = False
    """whether it sees the actions taken before"""
    actions: tuple[str, ...] = ()
    """the names of the actions, in their order; when empty they are numbers"""
    temperature: float = Field(default=0.1, ge=0.0)
    """how far below the best an action's worth may lie and still be learnt; 0 learns the best one alone"""
    environment: str | None = None
    """where it plays: a gymnasium id, with `module:` before it when a module must be imported first"""
    environment_options: dict[str, object] = {}
    """handed to gymnasium.make"""
    planner: str | None = None
    """module:function from the environment to the worth of each action: labels for `danlu collect`"""
    target_return: float | None = None
    """objective return: the return to ask for; when absent the largest of the data"""
    episodes: int = Field(default=0, ge=0)
    """how many episodes to play at every evaluation; 0 plays none"""
    first_seed: int = Field(default=1_000_000, ge=0)
    """the seed of the first episode of an evaluation; the others follow"""
    processes: int | None = Field(default=None, ge=1)
    """environments that run at once; when absent as many as there are cores"""
    judge: str = "loss"
    """the metric that says which evaluation is best, such as accuracy or return"""
    num_samples: int = Field(default=1, ge=0)
    """how many episodes to film, before and after training"""

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Lower for loss, regret and crashes."""
        return "lower" if self.judge in LOWER_IS_BETTER else "higher"

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of observations and actions, and of rewards, labels and scores where there are some."""
        return trajectory_columns(fields, told=data.columns, where=where)

    def for_model(self, model: nn.Module) -> Self:
        """With the actions and the return to ask for that the model's config names."""
        config: Any = cast(PreTrainedModel, model).config
        target = self.target_return if self.target_return is not None else config.return_scale
        names = tuple(config.id2label[at] for at in range(config.num_labels))
        return self.model_copy(update={"actions": names, "target_return": target})

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Reads the episodes, splits them, and finds out how to rescale what is observed."""
        self._check()
        say(f"reading {', '.join(data.train_sources)}")
        source = open_source(data.train_sources, cache=data.cache)
        train, valid = split_source(source, data.valid, seed)
        fields = train.peek()[0].fields
        columns = self.columns(fields, data, source.spec)
        if self.objective == "return" and "rewards" not in columns.by_role:
            raise RequestError(
                "it learns from rewards, and the data hold none", where="task.objective", mend="Use clone"
            )
        shape = shape_of(fields, columns.by_role, source.spec)
        skipped: list[Mapping[str, object]] = []
        encode = functools.partial(_encoded, columns=columns, shape=shape, data=data, skipped=skipped)
        episodes = encode(train, num_actions=len(self.actions) or None)
        found = measure(episodes)
        parts = [Steps(part, data.context) for part in (episodes, encode(valid, num_actions=found.num_actions))]
        return Prepared(
            train=parts[0],
            valid=parts[1],
            tools=None,
            context=data.context,
            padded=True,
            model_options=self._model_options(found, shape),
            facts={
                "train_examples": len(parts[0]),
                "train_episodes": len(episodes),
                "valid_examples": len(parts[1]),
                "num_actions": found.num_actions,
            },
            skipped=skipped,
            found={"columns": dict(columns.by_role)},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data was."""
        opened = open_source(source, cache=data.cache)
        fields = opened.peek()[0].fields
        columns = self.columns(fields, data, opened.spec)
        shape = shape_of(fields, columns.by_role, opened.spec)
        episodes = _encoded(opened, columns=columns, shape=shape, data=data, skipped=[], num_actions=len(self.actions))
        return Steps(episodes, data.context)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """Steps with the steps before them, padded behind."""
        inputs = playing.inputs_of(examples)
        labels = {"actions": torch.tensor([int(example["target"]) for example in examples])}
        if "scores" in examples[0]:
            labels["scores"] = torch.from_numpy(np.stack([example["scores"] for example in examples]))
        return Batch(
            inputs=inputs,
            labels=labels,
            example_ids_B=ids_B,
            targets_B=torch.ones(len(examples), dtype=torch.int64),
            tokens_B=inputs["attention_mask"].sum(1),
        )

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed over the rows, in fp32."""
        losses_B = losses_of(outputs.logits, batch, self.temperature)
        outputs.losses_B = losses_B.detach()
        return weighted_sum(losses_B, batch.weights_B)

    def evaluator(self) -> Evaluator:
        """Metrics of the recorded steps, and of playing where episodes are asked for."""
        return DecisionEvaluator(self.actions, self.temperature, self._play if self.episodes else None)

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Some episodes on film; the same ones before and after training."""
        if self.environment is None:
            return []
        seeds = range(self.first_seed, self.first_seed + self.num_samples)
        filmed = play(self.simulator(drawn=True), self.driver(model), seeds)
        return [
            {
                "prompt": f"Episode {episode.seed} of {self.environment}",
                "text": f"\n→ return {episode.total:.2f} in {len(episode.actions)} steps{_ending(episode)}",
                **playing.film_of(episode),
            }
            for episode in filmed
        ]

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """For each row, which holds the observations so far, the action to take (`prediction`) and `probabilities`."""
        asked = read_options(DecisionOptions, options)
        target = asked.target_return if asked.target_return is not None else self.target_return or 0.0
        config: Any = cast(PreTrainedModel, model).config
        shape, kept, drawn = (config.num_objects, config.num_features), config.max_position_embeddings, iter(rows)
        while batch := [self._history(fields, asked, shape, kept, target) for fields in islice(drawn, BATCH_ROWS)]:
            for chances_A in playing.scores_of(model, playing.inputs_of(batch)).softmax(1).tolist():
                named = {name: round(chance, 6) for name, chance in zip(self.actions, chances_A, strict=True)}
                yield {"prediction": self.actions[int(np.argmax(chances_A))], "probabilities": named}

    def simulator(self, *, drawn: bool = False, planned: bool = False) -> Environment:
        """The environment of the recipe, with its planner where that is asked for.

        Raises:
            RequestError: none is named, or there is no planner.
        """
        if self.environment is None:
            mend = "Name one, such as highway_env:highway-fast-v0"
            raise RequestError("there is no environment to play in", where="task.environment", mend=mend)
        if planned and self.planner is None:
            mend = "Name module:function, such as danlu.data.highway_planner:highway_planner"
            raise RequestError("there is no planner", where="task.planner", mend=mend)
        planner = own_metrics([str(self.planner)], where="task.planner").popitem()[1] if planned else None
        return Environment(name=self.environment, options=self.environment_options, planner=planner, drawn=drawn)

    def driver(self, model: nn.Module) -> playing.Driver:
        """Who drives as the model says."""
        return playing.Driver(model, self.target_return or 0.0)

    def varied(self, options: Mapping[str, object]) -> Self:
        """The task with some options changed.

        Raises:
            RequestError: an option is not known or its value does not fit.
        """
        return read_options(type(self), {**self.model_dump(), **options})

    @property
    def num_processes(self) -> int:
        """Environments that run at once."""
        return self.processes or len(os.sched_getaffinity(0))

    def _play(self, model: nn.Module) -> list[Episode]:
        seeds = range(self.first_seed, self.first_seed + self.episodes)
        return play(self.simulator(), self.driver(model), seeds, processes=self.num_processes)

    def _check(self) -> None:
        """What can be wrong with the options alone."""
        known: tuple[str, ...] = RECORDED
        if self.environment is not None and self.num_samples:
            self.simulator(drawn=True).num_actions()
        if self.episodes:
            self.simulator().num_actions()
            known = (*RECORDED, "return", *playing.RATES.values(), *playing.MEANS.values())
        if self.judge not in known:
            problem = f"there is no metric {self.judge!r}" + (
                "" if self.episodes else " as long as no episode is played"
            )
            raise RequestError(problem, where="task.judge", mend=nearest(self.judge, known))

    def _model_options(self, found: Measures, shape: tuple[int, int]) -> dict[str, object]:
        """Keys of the model's config."""
        names = dict(enumerate(self.actions)) or {at: str(at) for at in range(found.num_actions)}
        return {
            "num_objects": shape[0],
            "num_features": shape[1],
            "shift": found.shift_2F.tolist(),
            "scale": found.scale_2F.tolist(),
            "past_actions": self.past_actions,
            "return_scale": found.largest_return if self.objective == "return" else None,
            "id2label": names,
            "label2id": {name: at for at, name in names.items()},
            "num_labels": len(names),
        }

    def _history(
        self, fields: Mapping[str, object], asked: "DecisionOptions", shape: tuple[int, int], steps: int, target: float
    ) -> dict[str, np.ndarray]:
        """The inputs of a row, cut to the last `steps`."""
        column = {role: asked.columns.get(role, role) for role in ("observations", "actions", "rewards")}
        observations = fields.get(column["observations"])
        if observations is None:
            raise BadField(column["observations"], "is missing", "Give the observations so far, the last one last")
        observations_TNF = as_observations(observations, column["observations"], shape)
        before = len(observations_TNF) - 1
        past = [-1, *_numbers(fields.get(column["actions"]), column["actions"], before, self.past_actions)]
        earned = [0.0, *_numbers(fields.get(column["rewards"]), column["rewards"], before, self.objective == "return")]
        kept = slice(-steps, None)
        return {
            "observations": observations_TNF[kept],
            "past_actions": np.array(past, dtype=np.int64)[kept],
            "returns": (target - np.cumsum(earned)).astype(np.float32)[kept],
        }


class DecisionOptions(Config):
    """How to answer rows."""

    columns: dict[str, str] = {}
    """role -> column"""
    target_return: float | None = None
    """objective return: the return of the whole episode to ask for"""


def _numbers(value: object, field: str, number: int, wanted: bool) -> list[float]:
    """The actions or rewards before the last observation; zeros where the model does not look at them."""
    if not wanted:
        return [0.0] * number
    if not isinstance(value, list) or len(value) < number or not all(isinstance(one, int | float) for one in value):
        raise BadField(field, f"must hold {number} numbers, one for each observation but the last")
    return [float(one) for one in value[:number]]


def _encoded(
    source: Source,
    *,
    columns: Columns,
    shape: tuple[int, int],
    data: DataConfig,
    skipped: list[Mapping[str, object]],
    num_actions: int | None,
) -> Examples:
    encoder = TrajectoryEncoder(columns=columns.by_role, shape=shape, num_actions=num_actions)
    return encode_as_told(source, encoder, data, skipped)


def _ending(episode: Episode) -> str:
    if any(episode.told[-1].get(name) for name in ("crashed",)):
        return ", crashed"
    return ", done" if any(episode.told[-1].get(name) for name in ("is_success", "success")) else ""
