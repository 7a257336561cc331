"""Task: how examples become a Batch, what the loss is, what the metrics are, what a prediction looks like."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.clock import Budget, Clock
from danlu.core.config import Config
from danlu.core.dials import Dials
from danlu.core.errors import RequestError
from danlu.core.outputs import Call, Outputs
from danlu.core.technique import StepContext
from danlu.data.columns import Columns, find_columns
from danlu.data.config import DataConfig
from danlu.data.examples import ExampleSet
from danlu.data.rows import Row
from danlu.data.sources import Source, open_source
from danlu.data.split import split_source

Example = Mapping[str, np.ndarray]
Collate = Callable[[Sequence[Example], Tensor], Batch]
Tools = Any  # a tokenizer or an image processor of transformers, whichever the task's models use


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data as the engine wants it, and what a model must know of it.

    `padded` says that rows have different lengths, so that batches should hold rows of similar length. `facts` are
    numbers worth telling (documents, tokens, fill rate); `skipped` lists the bad rows that were left out. `found`
    holds what was found out where the recipe left it open (keys of DataConfig, such as format): the trained model
    must be used the same way.
    """

    train: ExampleSet
    valid: ExampleSet
    tools: Tools
    context: int
    padded: bool = False
    vocab_size: int | None = None
    special_tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    model_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    skipped: Sequence[Mapping[str, object]] = ()
    found: Mapping[str, object] = dataclasses.field(default_factory=dict)


class Evaluator(abc.ABC):
    """Gathers what metrics need over batches. Processes exchange `state()` and `absorb` each other's, in order."""

    asks_model: ClassVar[bool] = False
    """True when `update` calls `outputs.model` (to write a translation): sharded weights are then gathered for it"""

    @abc.abstractmethod
    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Takes in one batch. Rows whose weight is zero are padding of the last round and do not count."""

    @abc.abstractmethod
    def state(self) -> object:
        """What another process needs to go on counting; picklable, on the CPU."""

    @abc.abstractmethod
    def absorb(self, state: object) -> None:
        """Adds another process's state to this one."""

    @abc.abstractmethod
    def result(self) -> dict[str, float]:
        """The metrics, by their standard names."""

    def tables(self) -> dict[str, object]:
        """What is not one number, such as a confusion matrix, by name: JSON types only. Empty where there is none."""
        return {}

    def compare(self, other: "Evaluator") -> dict[str, Mapping[str, float]]:
        """This model against `other` on the same rows: metric → ours, theirs, their intervals, p. Empty: not possible.

        Raises:
            DataError: they did not judge the same rows.
        """
        return {}


class Task(Config):
    """The parent of all tasks. `auto_class` names the transformers Auto class that its models are made with."""

    auto_class: ClassVar[str]
    taught: ClassVar[tuple[str, ...]] = ("format", "columns", "template")
    """what `predict` must know of how the training data were read: keys of DataConfig"""
    tells_losses: ClassVar[bool] = True
    """False where the loss of a single row is not known"""
    needs_tools: ClassVar[bool] = True
    """False where a model needs neither a tokenizer nor a processor"""

    @classmethod
    def kind(cls) -> str:
        """The name by which a recipe asks for it."""
        return cls.__module__.rpartition(".")[2].replace("_", "-")

    @property
    def model_class(self) -> str:
        """The Auto class for the task as its options have it: `auto_class`, unless they ask for another."""
        return self.auto_class

    @property
    def judged(self) -> str:
        """The metric that says which evaluation is best."""
        return "loss"

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Which way the judged metric is good."""
        return "lower"

    @property
    def contrasted(self) -> tuple[str, ...]:
        """What of `Outputs.extra`, (B, ...) each, the loss compares across rows; it then gets those of the whole step
        at once, so that micro-batches and processes change nothing. Empty where each row's loss is its own."""
        return ()

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """What the columns of a row like `fields` mean.

        Raises:
            DataError: a column is missing, or there is no way to tell.
        """
        return find_columns(fields, format=data.format, told=data.columns, where=where)

    def for_model(self, model: nn.Module) -> Self:
        """The task as `model` knows it (the names of its classes, for example): what a batch of the task is for it."""
        return self

    def sources(self, data: DataConfig, seed: int) -> tuple[Source, Source]:
        """The rows that are trained on, and those that it is judged by."""
        return split_source(open_source(data.train_sources, cache=data.cache), data.valid, seed)

    @abc.abstractmethod
    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Reads, splits and encodes the data. `base` is the model whose tokenizer or processor is to be used."""

    @abc.abstractmethod
    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes another source with the tools of a trained model, for `danlu evaluate`."""

    @abc.abstractmethod
    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """Makes a batch of examples; fields must be as `Forward` and `loss` expect them."""

    @property
    def rolls_out(self) -> bool:
        """True when `rollout` adds something."""
        return False

    @property
    def updates(self) -> int:
        """How many optimiser updates are made from one batch."""
        return 1

    def rollout(self, call: Call | None, batch: Batch, ctx: StepContext) -> Batch:
        """The whole batch of this process with what the model itself adds before it learns from it: its own answers.

        It is called before the batch is cut, without gradients, with whole weights, on every process; the numbers that
        it draws must follow from `ctx`, and rows of no weight need no answers. Without `call` it adds what takes the
        most memory, for the dry run. Given a batch that has them already it changes nothing.
        """
        return batch

    def forward(self, call: Call, batch: Batch) -> Outputs:
        """What the model makes of a batch; `call` runs it on what its forward takes by name."""
        return call(batch.inputs)

    @abc.abstractmethod
    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """The sum of the loss over the batch's valid targets, each row multiplied by `weights_B` when given.

        It leaves `outputs.losses_B` behind, which is what `losses` gives.
        """

    @torch.no_grad()
    def losses(self, outputs: Outputs, batch: Batch) -> Tensor:
        """(B,) fp32: each row's loss over its valid targets, without weights, smoothing or focus, and without gradient.

        After `loss` it costs nothing. Where rows are compared (`contrasted`) they are those of the same batch.

        Raises:
            RequestError: the task knows no loss of a single row (`tells_losses`).
        """
        if outputs.losses_B is None:
            clock, device = Clock(budget=Budget(steps=1)), batch.targets_B.device
            ctx = StepContext(clock=clock, dials=Dials(()), model=nn.Module(), seed=0, device=device)
            self.loss(outputs, batch, ctx)
        if outputs.losses_B is None:
            problem = f"{self.kind()} does not tell the loss of a single row"
            raise RequestError(problem, where="techniques", mend="Switch off what chooses or weighs rows by their loss")
        return outputs.losses_B

    def readings(self, outputs: Outputs, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """What else of a step is worth a line of the journal, by name: a sum over the rows and what to divide it by."""
        return {}

    @abc.abstractmethod
    def evaluator(self) -> Evaluator:
        """A new, empty evaluator."""

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """A few outputs to read, as fields of `sample` records; empty where there is nothing to read."""
        return []

    def fields_of(self, row: Row) -> Mapping[str, object]:
        """What `predict` is given of a row: its fields, and for paths of pictures where to look for them."""
        return row.fields

    @abc.abstractmethod
    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """One JSON-ready object for each row, in order; rows are drawn as they are needed.

        Raises:
            RequestError: `options` holds something that this task does not know.
            BadField: the row drawn last cannot be used.
        """

    def files(self, model: nn.Module, data: DataConfig) -> Mapping[str, str]:
        """Path → text of what other programs read beside the trained model."""
        return {}

    def notes(self, data: DataConfig) -> dict[str, object]:
        """What `danlu.json` beside a trained model must say so that evaluate and predict need no recipe."""
        return {
            "task": {"kind": self.kind(), **self.model_dump(mode="json")},
            "data": data.model_dump(mode="json", by_alias=True, exclude={"train", "valid", "test", "tokenizer"}),
        }


def shape_of(ctx: StepContext) -> dict[str, float]:
    """What dials say about the form of a cross-entropy."""
    return {name: ctx.dial(name, 0.0) for name in ("label_smoothing", "focal_gamma")}
