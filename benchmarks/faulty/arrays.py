"""Arrays: classification of small grey pictures that stand in memory, an MLP and a small CNN to learn them.

A vector of F features is a picture of 1 × F.
The least that danlu's engine needs of a task and of a family; both are as any task and family of danlu are.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.config import DataConfig
from danlu.data.rows import Example
from danlu.tasks._class_evaluator import ClassEvaluator, class_loss
from danlu.tasks.base import Evaluator, Prepared, Task, Tools

SIZES = {"blobs": (1000, 1600), "circles": (400, 1600), "digits": (900, 897)}
"""examples to train on, and to validate and test on"""


class Held:
    """Examples in memory: `pixel_values` (N, 1, H, W) fp32 and `label` (N,)."""

    def __init__(self, values: np.ndarray, labels: np.ndarray) -> None:
        self.values, self.labels = values.astype(np.float32), labels.astype(np.int64)
        self.lengths = np.ones(len(labels), dtype=np.int64)
        self.fingerprint = f"held-{values.shape}-{float(values.sum()):.6f}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> Example:
        return {"pixel_values": self.values[at], "label": self.labels[at]}


@functools.cache
def arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Two blobs, two circles (as in Zhang et al., ICSE 2021), or scikit-learn's digits: values and labels."""
    number = sum(SIZES[name])
    if name == "blobs":
        flat, labels = datasets.make_blobs(number, centers=[[-1, -1], [1, 1]], cluster_std=0.9, random_state=3)
        values = flat[:, None, None]
    elif name == "circles":
        flat, labels = datasets.make_circles(number, noise=0.12, factor=0.5, random_state=3)
        values = flat[:, None, None]
    else:
        digits = datasets.load_digits()
        order = np.random.default_rng(3).permutation(len(digits.target))
        values, labels = (digits.images[order][:, None] - 4.9) / 6.0, digits.target[order]
    return values, labels


class Arrays(Task):
    """Says which class an array belongs to; `data.train` names the set."""

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    needs_tools: ClassVar[bool] = False

    judge: str = "accuracy"

    @property
    def judged(self) -> str:
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        return "lower" if self.judge == "loss" else "higher"

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        (name,) = data.train_sources
        values, labels = arrays(name)
        cut, classes = SIZES[name][0], int(labels.max()) + 1
        side = values.shape[2:] if values.shape[2] < values.shape[3] else values.shape[2]
        return Prepared(
            train=Held(values[:cut], labels[:cut]),
            valid=Held(values[cut:], labels[cut:]),
            tools=None,
            context=1,
            model_options={"num_labels": classes, "image_size": side, "num_channels": 1},
            facts={"train_examples": cut, "valid_examples": len(labels) - cut, "num_labels": classes},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> Held:
        return Held(*arrays(source))

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        ones_B = torch.ones(len(examples), dtype=torch.int64)
        return Batch(
            inputs={"pixel_values": torch.from_numpy(np.stack([example["pixel_values"] for example in examples]))},
            labels={"classes": torch.tensor([int(example["label"]) for example in examples])},
            example_ids_B=ids_B,
            targets_B=ones_B,
            tokens_B=ones_B,
        )

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        return class_loss(outputs, batch, label_smoothing=ctx.dial("label_smoothing", 0.0))

    def evaluator(self) -> Evaluator:
        return ClassEvaluator([str(number) for number in range(10)], {})

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        for row in rows:
            values = torch.as_tensor(np.asarray(row["values"], dtype=np.float32))[None]
            yield {"prediction": int(model(pixel_values=values).logits.argmax())}


class SmallNetConfig(PreTrainedConfig):
    """Sizes of an MLP, or with `kernel_size` of a CNN."""

    model_type = "small-net"

    def __init__(
        self,
        hidden_size: int = 32,
        num_hidden_layers: int = 3,
        hidden_act: str = "relu",
        hidden_dropout_prob: float = 0.0,
        kernel_size: int = 0,
        image_size: Sequence[int] | int = (1, 2),
        num_channels: int = 1,
        **more: Any,
    ) -> None:
        self.hidden_size, self.num_hidden_layers, self.hidden_act = hidden_size, num_hidden_layers, hidden_act
        self.hidden_dropout_prob, self.kernel_size = hidden_dropout_prob, kernel_size
        self.image_size, self.num_channels = image_size, num_channels
        super().__init__(**more)


class SmallNetForImageClassification(PreTrainedModel):
    """Layers of linear map or convolution, activation and dropout; then a linear head.

    The CNN halves the picture after its second layer and averages what it has at the end.
    """

    config_class = SmallNetConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: SmallNetConfig) -> None:
        super().__init__(config)
        conv, width = config.kernel_size > 0, config.hidden_size
        first = config.num_channels if conv else int(np.prod(config.image_size))
        sizes = [first, *[width] * config.num_hidden_layers]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, config.kernel_size, padding="same") if conv else nn.Linear(before, width),
                ACT2FN[config.hidden_act],
                nn.Dropout(config.hidden_dropout_prob),
            )
            for before in sizes[:-1]
        )
        self.classifier = nn.Linear(width, int(config.num_labels or 2))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, return_dict: bool = True, **_more: Any) -> SequenceClassifierOutput:
        conv = self.config.kernel_size > 0
        hidden = pixel_values if conv else pixel_values.flatten(1)
        for at, layer in enumerate(self.layers):
            hidden = layer(functional.max_pool2d(hidden, 2) if conv and at == 2 else hidden)
        return SequenceClassifierOutput(logits=self.classifier(hidden.mean((2, 3)) if conv else hidden))


AutoConfig.register(SmallNetConfig.model_type, SmallNetConfig, exist_ok=True)
AutoModelForImageClassification.register(SmallNetConfig, SmallNetForImageClassification, exist_ok=True)
