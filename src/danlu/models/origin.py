"""Finds a model that exists: a folder, a .gguf file, or a name on the hub; and says kindly when it is not there."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedModel
from transformers.utils import logging

from danlu.core.errors import RequestError
from danlu.core.extras import need
from danlu.core.hub import hub_reachable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """`name` is a folder or a hub name; `gguf_file` is set for GGUF weights inside it; `adapter` for a peft folder."""

    name: str
    local: bool
    gguf_file: str | None = None
    adapter: bool = False

    def options(self) -> dict[str, object]:
        """What `from_pretrained` must be told beside the name."""
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}


def find_origin(text: str, *, where: str = "model.from", revision: str | None = None) -> Origin:
    """Reads `from`: a folder, FOLDER/FILE.gguf, a folder with one .gguf in it, OWNER/NAME, or OWNER/NAME/FILE.gguf.

    Without a network a name on the hub means what was downloaded of it before.

    Raises:
        RequestError: the file or folder is not there, or holds no model; or the hub cannot be reached.
    """
    path = Path(text).expanduser()
    if path.suffix == ".gguf":
        _need_gguf()
        if path.is_file():
            return Origin(name=str(path.parent), local=True, gguf_file=path.name)
        if _is_path(text) or text.count("/") < 2:
            raise RequestError(f"there is no file {text}", where=where, mend=_beside(path))
        return _on_the_hub(text.rpartition("/")[0], path.name, where, revision)
    if path.is_dir():
        return _folder(path, where)
    if path.is_file():
        raise RequestError(f"{text} is neither a folder nor a .gguf file", where=where, mend="Give the folder it is in")
    if _is_path(text) or text.count("/") > 1:
        raise RequestError(f"there is no folder {text}", where=where, mend=_beside(path))
    return _on_the_hub(text, None, where, revision)


def _on_the_hub(name: str, gguf_file: str | None, where: str, revision: str | None) -> Origin:
    """The hub's name; without a network the folder of its cache, since transformers would try and wait for minutes."""
    if hub_reachable():
        return Origin(name=name, local=False, gguf_file=gguf_file)
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True)
    except (OSError, ValueError, HFValidationError):
        raise RequestError(
            f"{name} is not on this machine, and the hub cannot be reached",
            where=where,
            mend="Connect to the network, or give a folder or a .gguf file",
        ) from None
    return Origin(name=str(folder), local=True, gguf_file=gguf_file)


@contextlib.contextmanager
def kind_errors(origin: Origin, *, where: str = "model.from") -> Iterator[None]:
    """Turns what loading may raise into one message, and keeps transformers' bars and reports away from the screen."""
    try:
        with no_bars(), quiet():
            yield
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(_said(error, origin), where=where, mend=_mend(origin)) from error
    except ImportError as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise RequestError(f"{origin.name} needs a library that is not installed: {first}", where=where) from error


def as_plain(model: PreTrainedModel, origin: Origin) -> PreTrainedModel:
    """A model read from GGUF is whole again, but transformers would still refuse to save it as quantised."""
    if origin.gguf_file is not None:
        for name in ("hf_quantizer", "is_quantized", "quantization_method"):
            vars(model).pop(name, None)
        vars(model.config).pop("quantization_config", None)
    return model


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Keeps transformers' progress bars away from the screen."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' warnings away from the screen."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _folder(path: Path, where: str) -> Origin:
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return Origin(name=str(path), local=True, adapter=True)
    if (path / "config.json").is_file():
        return Origin(name=str(path), local=True)
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        _need_gguf()
        return Origin(name=str(path), local=True, gguf_file=found[0].name)
    if (path / "model" / "config.json").is_file():
        raise RequestError(f"{path} is a run, not a model", where=where, mend=f"Its model is {path / 'model'}")
    many = f"It holds {', '.join(entry.name for entry in found[:4])}: give one of them" if found else None
    mend = many or "A model's folder holds config.json and weights, or one .gguf file"
    raise RequestError(f"there is no model in the folder {path}", where=where, mend=mend)


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~", ".\\")) or text.endswith("/") or "\\" in text


def _beside(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} is not there either"
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    names = sorted(entry.name for entry in entries if entry.is_dir() or entry.suffix == ".gguf")[:5]
    return f"In {folder} there are {', '.join(names)}" if names else f"The folder {folder} holds no models"


def _need_gguf() -> None:
    for library in ("gguf", "accelerate"):
        need(library, extra="gguf", what="a .gguf file")


def _said(error: Exception, origin: Origin) -> str:
    text = " ".join(str(error).split())
    if origin.local:
        return f"the model in {origin.name} cannot be loaded: {text[:300].rstrip('.')}"
    if "gated" in text or "401" in text:
        return f"{origin.name} is not open to everybody, or is not on the hub"
    if "not a valid model identifier" in text or "404" in text:
        return f"there is no model {origin.name} on the hub"
    return f"{origin.name} cannot be loaded: {text[:300].rstrip('.')}"


def _mend(origin: Origin) -> str | None:
    if origin.local:
        return None
    return "Look at its spelling (OWNER/NAME); for one behind a licence, run: hf auth login"
