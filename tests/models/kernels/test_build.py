import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from danlu.models import kernels
from danlu.models.kernels import build
from danlu.models.kernels.scratch import scratch

HAS_COMPILER = build.status().available
LOSS = """
import torch
from danlu.models.kernels import linear_cross_entropy, status
torch.manual_seed(0)
print(status().available, float(linear_cross_entropy(torch.randn(9, 4), torch.randn(7, 4), torch.arange(9) % 7)))
"""


def start(cache: Path, **settings: str) -> subprocess.Popen[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)} | settings
    return subprocess.Popen(
        [sys.executable, "-c", LOSS], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(not HAS_COMPILER, reason="no compiler")
def test_two_processes_at_once_build_one_whole_library(tmp_path: Path) -> None:
    found = [process.communicate()[0] for process in [start(tmp_path), start(tmp_path)]]
    assert found[0] == found[1]
    assert found[0].startswith("True")
    assert [path.name for path in (tmp_path / "danlu" / "kernels").glob("*/*")] == ["kernels.so"]


def test_without_a_compiler_torch_is_used_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available, loss = start(tmp_path, PATH="/nowhere", CXX="").communicate()[0].split()
    assert available == "False"
    torch.manual_seed(0)
    hidden_ND, weight_VD = torch.randn(9, 4), torch.randn(7, 4)
    for setting in ("0", "1"):
        monkeypatch.setenv("DANLU_KERNELS", setting)
        here = kernels.linear_cross_entropy(hidden_ND, weight_VD, torch.arange(9) % 7)
        assert float(loss) == pytest.approx(float(here), rel=1e-6)


def test_a_broken_compiler_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\necho 'it is broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded, reason = build._load.__wrapped__()
    assert loaded is None
    assert "it is broken" in reason


@pytest.mark.skipif(not HAS_COMPILER, reason="no compiler")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "danlu").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build._load.__wrapped__()[0] is not None


def test_status_explains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.status().reason
    monkeypatch.setenv("DANLU_KERNELS", "0")
    assert kernels.status().reason == "turned off by DANLU_KERNELS=0"


FAULTS = """
import resource, sys, torch
from danlu.models.kernels import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
for _ in range(3):
    several = [torch.ones(10 * 2**20) for _ in range(6)]  # 40 MB each: glibc always gives such pieces back
    del several
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
several = [torch.ones(10 * 2**20) for _ in range(6)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's allocator")
def test_kept_memory_is_not_asked_for_again() -> None:
    def faults(*words: str) -> int:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        return int(subprocess.check_output([sys.executable, "-c", FAULTS, *words], env=plain))

    assert faults("keep") * 10 < faults()


def test_scratch_is_kept_within_a_thread_and_not_shared_between_threads() -> None:
    cpu = torch.device("cpu")
    one = scratch("test", (8,), torch.float32, cpu)
    assert scratch("test", (2, 3), torch.float32, cpu).data_ptr() == one.data_ptr()
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.append(scratch("test", (8,), torch.float32, cpu).data_ptr()))
    thread.start()
    thread.join()
    assert other[0] != one.data_ptr()
    kernels.release()
    grown = scratch("test", (100,), torch.float32, cpu)
    assert grown.shape == (100,)
