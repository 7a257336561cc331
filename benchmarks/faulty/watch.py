"""SageMaker Debugger's documented rules, written anew from their documentation; all they can do is stop a run.

Rules and default thresholds: docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html. They look at the
run whenever the journal gets a line, and at its losses as means over that interval, which is kinder to them than
single batches. The run goes on, since nobody else touches it; what counts is its score where the first rule stopped it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from danlu.core.clock import Clock
from danlu.train.engine import Engine
from danlu.train.stepper import StepResult


@dataclasses.dataclass
class Look:
    """What is known at one moment; the lists hold what was known at the moments before, the newest last."""

    losses: list[float] = dataclasses.field(default_factory=list)
    steps: list[int] = dataclasses.field(default_factory=list)
    valid: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    grads: list[Tensor] = dataclasses.field(default_factory=list)
    weights: list[Tensor] = dataclasses.field(default_factory=list)
    before: list[Tensor] = dataclasses.field(default_factory=list)
    unchanged: list[int] = dataclasses.field(default_factory=list)
    inputs: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    active: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    classes: Tensor | None = None


def exploding_tensor(look: Look) -> bool:
    """Anything that is not finite."""
    return not all(math.isfinite(loss) for loss in look.losses[-1:]) or not all(
        bool(torch.isfinite(tensor).all()) for tensor in (*look.grads, *look.weights)
    )


def vanishing_gradient(look: Look, threshold: float = 1e-7) -> bool:
    """The mean absolute gradient of a weight."""
    return any(float(grad.abs().mean()) < threshold for grad in look.grads)


def all_zero(look: Look) -> bool:
    """Every value of a gradient."""
    return any(not bool(grad.any()) for grad in look.grads)


def unchanged_tensor(look: Look, num_steps: int = 3) -> bool:
    """A weight that stayed as it was (rtol 1e-5, atol 1e-8) over so many looks."""
    return any(count >= num_steps for count in look.unchanged)


def weight_update_ratio(look: Look, large: float = 10.0, small: float = 1e-8) -> bool:
    """Of the change since the last look to the weight, by their means."""
    ratios = [
        float((now - then).abs().mean() / (then.abs().mean() + 1e-9))
        for now, then in zip(look.weights, look.before, strict=False)
        if bool(then.any())
    ]
    return any(ratio > large or ratio < small for ratio in ratios)


def dead_relu(look: Look, inactivity: float = 0.01, layer: float = 0.5) -> bool:
    """More than half of a layer's units are active for less than 1 % of the rows."""
    return any(float((share < inactivity).float().mean()) > layer for share in look.active.values())


def saturated_activation(look: Look, low: float = -23.0, high: float = 16.99999, layer: float = 0.5) -> bool:
    """More than half of a sigmoid layer's units only see inputs where it is flat."""
    sigmoid = [values for name, values in look.inputs.items() if name.endswith("Sigmoid")]
    return any(float(((x < low) | (x > high)).all(0).float().mean()) > layer for x in sigmoid)


def poor_weight_initialization(look: Look, threshold: float = 10.0, spread: float = 0.001, patience: int = 5) -> bool:
    """At the start: variances of the activations' inputs that differ tenfold, or gradients that hardly spread, and a
    loss that does not fall."""
    if len(look.losses) != patience + 1 or look.losses[-1] < look.losses[0]:
        return False
    variances = [float(values.var()) for values in look.inputs.values()]
    uneven = bool(variances) and max(variances) > threshold * min(variances)
    ranges = [
        float(grad.flatten()[:100_000].quantile(0.95) - grad.flatten()[:100_000].quantile(0.05)) for grad in look.grads
    ]
    return uneven or min(ranges, default=1.0) < spread


def loss_not_decreasing(look: Look, num_steps: int = 10, percent: float = 0.1) -> bool:
    """By at least so many percent against the loss ten steps before."""
    old = [loss for loss, step in zip(look.losses, look.steps, strict=True) if step <= look.steps[-1] - num_steps]
    return bool(old) and look.losses[-1] > old[-1] * (1 - percent / 100)


def overfit(look: Look, ratio: float = 0.1, patience: int = 1) -> bool:
    """Validation above training loss by more than a tenth, more often than `patience` times on end."""
    late = look.valid[-patience - 1 :]
    return len(late) > patience and all(valid - train > ratio * train for train, valid in late)


def overtraining(look: Look, patience_train: int = 5, patience_valid: int = 10, delta: float = 0.01) -> bool:
    """Neither loss got better by `delta` for so long."""
    if len(look.losses) <= patience_train or len(look.valid) <= patience_valid:
        return False
    train = min(look.losses[-patience_train:]) > min(look.losses[:-patience_train]) - delta
    late = [valid for _, valid in look.valid]
    return train and min(late[-patience_valid:]) > min(late[:-patience_valid]) - delta


def class_imbalance(look: Look, threshold: float = 10.0, samples: int = 500) -> bool:
    """The most frequent class against the rarest, once 500 labels were seen."""
    counts = look.classes
    return (
        counts is not None
        and int(counts.sum()) >= samples
        and float(counts.max() / counts.min().clamp(min=1)) > threshold
    )


RULES: Sequence[Callable[[Look], bool]] = (
    *(exploding_tensor, vanishing_gradient, all_zero, unchanged_tensor, weight_update_ratio, dead_relu),
    *(saturated_activation, poor_weight_initialization, loss_not_decreasing, overfit, overtraining, class_imbalance),
)


class Watch:
    """Applies the rules to a run until one of them stops it."""

    def __init__(self, engine: Engine, score: Callable[[], float]) -> None:
        self.look, self.engine, self.score = Look(), engine, score
        self.stopped: dict[str, Any] | None = None
        self._recent: list[Tensor] = []
        self._read, self._step = engine.read, engine.stepper.step
        engine.read, engine.stepper.step = self.read, self.step  # type: ignore[method-assign]
        self._hooks = [
            module.register_forward_hook(self._hear(f"{name}.{type(module).__name__}"))
            for name, module in engine.model.named_modules()
            if isinstance(module, (nn.ReLU, nn.Sigmoid))
        ]

    def told(self) -> dict[str, Any] | None:
        return self.stopped

    def step(self, batch: Any, ctx: Any) -> StepResult:
        if self.stopped is None and "classes" in batch.labels:
            counts = torch.bincount(batch.labels["classes"], minlength=self.engine.model.config.num_labels).float()
            self.look.classes = counts if self.look.classes is None else self.look.classes + counts
        return self._step(batch, ctx)

    def read(self, before: Clock, result: StepResult, **times: float) -> None:
        if self.stopped is None:
            self._recent.append(result.terms["loss"])
            if before.step == 0 or self.engine.plan.log_every.due(before, self.engine.clock):
                self._look()
                self._judge()
        self._read(before, result, **times)

    def _look(self) -> None:
        look, weights = self.look, [weight for _, weight in self.engine.model.named_parameters() if weight.ndim > 1]
        look.losses.append(float(torch.stack(self._recent).mean()))
        look.steps.append(self.engine.clock.step)
        self._recent = []
        look.grads = [weight.grad for weight in weights if weight.grad is not None]
        look.before, look.weights = look.weights, [weight.detach().clone() for weight in weights]
        if len(look.unchanged) != len(weights):
            look.unchanged = [0] * len(weights)
        for at, (now, then) in enumerate(zip(look.weights, look.before, strict=False)):
            look.unchanged[at] = look.unchanged[at] + 1 if torch.allclose(now, then, rtol=1e-5, atol=1e-8) else 0
        evaluation = self.engine.evaluation
        if evaluation is not None and len(look.valid) < evaluation.step // (self.engine.plan.evaluate_every.steps or 1):
            look.valid.append((look.losses[-1], evaluation.metrics["loss"]))

    def _judge(self) -> None:
        fired = next((rule.__name__ for rule in RULES if rule(self.look)), None)
        if fired is not None:
            self.stopped = {"rule": fired, "step": self.engine.clock.step, "score": self.score()}
            for hook in self._hooks:
                hook.remove()

    def _hear(self, name: str) -> Callable[..., None]:
        def hear(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training:
                self.look.inputs[name] = inputs[0].detach().flatten(1)
                if isinstance(module, nn.ReLU):
                    self.look.active[name] = (output > 0).float().flatten(1).mean(0)

        return hear
