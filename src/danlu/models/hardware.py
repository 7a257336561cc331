"""What this machine can do: the device to use, its precision, and the rate of a large matrix product, measured."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from danlu.core.errors import RequestError, nearest
from danlu.models.kernels import enabled, fast_bf16

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORTH_IT = 1.3
"""how many times faster than fp32 bf16 must be on a CPU to be chosen"""
MEASURE_SECONDS = 0.25
LOOKS = 3
"""processes that measure before the answer is settled"""
# rows, inner and outer width of products as in training, from what any machine can do to what fills a large GPU
_SHAPES = ((256, 512, 512), (1024, 768, 3072), (2048, 1024, 4096), (4096, 4096, 4096), (8192, 8192, 8192))


def pick_device() -> torch.device:
    """The best device of this process: cuda, mps, xla (a TPU, where torch_xla is installed), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if importlib.util.find_spec("torch_xla") is not None:
        device: torch.device = importlib.import_module("torch_xla").device()
        return device
    return torch.device("cpu")


def describe_device(device: torch.device | str | None = None) -> str:
    """The device in words, with its cores or memory."""
    device = torch.device(device) if device is not None else pick_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "cpu":
        return f"{_processor()}, {_num_cores()} cores, {torch.get_num_threads()} threads"
    return f"{device.type.upper()} device"


def pick_precision(wanted: str, device: torch.device | str) -> Precision:
    """The precision of a run. `auto`: bf16 where the device multiplies it fast, else fp32.

    On a CPU both are measured, since many processors know bf16 but have no product for it.

    Raises:
        RequestError: the device cannot do what is wanted.
    """
    device = torch.device(device)
    if wanted not in ("auto", *DTYPES):
        raise RequestError(f"no precision {wanted!r}", where="train.precision", mend=nearest(wanted, ("auto", *DTYPES)))
    if wanted == "fp16" and device.type == "cpu":
        raise RequestError("fp16 needs a GPU", where="train.precision", mend="Use auto, bf16 or fp32")
    cuda_without = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and cuda_without:
        raise RequestError("this GPU has no bf16", where="train.precision", mend="Use fp16, fp32 or auto")
    if wanted != "auto":
        return wanted  # type: ignore[return-value]
    if device.type == "cpu":
        faster = fast_bf16() and measure_gemm("bf16", device) > WORTH_IT * measure_gemm("fp32", device)
        return "bf16" if faster else "fp32"
    return "bf16" if device.type in ("cuda", "xla") and not cuda_without else "fp32"


def measure_gemm(precision: str = "fp32", device: torch.device | str = "cpu") -> float:
    """FLOP/s of a large matrix product, measured within half a second, once per machine, torch and thread count.

    fp32 on a CPU is measured the way `kernels.accelerate` runs it. The answers are kept in the user's cache folder; the
    first three processes that ask measure, and the best counts, since a machine may be busy once.
    """
    device = torch.device(device)
    return _measured(precision, device.type, device.index or 0, torch.get_num_threads(), enabled())


@functools.cache
def _measured(precision: str, kind: str, index: int, threads: int, kernels: bool) -> float:
    device = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    parts = (precision, kind, str(threads), str(kernels), torch.__version__, describe_device(device), *_SHAPES)
    key = hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
    path = _cache_path()
    known = _read(path)
    rates = known.get(key, [])
    if len(rates) < LOOKS:
        rates = [*rates, _measure(DTYPES[precision], device, medium=kernels and kind == "cpu")]
        _write(path, {**_read(path), key: rates})
    return max(rates)


def _measure(dtype: torch.dtype, device: torch.device, *, medium: bool) -> float:
    """The best rate over shapes that grow until one product takes a noticeable time."""
    slow = device.type == "cpu" and dtype != torch.float32 and not fast_bf16()
    best = 0.0
    began = time.perf_counter()
    with _matmul_precision("medium" if medium else torch.get_float32_matmul_precision()), torch.no_grad():
        for num_rows, inner, outer in _SHAPES if slow else _SHAPES[1:]:
            work = 2.0 * num_rows * inner * outer
            if best and work / best > MEASURE_SECONDS / 2:
                break
            left = torch.randn(num_rows, inner, device=device).to(dtype)
            right = torch.randn(outer, inner, device=device).to(dtype)
            best = max(best, work / _product_seconds(left, right))
            if time.perf_counter() - began > MEASURE_SECONDS:
                break
    return best


def _product_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """The shortest of a few products, the first of which only warms up (unless it is as slow as all we have time for).

    A first product may build kernels, start threads and touch fresh memory.
    """
    shortest, began = float("inf"), time.perf_counter()
    for attempt in range(12):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        _wait(left.device)
        end = time.perf_counter()
        if attempt or end - start > MEASURE_SECONDS:
            shortest = min(shortest, end - start)
        if end - began > MEASURE_SECONDS / 3 and shortest < float("inf"):
            break
    return shortest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xla":
        importlib.import_module("torch_xla").sync(wait=True)


@contextlib.contextmanager
def _matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _cache_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "danlu" / "gemm.json"


def _read(path: Path) -> dict[str, list[float]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): [float(rate) for rate in rates] for key, rates in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, known: dict[str, list[float]]) -> None:
    """Kept where the folder can be written; elsewhere it is measured anew in each process."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as aside:
            json.dump(known, aside)
        Path(aside.name).replace(path)


@functools.cache
def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _num_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
