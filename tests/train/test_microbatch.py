"""The micro-batch is as large as memory allows and no larger; running out is recognised in all its words."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from danlu.core.errors import OutOfMemoryError
from danlu.train import microbatch
from danlu.train.microbatch import available_bytes, find_micro_batch, is_out_of_memory

# Each case in a process of its own, since what was freed before hides in the allocator; forked, to import torch once.
CASES = """
import json, os, resource, sys
import torch
from danlu.train import microbatch

MB = 1 << 20

def run(row_mb, limit_mb, working_mb, reserve_mb, sharing, rows):
    tried = []
    def try_rows(rows):
        tried.append(rows)
        activations = [torch.ones(row_mb * MB // 16 // 4) for _ in range(16 * rows)]
    microbatch.CPU_WORKING_BYTES = working_mb * MB
    if limit_mb:
        limit = microbatch.psutil.Process().memory_info().vms + limit_mb * MB
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        found = microbatch.find_micro_batch(try_rows, rows, "cpu", sharing=sharing, reserve_bytes=reserve_mb * MB)
    except microbatch.OutOfMemoryError as error:
        found = str(error)
    return [found, tried]

for case in json.loads(sys.argv[1]):
    if os.fork() == 0:
        print(json.dumps(run(**case)), flush=True)
        os._exit(0)
    os.wait()
"""
MB = 1 << 20
BASE = {"row_mb": 10, "limit_mb": 0, "working_mb": 100_000, "reserve_mb": 0, "sharing": 1, "rows": 64}


def _find(*cases: dict[str, int]) -> list[list]:
    request = json.dumps([BASE | case for case in cases])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.check_output([sys.executable, "-c", CASES, request], text=True, env=environment)
    return [json.loads(line) for line in output.splitlines()]


def test_memory_on_a_cpu() -> None:
    """Known after one, two and four rows, of a few after one: 80 % of the limit, less a reserve, or the working set."""
    limited, shared, capped, large, none, few = _find(
        {"limit_mb": 400},
        {"limit_mb": 400, "sharing": 2, "reserve_mb": 40},
        {"working_mb": 100},
        {"row_mb": 60, "limit_mb": 200},
        {"row_mb": 200, "limit_mb": 100},
        {"rows": 3},
    )
    assert 16 <= limited[0] <= 32
    assert 6 <= shared[0] <= 12
    assert 8 <= capped[0] <= 12
    assert [tried for _, tried in (limited, shared, capped)] == [[1, 2, 4]] * 3
    assert large[0] in (1, 2)
    assert max(large[1]) <= 2
    assert "not even one row" in none[0]
    assert none[1] == [1]
    assert few == [3, [1]]


def test_all_rows_when_they_need_nothing() -> None:
    assert find_micro_batch(lambda rows: None, 64, "cpu") == 64


def test_halves_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of CUDA, on torch's device without storage."""
    tried: list[int] = []

    def try_rows(rows: int) -> None:
        tried.append(rows)
        if rows > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    assert find_micro_batch(try_rows, 33, "meta") == 5
    assert tried == [33, 17, 9, 5]
    with pytest.raises(OutOfMemoryError, match="not even one row"):
        find_micro_batch(lambda rows: (_ for _ in ()).throw(MemoryError()), 4, "meta")


def test_other_errors_pass() -> None:
    def broken(rows: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        find_micro_batch(broken, 4, "cpu")


def test_words_of_running_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(OSError(errno.ENOENT, "No such file"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_peak_without_the_kernels_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the high-water mark cannot be reset, a thread watches."""
    monkeypatch.setattr(microbatch, "_reset_high_water", lambda: False)
    before = microbatch._resident_bytes()
    with microbatch._peak() as peak:
        for _ in range(5):
            block = torch.ones(50 * MB // 4)
            del block
    assert peak[0] >= before
    assert available_bytes() > 0
