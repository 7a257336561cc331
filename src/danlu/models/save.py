"""Writes a trained model so that transformers loads it without danlu, and reads it back with its tools and notes."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from danlu.core.errors import RequestError, RunError
from danlu.models import families
from danlu.models.build import auto_class_of
from danlu.models.names import plain_name
from danlu.models.origin import Origin, as_plain, find_origin, kind_errors, no_bars

NOTES = "danlu.json"
TASK_KEYS = "task_keys.json"
"""beside an adapter: the labels of a classifier, which are part of the config of the whole model"""
_ROOM = "What was there before is unchanged. Make room, or give another folder"
_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}
"""what peft calls a kind of model -> the class that loads it"""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "vocab.txt")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    tools: Any = None,
    merge: bool = True,
    notes: Mapping[str, object] | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Writes `folder` in Hugging Face's layout, whole or not at all: aside first, then exchanged by renaming.

    `model` may be wrapped (by Forward, DDP, peft, compiled or checkpointed layers): none of that shows in the names.
    `tools` is the tokenizer or processor; `notes` become danlu.json, `files` (path → text)
    are written as they are. With `merge` an adapter is folded into the
    weights (in fp32, the model in memory stays as it is); without, the adapter alone is written.

    Raises:
        RunError: the disk is full or the folder cannot be written; what was there before still is.
    """
    model = _unwrapped(model)
    with _told(folder), _aside(folder) as aside, no_bars():
        if _is_adapted(model) and not merge:
            _save_adapter(model, aside)
        else:
            inner, weights = _whole(model)
            inner.save_pretrained(aside, state_dict=weights)
        if tools is not None:
            tools.save_pretrained(aside)
        if notes is not None:
            text = json.dumps(dict(notes), indent=2, ensure_ascii=False, default=str)
            (aside / NOTES).write_text(text + "\n", encoding="utf-8")
        for name, content in (files or {}).items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(content, encoding="utf-8")


class Trained(NamedTuple):
    """A model read back, in evaluation mode; `tools` is its tokenizer or processor, `notes` its danlu.json."""

    model: PreTrainedModel
    tools: Any | None
    notes: Mapping[str, Any] | None


def model_place(model: str | Path) -> str | Path:
    """Where a model lies: the `model` folder of a run's folder; of anything else, itself.

    Raises:
        RequestError: the run has written no model yet.
    """
    path = Path(model).expanduser()
    if not (path / "journal.jsonl").is_file():
        return model
    if not (path / "model").is_dir():
        mend = "Let it finish, or go on with it: --resume"
        raise RequestError("this run has written no model yet", where=str(model), mend=mend)
    return path / "model"


def load_trained(folder: str | Path, *, auto_class: str | None = None, dtype: torch.dtype | None = None) -> Trained:
    """Reads a trained model: a folder (an adapter's too), a .gguf file or a hub name.

    Without `auto_class` the class is the one that the model's own config names, else a causal language model's. The
    weights are fp32 unless `dtype` says otherwise. An adapter is folded into its base.

    Raises:
        RequestError: there is no such model, or it cannot be loaded.
    """
    origin = find_origin(str(folder), where=str(folder))
    with kind_errors(origin, where=str(folder)):
        model = _load_adapter(origin, auto_class, dtype) if origin.adapter else _load(origin, auto_class, dtype)
        tools = _load_tools(origin)
    path = Path(origin.name) / NOTES
    notes = json.loads(path.read_text(encoding="utf-8")) if origin.local and path.is_file() else None
    return Trained(model=model.eval(), tools=tools, notes=notes)


def config_of(folder: str | Path) -> PreTrainedConfig:
    """The configuration of what `load_trained` reads, without the weights.

    Raises:
        RequestError: there is no such model.
    """
    origin = find_origin(str(folder), where=str(folder))
    with kind_errors(origin, where=str(folder)):
        origin = _base_of(origin) if origin.adapter else origin
        config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(origin.name, **origin.options())
        return config


def _load(
    origin: Origin, auto_class: str | None, dtype: torch.dtype | None, keys: Mapping[str, object] | None = None
) -> PreTrainedModel:
    auto = auto_class_of(auto_class) if auto_class is not None else _own_class(origin)
    given = {**origin.options(), **(keys or {})}
    model: PreTrainedModel = auto.from_pretrained(origin.name, dtype=dtype or torch.float32, **given)
    return as_plain(model, origin)


def _load_adapter(origin: Origin, auto_class: str | None, dtype: torch.dtype | None) -> PreTrainedModel:
    said = _adapter_config(origin)
    model = _load(
        _base_of(origin), auto_class or _AUTO_CLASSES.get(str(said.get("task_type"))), dtype, _task_keys(origin)
    )
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(model, origin.name)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def _adapter_config(origin: Origin) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((Path(origin.name) / "adapter_config.json").read_text(encoding="utf-8"))
    return said


def _base_of(origin: Origin) -> Origin:
    name = str(_adapter_config(origin).get("base_model_name_or_path"))
    return find_origin(name, where=f"{origin.name}/adapter_config.json")


def _task_keys(origin: Origin) -> dict[str, object]:
    """The keys that a task put into the config of the model below an adapter: its base's own config lacks them."""
    path = Path(origin.name) / TASK_KEYS
    if not origin.local or not path.is_file():
        return {}
    keys: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(names := keys.get("id2label"), dict):
        keys["id2label"] = {int(at): name for at, name in names.items()}
    return keys


def _own_class(origin: Origin) -> Any:
    if origin.gguf_file is not None:
        return transformers.AutoModelForCausalLM
    config = transformers.AutoConfig.from_pretrained(origin.name, **origin.options())
    named = (config.architectures or [""])[0]
    if type(config).__module__.startswith(families.__name__):
        return getattr(sys.modules[type(config).__module__], named)
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def _load_tools(origin: Origin) -> Any | None:
    if not origin.local or origin.gguf_file is not None:
        return transformers.AutoTokenizer.from_pretrained(origin.name, **origin.options())
    folder = Path(origin.name)
    has_words = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if any((folder / name).is_file() for name in _PROCESSOR_FILES):
        auto = transformers.AutoProcessor if has_words else transformers.AutoImageProcessor
        return auto.from_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder) if has_words else None


def _unwrapped(model: nn.Module) -> nn.Module:
    """The transformers or peft model inside Forward, DDP and the like."""
    while not (isinstance(model, PreTrainedModel) or _is_adapted(model)):
        inner = next(
            (getattr(model, name) for name in ("module", "net", "model", "_orig_mod") if hasattr(model, name)), None
        )
        if not isinstance(inner, nn.Module):
            raise TypeError(f"{type(model).__name__} holds no transformers model")
        model = inner
    return model


def _is_adapted(model: nn.Module) -> bool:
    """True for a peft model; asked so that peft, slow to import, is not needed to know."""
    return hasattr(type(model), "get_base_model")


def _whole(model: nn.Module) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    if _is_adapted(model):
        from danlu.models.merge import merged_weights

        return cast(PreTrainedModel, cast(Any, model).get_base_model()), merged_weights(model)
    assert isinstance(model, PreTrainedModel)
    return model, {plain_name(name): tensor for name, tensor in _tensors(model)}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and lasting buffers, read from the modules: under FSDP `state_dict` would give shards."""
    for prefix, part in model.named_modules(remove_duplicate=False):
        held = {**part._parameters, **part._buffers}
        for name, tensor in held.items():
            if tensor is not None and name not in part._non_persistent_buffers_set:
                yield f"{prefix}.{name}".lstrip("."), tensor.detach()


def _save_adapter(model: Any, aside: Path) -> None:
    state = {plain_name(name): tensor for name, tensor in _tensors(model)}
    model.save_pretrained(str(aside), state_dict=state)
    config = model.get_base_model().config
    if getattr(config, "problem_type", None) is not None:
        keys = {key: getattr(config, key, None) for key in ("problem_type", "id2label", "label2id", "pad_token_id")}
        (aside / TASK_KEYS).write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
    path = aside / "adapter_config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    base = Path(str(said.get("base_model_name_or_path", "")))
    if base.exists():
        said["base_model_name_or_path"] = str(base.resolve())
        path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        raise RunError(f"the model could not be written: {said}", where=str(folder), mend=_ROOM) from error


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place at the end; after an error everything is as before."""
    aside = folder.with_name(f".{folder.name}.new")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in [*(path for path in aside.rglob("*") if path.is_file()), aside]:
            _to_disk(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    _to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
