from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from danlu.models.build import build_model
from danlu.models.config import DesignConfig, ModelConfig
from danlu.models.save import save_model

Make = Callable[..., PreTrainedModel]


def _tiny(
    family: str = "llama", *, auto_class: str = "AutoModelForCausalLM", seed: int = 1, **words: object
) -> PreTrainedModel:
    sizes = {"layers": 2, "width": 32, "heads": 4, **words}
    return build_model(
        ModelConfig(design=DesignConfig(family=family, **sizes)),  # type: ignore[arg-type]
        auto_class=auto_class,
        vocab_size=97,
        context=32,
        special_tokens={"pad": 0, "bos": 1, "eos": 2},
        seed=seed,
    )


@pytest.fixture(scope="session")
def tiny() -> Make:
    """Makes a tiny model of a family: 2 layers, width 32, 97 words, 32 positions."""
    return _tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny saved llama, to load and adapt."""
    folder = tmp_path_factory.mktemp("base") / "llama"
    save_model(_tiny(kv_heads=2, tie=True), folder)
    return folder
