"""Teacher: a frozen model that is asked about the student's own batches."""

import copy
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn

from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.technique import Extra, Setting, TechniqueState
from danlu.data.fingerprints import content_digests, digest_of
from danlu.data.places import cache_folder
from danlu.models.forward import Forward
from danlu.models.kernels import accelerate
from danlu.models.origin import find_origin
from danlu.models.save import config_of, load_trained, model_place
from danlu.techniques._surgery import input_embedding

START = "start"
"""the name of the student itself, as it is before its first step"""
_MANY = 5


class Teacher(TechniqueState):
    """A model in evaluation mode, whole on every process, that nobody trains, saves or exports."""

    def __init__(self, model: nn.Module) -> None:
        self.forward = Forward(model.eval().requires_grad_(False))

    def outputs(self, student: Outputs, also: Sequence[Extra] = ()) -> Outputs:
        """What it makes of the batch that the student's outputs are of, without gradients."""
        with torch.no_grad():
            return student.again(functools.partial(self.forward, also=also))


def make_teacher(name: str, student: nn.Module, setting: Setting, *, where: str, eager: bool = False) -> Teacher:
    """Loads it: a run's folder, a model's folder, a .gguf file, a hub name, or `start`. `eager` shows its attention.

    Raises:
        RequestError: there is no such model, or it reads other tokens, pictures or classes than the student.
    """
    device = next(student.parameters()).device
    if name == START:
        model = copy.deepcopy(student)
    else:
        trained = load_trained(model_place(name))
        model = trained.model.to(device)  # type: ignore[arg-type]
        if not _same_tokens(setting.tools, trained.tools, name, where):
            _check_sizes(student, model, name, where)
        _check_pictures(setting.tools, trained.tools, name, where)
        _check_classes(student, model, name, where)
    inner = cast(transformers.PreTrainedModel, model)
    if eager:
        show_attention(inner, where)
    return Teacher(accelerate(inner, device=device, precision="fp32"))


def show_attention(model: nn.Module, where: str) -> None:
    """Sets a model to plain attention, which alone gives its weights.

    Raises:
        RequestError: it has none.
    """
    try:
        model.set_attn_implementation("eager")  # type: ignore[operator]
    except (ValueError, AttributeError) as error:
        problem = f"{type(model).__name__} cannot show its attention"
        raise RequestError(problem, where=where, mend="Use distil_logits or distil_hidden") from error


def fingerprint_of(name: str, student: nn.Module) -> str:
    """Names the teacher's weights: equal names, equal teachers. Files are hashed once, and again when they change."""
    if name == START:
        digest = hashlib.blake2b(digest_size=16)
        for key, tensor in student.state_dict().items():
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
    origin = find_origin(str(model_place(name)), where=name)
    if not origin.local:
        return digest_of(origin.name, origin.gguf_file, config_of(origin.name)._commit_hash)
    folder = Path(origin.name)
    kinds = (origin.gguf_file,) if origin.gguf_file else ("*.safetensors", "*.bin", "*config.json")
    files = sorted(file for kind in kinds for file in folder.glob(kind))
    digests = content_digests(files, cache_folder(None))
    return digest_of(*(f"{file.name} {digest}" for file, digest in zip(files, digests, strict=True)))


def _same_tokens(ours: Any, theirs: Any, name: str, where: str) -> bool:
    """The teacher is given the student's own inputs: numbers of tokens must mean the same to both. False: not known."""
    if not hasattr(ours, "get_vocab") or not hasattr(theirs, "get_vocab"):
        return False
    if ours.get_vocab() != theirs.get_vocab():
        sizes = f"{len(theirs.get_vocab())} tokens against {len(ours.get_vocab())}"
        raise RequestError(
            f"{name} has another tokenizer than the student ({sizes}), so their answers cannot be compared",
            where=f"{where}.teacher",
            mend="Set data.tokenizer.from to the teacher's folder, or let the teacher write the data (danlu predict)",
        )
    return True


def _check_sizes(student: nn.Module, teacher: nn.Module, name: str, where: str) -> None:
    ours, theirs = input_embedding(student), input_embedding(teacher)
    if ours is not None and theirs is not None and ours.num_embeddings != theirs.num_embeddings:
        problem = f"{name} knows {theirs.num_embeddings} tokens, the student {ours.num_embeddings}"
        raise RequestError(problem, where=f"{where}.teacher", mend="Give a teacher with the student's tokenizer")


def _check_pictures(ours: Any, theirs: Any, name: str, where: str) -> None:
    for key in ("image_mean", "image_std", "size"):
        one, two = (_plain(getattr(tools, key, None)) for tools in (ours, theirs))
        if one and two and one != two:
            raise RequestError(
                f"{name} takes other pictures than the student: {key} is {two} against {one}",
                where=f"{where}.teacher",
                mend="Train one of them on the other's pictures (task.image_size, or model.from of the same family)",
            )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value or ())


def _check_classes(student: nn.Module, teacher: nn.Module, name: str, where: str) -> None:
    if "Classification" not in type(teacher).__name__:
        return
    ours, theirs = _labels(student), _labels(teacher)
    if ours == theirs:
        return
    unnamed = any(all(label.startswith("LABEL_") for label in labels) for labels in (ours, theirs))
    if len(ours) == len(theirs) and unnamed:
        return
    shown = [", ".join(labels[:_MANY]) + (", ..." if len(labels) > _MANY else "") for labels in (theirs, ours)]
    raise RequestError(
        f"{name} knows the {len(theirs)} classes {shown[0]}, the student the {len(ours)} classes {shown[1]}",
        where=f"{where}.teacher",
        mend="Give task.labels in the teacher's order, or another teacher",
    )


def _labels(model: nn.Module) -> list[str]:
    names = cast(transformers.PreTrainedModel, model).config.id2label or {}
    return [str(name) for _, name in sorted(names.items())]
