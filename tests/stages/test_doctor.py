"""Doctor looks at everything and judges it; schema is JSON."""

import json

import pytest

from danlu.stages.doctor import doctor
from danlu.stages.schema import schema


def test_doctor_looks_at_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_KERNELS", "0")
    lines = list(doctor())
    groups = {line.group for line in lines}
    assert groups == {"software", "device", "memory", "disk", "speed", "kernels", "extras"}
    labels = {line.label: line for line in lines}
    assert {"Python", "torch", "transformers", "matrix products fp32", "matrix products bf16", "compiler"} <= set(
        labels
    )
    assert labels["torch"].state == "good"
    assert "GFLOP/s" in labels["matrix products fp32"].text
    missing = [line for line in lines if line.group == "extras" and line.state == "note"]
    assert all("pip install 'danlu[" in line.text for line in missing)
    assert {"test", "lint", "docs"}.isdisjoint(labels)


def test_schema_is_json() -> None:
    assert json.loads(schema())["title"] == "danlu recipe"
