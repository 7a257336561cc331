import pytest
import torch

from danlu.models.kernels import build


@pytest.fixture(params=["kernels", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of computing: the C++ kernels and torch's own operations."""
    monkeypatch.setenv("DANLU_KERNELS", "1" if request.param == "kernels" else "0")
    if request.param == "kernels" and not build.status().available:
        pytest.skip(build.status().reason)
    return str(request.param)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
