"""Distillation of a teacher's answers."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.dials import Dial, constant
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.data.fingerprints import digest_of
from danlu.data.places import cache_folder
from danlu.maths.distillation import CHUNK_ELEMENTS, Divergence, coarse, divergence, likeliest
from danlu.techniques._scores import Scores, check_comparable, compared, num_scores, scores, targets
from danlu.techniques.distil._kept import Kept, Said, shown_of
from danlu.techniques.distil._teacher import START, fingerprint_of, make_teacher

WHERE = "techniques.distil_logits"


class Lessons(TechniqueState):
    """The teacher, loaded when it is first needed, and what it has said before. Held, not saved."""

    def __init__(self, config: "DistilLogits", student: nn.Module, setting: Setting) -> None:
        self._load = functools.cache(functools.partial(make_teacher, config.teacher, student, setting, where=WHERE))
        self._top_k = config.top_k
        self._folder: Path | None = None
        self._kept: Kept | None = None
        if config.cache:
            name = digest_of(
                1, fingerprint_of(config.teacher, student), setting.examples, config.temperature, config.top_k
            )
            self._folder = cache_folder(config.folder) / "teachers" / name
        if self._folder is None or not self._folder.is_dir() or config.teacher == START:
            self._load()  # what is wrong with it must show before the run begins, and `start` changes from then on

    def kept(self, num_outcomes: int) -> Kept | None:
        """What the teacher has said, if that is to be kept."""
        if self._kept is None and self._folder is not None:
            k = min(self._top_k, num_outcomes)
            self._kept = Kept(self._folder / str(num_outcomes), k=k, num_outcomes=num_outcomes, where=WHERE)
        return self._kept

    def ask(self, student: Outputs, batch: Batch) -> Outputs:
        """What the teacher makes of the batch now.

        Raises:
            RequestError: it knows other outcomes than the student.
        """
        taught = self._load().outputs(student)
        check_comparable(taught, batch, f"{WHERE}.teacher")
        ours, theirs = num_scores(student), num_scores(taught)
        if ours != theirs and "tokens" not in batch.labels:
            problem = f"the teacher answers with one of {theirs}, the student with one of {ours}"
            raise RequestError(problem, where=f"{WHERE}.teacher", mend="Give a teacher of the same task")
        return taught


class DistilLogits(Technique):
    """Trains a student to answer as a teacher does: to give the same probabilities to every token or class.

        L = μ · task loss + α T² Σ D(p ‖ q),    p = softmax(teacher's logits / T),  q = softmax(student's / T)

    Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2 (with its T²); reverse: Gu
    et al. 2024, "MiniLLM", equation 1, here on the data's own text; js: Agarwal et al. 2024, "On-Policy Distillation",
    equation 1 (β near 0 and 1 weighs it small: raise the weight by 1 / (β (1 − β))). The sum is over the targets that
    carry a loss. Several labels a row count each by itself, their mean as in the task. The dial `distil_logits` is α.

    The teacher `start` is the student before its first step: what it knew is kept while it learns something new (Li
    & Hoiem 2016, "Learning without Forgetting", equation 3). With `cache` the teacher's `top_k` likeliest outcomes
    and the mass of the rest are kept on disk in fp16, by example; epochs after the first, and further runs on the same
    data, read them, and a teacher that need not be asked is not even loaded. D is then taken over K + 1 outcomes: never
    more than the whole one. Cost: the teacher's weights and one forward of it a step (none where it is cached; 258
    bytes of disk a target at K = 64 and up to 65,536 tokens); logits are made a chunk at a time, the student's again.

    When not: the teacher has another tokenizer (let it write the data instead), is no better than the student would
    become, or learned with label smoothing. Not `cache` with anything that changes the examples at each draw.
    """

    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"weight": 0.0}
    example: ClassVar[Mapping[str, object]] = {"weight": 2.0, "temperature": 2.0, "task_weight": 0.5}

    teacher: str = "start"
    """a run's folder, a model's folder, a .gguf file or a hub name; start is the student before its first step"""
    weight: float = Field(default=1.0, ge=0.0)
    """α, how much the teacher counts"""
    task_weight: float = Field(default=1.0, ge=0.0)
    """μ, how much the task's own loss counts; 0 learns from the teacher alone"""
    temperature: float = Field(default=1.0, gt=0.0)
    """T, above 1 shows more of what the teacher knows about unlikely answers: 2 to 4 for classes, 1 for text"""
    divergence: Divergence = "forward"
    """forward covers all that the teacher might say, reverse keeps to its likeliest, js is between them"""
    beta: float = Field(default=0.5, gt=0.0, lt=1.0)
    """the share of the teacher in the mixture of js"""
    cache: bool = False
    """keep what the teacher says on disk, so that it runs once"""
    top_k: int = Field(default=64, ge=1)
    """how many of the likeliest outcomes the cache keeps"""
    folder: str | None = None
    """where the cache is; by default in danlu's own"""

    def dials(self) -> Sequence[Dial]:
        return (constant("distil_logits", self.weight),)

    def start_in(self, setting: Setting, model: nn.Module) -> Lessons | None:
        return Lessons(self, model, setting) if self.weight else None

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        if state is None:
            return {}
        assert isinstance(state, Lessons)
        check_comparable(outputs, batch, WHERE)
        at_N, weights_N = targets(batch)
        kept = state.kept(num_scores(outputs))
        if kept is None:
            student, teacher = self._whole(outputs, state.ask(outputs, batch), batch, at_N)
        else:
            student, teacher = self._likeliest(outputs, batch, at_N, state, kept)
        total = compared(
            lambda part: divergence(teacher(part), student(part), self.divergence, self.beta),
            len(at_N),
            weights_N,
            num_scores(outputs),
        )
        terms = {"distil_logits": ctx.dial("distil_logits") * self.temperature**2 * total}
        if self.task_weight != 1.0:
            terms["distil_logits_task"] = (self.task_weight - 1.0) * outputs.loss
        return terms

    def _whole(self, outputs: Outputs, taught: Outputs, batch: Batch, at_N: Tensor) -> tuple[Scores, Scores]:
        """Makes the log-probabilities of both over all outcomes; what only one of them knows (padding) is left out."""
        size = min(num_scores(outputs), num_scores(taught))
        student, teacher = (scores(made, batch, at_N, size) for made in (outputs, taught))

        def taught_now(part: slice) -> Tensor:
            with torch.no_grad():
                return (teacher(part) / self.temperature).log_softmax(-1)

        return lambda part: (student(part) / self.temperature).log_softmax(-1), taught_now

    def _likeliest(
        self, outputs: Outputs, batch: Batch, at_N: Tensor, state: Lessons, kept: Kept
    ) -> tuple[Scores, Scores]:
        """Makes the log-probabilities of both over the teacher's likeliest outcomes and all others together."""
        if "marks" in batch.labels:
            problem = "what is said of several labels a row cannot be kept"
            raise RequestError(problem, where=f"{WHERE}.cache", mend="Turn it off")
        shown = shown_of(batch)
        said = kept.find(shown)
        if said is None:
            said = kept.add(shown, self._said(state.ask(outputs, batch), batch, at_N, kept))
        none = Said(np.zeros((0, kept.k + 1)), np.zeros((0, kept.k)))
        log_probs, indices = (np.concatenate(parts) for parts in zip(none, *said, strict=True))
        teacher_NK = torch.from_numpy(log_probs).to(at_N.device, torch.float32).log_softmax(-1)
        indices_NK = torch.from_numpy(indices).to(at_N.device, torch.int64)
        student = scores(outputs, batch, at_N)
        return lambda part: coarse(student(part) / self.temperature, indices_NK[part]), lambda part: teacher_NK[part]

    @torch.no_grad()
    def _said(self, taught: Outputs, batch: Batch, at_N: Tensor, kept: Kept) -> list[Said]:
        """What the teacher says of each example of the batch that has targets."""
        made = scores(taught, batch, at_N, kept.num_outcomes)
        chunk = max(1, CHUNK_ELEMENTS // kept.num_outcomes)
        starts = range(0, len(at_N), chunk)
        parts = [likeliest(made(slice(at, at + chunk)) / self.temperature, kept.k) for at in starts]
        lengths = batch.targets_B[batch.targets_B > 0].tolist()
        rows = zip(*(torch.cat(pieces).cpu().split(lengths) for pieces in zip(*parts, strict=True)), strict=True)
        return [Said(log_probs.numpy(), indices.numpy()) for log_probs, indices in rows]
