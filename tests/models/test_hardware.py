from pathlib import Path

import pytest
import torch

from danlu.core.errors import RequestError
from danlu.models import hardware


def test_rates_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    looks = []
    real = hardware._measure
    monkeypatch.setattr(hardware, "_measure", lambda *args, **kwargs: looks.append(1) or real(*args, **kwargs))
    for _ in range(5):
        hardware._measured.cache_clear()
        rate = hardware.measure_gemm("fp32")
        assert rate > 1e8
    assert len(looks) == hardware.LOOKS
    (tmp_path / "danlu" / "gemm.json").write_text("{ not json")
    hardware._measured.cache_clear()
    assert hardware.measure_gemm("fp32") > 1e8
    hardware._measured.cache_clear()


def test_precision() -> None:
    assert hardware.pick_precision("fp32", "cpu") == "fp32"
    assert hardware.pick_precision("bf16", "cpu") == "bf16"
    assert hardware.pick_precision("auto", "cpu") in ("fp32", "bf16")
    with pytest.raises(RequestError, match="fp16 needs a GPU"):
        hardware.pick_precision("fp16", "cpu")
    with pytest.raises(RequestError, match="Did you mean 'bf16'"):
        hardware.pick_precision("bf61", torch.device("cpu"))


def test_device() -> None:
    device = hardware.pick_device()
    assert hardware.describe_device(device)
