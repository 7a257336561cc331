"""Builds the C++ kernels at first use and keeps them; says why when they cannot be had.

One run of the compiler over one translation unit that includes no torch header takes about two seconds, against half a
minute through torch's own extension machinery; the kernels take raw pointers through ctypes. The result is kept under
`~/.cache/danlu/kernels/`, named after the sources, the flags, the compiler, the processor and torch.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SOURCES = Path(__file__).parent / "csrc"
# Jump threading would split the exponential's clamps into paths of their own: 1.7 times slower once vectorised.
BASE_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fno-thread-jumps")
# Tried in turn: some compilers know only one way to name the machine they run on, and some have no OpenMP.
FLAG_SETS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-fopenmp",), ())
COMPILE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class KernelStatus:
    """Whether the C++ kernels run here, and why or why not; `fast_bf16` is whether the processor multiplies bf16."""

    available: bool
    reason: str
    fast_bf16: bool


def enabled() -> bool:
    """Whether the kernels are wanted at all: `DANLU_KERNELS=0` turns every one off, for comparison."""
    return os.environ.get("DANLU_KERNELS", "1") != "0"


def library() -> ctypes.CDLL | None:
    """The loaded kernels, or None where they are off or cannot be built. The first call may take about two seconds."""
    return _load()[0] if enabled() else None


def status() -> KernelStatus:
    """What `danlu doctor` says about the kernels. Builds them if that was not done yet."""
    if not enabled():
        return KernelStatus(available=False, reason="turned off by DANLU_KERNELS=0", fast_bf16=fast_bf16())
    loaded, reason = _load()
    return KernelStatus(available=loaded is not None, reason=reason, fast_bf16=fast_bf16())


@functools.cache
def fast_bf16() -> bool:
    """Whether this processor has instructions for products in bf16.

    Without them torch's bf16 matrix product falls to a plain loop: 0.9 GFLOP/s where fp32 does 80 (2 cores, AVX2).
    """
    flags = _cpu_flags()
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(found.partition(":")[2].split())


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)
    if compiler is None:
        return None, "no C++ compiler found (install g++ for faster training); torch's own operations are used"
    try:
        path = _built(compiler)
        loaded = ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:
        return None, f"the kernels could not be built: {error}; torch's own operations are used"
    _declare(loaded)
    return loaded, f"built by {Path(compiler).name}, {path}"


def _built(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=COMPILE_SECONDS).stdout
    parts = [source.read_text() for source in sorted(SOURCES.glob("*.cpp"))]
    parts += [str(BASE_FLAGS), str(FLAG_SETS), version, torch.__version__, platform.machine(), *sorted(_cpu_flags())]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "danlu" / "kernels" / name
    target = cache / "kernels.so"
    if target.exists():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            # Renaming is atomic: of two processes at once both build, and either result is whole.
            _compile(compiler, Path(aside) / "kernels.so").replace(target)
        return target
    except OSError:
        return _compile(compiler, Path(tempfile.mkdtemp(prefix="danlu-kernels-")) / "kernels.so")


def _compile(compiler: str, target: Path) -> Path:
    said = ""
    for flags in FLAG_SETS:
        command = [compiler, *BASE_FLAGS, *flags, str(SOURCES / "kernels.cpp"), "-o", str(target), *_openmp(flags)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"the compiler took more than {COMPILE_SECONDS} s") from error
        if done.returncode == 0:
            return target
        said = said or done.stderr.strip().splitlines()[-1] if done.stderr.strip() else said
    raise RuntimeError(said or "the compiler failed and said nothing")


def _openmp(flags: tuple[str, ...]) -> list[str]:
    # torch's own copy first, so that both share one pool of threads: two pools on the same cores wait on each other.
    if "-fopenmp" not in flags:
        return []
    lib = Path(torch.__file__).parent / "lib"
    return [str(path) for path in (*lib.glob("libgomp*.so*"), *(lib.parents[1] / "torch.libs").glob("libgomp*"))][:1]


def _declare(loaded: ctypes.CDLL) -> None:
    pointer, whole, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    for kind in ("f32", "bf16"):
        loss = [pointer, size, size, pointer, pointer, ctypes.c_float, ctypes.c_float, whole, pointer, pointer, whole]
        _function(loaded, f"cross_entropy_{kind}", loss)
        _function(loaded, f"softmax_forward_{kind}", [pointer] * 4)
        _function(loaded, f"softmax_backward_{kind}", [pointer] * 5)
        _function(loaded, f"gated_silu_{kind}", [pointer, pointer, size, pointer, whole])
        _function(loaded, f"gated_silu_backward_{kind}", [pointer, pointer, pointer, size, pointer, pointer, whole])
    for kind in ("f32_f32", "f32_bf16", "bf16_f32", "bf16_bf16"):
        norm = [pointer, pointer, ctypes.c_float, size, size, pointer, pointer, whole]
        _function(loaded, f"rms_norm_{kind}", norm)
        _function(loaded, f"rotary_{kind}", [pointer] * 5)
        _function(loaded, f"rms_norm_backward_{kind}", [*[pointer] * 4, size, size, pointer, pointer, whole, whole])
    _function(loaded, "heads_forward", [pointer] * 6)
    _function(loaded, "heads_backward", [pointer] * 11)
    _function(loaded, "key_ranges", [pointer, size, size, size, whole, pointer, pointer])


def _function(loaded: ctypes.CDLL, name: str, arguments: Sequence[Any]) -> None:
    function = getattr(loaded, name)
    function.argtypes, function.restype = arguments, None
