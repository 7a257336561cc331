"""Doctor: what this machine offers danlu, measured where that is quick, and what to do about what is missing."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from danlu import __version__

State = Literal["good", "note", "bad"]
FOR_DEVELOPERS = frozenset({"test", "lint", "docs"})
LITTLE_MEMORY_BYTES = 4 * 2**30
LITTLE_DISK_BYTES = 5 * 2**30
GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that was looked at: what it is, what was found, how it is judged, and what to do about it."""

    group: str
    label: str
    text: str
    state: State = "good"
    advice: str = ""


def doctor() -> Iterator[Line]:
    """Looks at one thing after the other; each line comes as soon as it is known. Takes a few seconds."""
    for look in (_software, _device, _memory, _disk, _rates, _kernels, _extras):
        try:
            yield from look()
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            name = look.__name__.strip("_")
            yield Line(group=name, label=name, text=f"could not be looked at: {error}", state="bad")


def _software() -> Iterator[Line]:
    yield Line(group="software", label="danlu", text=__version__)
    text = f"{platform.python_version()} ({sys.executable})"
    fine = sys.version_info >= (3, 11)
    advice = "" if fine else "danlu needs Python 3.11 or newer."
    yield Line(group="software", label="Python", text=text, state="good" if fine else "bad", advice=advice)
    yield Line(group="software", label="system", text=f"{platform.system()} {platform.release()}, {platform.machine()}")
    for name in ("torch", "transformers", "peft", "tokenizers", "datasets"):
        version = _version(name)
        advice = "" if version else f"Run: pip install {name}"
        yield Line(
            group="software", label=name, text=version or "missing", state="good" if version else "bad", advice=advice
        )


def _device() -> Iterator[Line]:
    import psutil
    import torch

    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        text = f"{found.name}, {found.total_memory / GIB:.0f} GiB, compute capability {found.major}.{found.minor}"
        yield Line(group="device", label=f"cuda:{number}", text=text)
    if not torch.cuda.is_available():
        yield Line(
            group="device",
            label="CUDA",
            text="no device; training runs on the processor",
            state="note",
            advice="Without a GPU keep models below about 100M parameters, or train adapters (model.adapter).",
        )
    cores = _usable_cores()
    text = (
        f"{_processor()}, {cores} usable of {os.cpu_count()} threads ({psutil.cpu_count(logical=False) or '?'} cores)"
    )
    yield Line(group="device", label="processor", text=text)
    threads = torch.get_num_threads()
    advice = f"OMP_NUM_THREADS keeps torch at {threads}; unset it to use all {cores}." if threads < cores / 2 else ""
    state: State = "note" if advice else "good"
    yield Line(group="device", label="torch threads", text=str(threads), state=state, advice=advice)


def _memory() -> Iterator[Line]:
    import psutil

    from danlu.train.microbatch import available_bytes

    free, whole = available_bytes(), psutil.virtual_memory().total
    advice = "Close other programs, or keep the model and the context small." if free < LITTLE_MEMORY_BYTES else ""
    text = f"{free / GIB:.1f} GiB free for danlu, {whole / GIB:.1f} GiB in the machine"
    yield Line(group="memory", label="memory", text=text, state="note" if advice else "good", advice=advice)


def _disk() -> Iterator[Line]:
    from danlu.data.places import cache_folder

    for label, folder in (("disk here", Path.cwd()), ("disk of the cache", cache_folder(None))):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        advice = "" if free > LITTLE_DISK_BYTES else f"Free some space on the disk of {there}."
        advice = advice if writable else f"{there} cannot be written: run elsewhere, or set XDG_CACHE_HOME."
        text = f"{free / GIB:.1f} GiB free, {folder}" + ("" if writable else ", not writable")
        state: State = "good" if not advice else "note" if writable else "bad"
        yield Line(group="disk", label=label, text=text, state=state, advice=advice)


def _rates() -> Iterator[Line]:
    from danlu.models.hardware import measure_gemm, pick_device, pick_precision

    device = pick_device()
    rates = {precision: measure_gemm(precision, device) for precision in ("fp32", "bf16")}
    for precision, rate in rates.items():
        yield Line(group="speed", label=f"matrix products {precision}", text=f"{rate / 1e9:,.0f} GFLOP/s on {device}")
    chosen = pick_precision("auto", device)
    yield Line(group="speed", label="precision auto", text=f"takes {chosen} here")


def _kernels() -> Iterator[Line]:
    from danlu.models.kernels.build import status

    found = status()
    state: State = "good" if found.available else "note"
    yield Line(group="kernels", label="C++ kernels", text=found.reason, state=state)
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    advice = "" if compiler else "Install g++ for faster training on the processor (apt install g++)."
    yield Line(
        group="kernels", label="compiler", text=compiler or "none", state="good" if compiler else "note", advice=advice
    )


def _extras() -> Iterator[Line]:
    for extra, names in _extra_requirements().items():
        missing = [name for name in names if not _version(name)]
        if missing:
            text = f"missing {', '.join(missing)}; when wanted: pip install 'danlu[{extra}]'"
            yield Line(group="extras", label=extra, text=text, state="note")
        else:
            text = ", ".join(f"{name} {_version(name)}" for name in names)
            yield Line(group="extras", label=extra, text=text)


@functools.cache
def _extra_requirements() -> dict[str, list[str]]:
    """Extra → the libraries that it brings, from danlu's own metadata."""
    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {}
    about = importlib.metadata.metadata("danlu")
    for extra in sorted(set(about.get_all("Provides-Extra") or ()) - FOR_DEVELOPERS):
        wanted = [Requirement(text) for text in importlib.metadata.requires("danlu") or ()]
        found[extra] = [one.name for one in wanted if one.marker and _asks_for(one.marker.evaluate, extra)]
    return found


def _asks_for(evaluate: Callable[[dict[str, str]], bool], extra: str) -> bool:
    return evaluate({"extra": extra}) and not evaluate({"extra": ""})


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
