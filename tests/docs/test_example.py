"""The technique that the docs show how to write is a technique that works."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials
from danlu.core.technique import StepContext

PAGE = Path(__file__).parents[2] / "docs" / "add-a-technique.md"


def _shown_class(monkeypatch: Any) -> type:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    module = types.ModuleType("danlu.techniques.regularise.centralise")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code.group(1), module.__dict__)
    return module.__dict__["Centralise"]


def _changed(technique: Any, grad: torch.Tensor) -> torch.Tensor:
    weight = nn.Parameter(torch.zeros_like(grad))
    weight.grad = grad.clone()
    ctx = StepContext(
        clock=Clock(budget=Budget(steps=1)),
        dials=Dials(()),
        model=nn.Identity(),
        seed=0,
        device=torch.device("cpu"),
    )
    technique.on_grads([weight], ctx, None)
    return weight.grad


def test_the_example_does_what_its_formula_says(monkeypatch: Any) -> None:
    cls = _shown_class(monkeypatch)
    grad = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert cls.name() == "centralise"
    assert cls.slots() == ["on_grads"]
    assert torch.equal(_changed(cls(), grad), torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(_changed(cls(strength=0), grad), grad)
