from pathlib import Path

import pytest

from danlu.core import hub
from danlu.core.errors import RequestError
from danlu.models import origin
from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.models.origin import find_origin


def test_reads_folders_files_and_names(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "hub_reachable", lambda: True)
    assert find_origin(str(base)).local
    named = find_origin("OWNER/NAME")
    assert (named.name, named.local, named.gguf_file) == ("OWNER/NAME", False, None)
    pytest.importorskip("gguf")
    remote = find_origin("owner/name/file.gguf")
    assert (remote.name, remote.gguf_file) == ("owner/name", "file.gguf")


def test_what_is_not_there(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"no folder .*In {base.parent} there are llama"):
        find_origin(str(base.parent / "lama"))
    with pytest.raises(RequestError, match="there is no model in the folder"):
        find_origin(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RequestError, match="neither a folder nor"):
        find_origin(str(tmp_path / "notes.txt"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"model.from: the model in .* cannot be loaded"):
        build_model(ModelConfig(from_=str(tmp_path)), auto_class="AutoModelForCausalLM")


def test_without_a_network_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.hub_reachable.cache_clear()
    try:
        with pytest.raises(RequestError, match="is not on this machine, and the hub cannot be reached"):
            build_model(ModelConfig(from_="nobody/nothing"), auto_class="AutoModelForCausalLM")
    finally:
        hub.hub_reachable.cache_clear()


def test_context_beyond_learned_positions(base: Path, tmp_path: Path, tiny) -> None:  # type: ignore[no-untyped-def]
    from danlu.models.save import save_model

    save_model(tiny("gpt2"), tmp_path / "gpt2")
    with pytest.raises(RequestError, match="knows 32 positions"):
        build_model(ModelConfig(from_=str(tmp_path / "gpt2")), auto_class="AutoModelForCausalLM", context=64)
    build_model(ModelConfig(from_=str(base)), auto_class="AutoModelForCausalLM", context=64)


def test_larger_vocabulary_enlarges_the_embedding(base: Path) -> None:
    model = build_model(ModelConfig(from_=str(base)), auto_class="AutoModelForCausalLM", vocab_size=101)
    assert model.get_input_embeddings().weight.shape[0] == 101


def test_encoder_is_no_language_model(tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from danlu.models.save import save_model

    save_model(tiny("bert", auto_class="AutoModelForMaskedLM"), tmp_path / "bert")
    with pytest.raises(RequestError, match="reads in both directions"):
        build_model(ModelConfig(from_=str(tmp_path / "bert")), auto_class="AutoModelForCausalLM")


def test_weights_of_another_kind_of_model(tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from danlu.models.save import save_model

    save_model(tiny("llama", auto_class="AutoModelForSequenceClassification"), tmp_path / "classifier")
    with pytest.raises(RequestError, match=r"the file lacks 1 weights of LlamaForCausalLM, such as lm_head.weight"):
        build_model(ModelConfig(from_=str(tmp_path / "classifier")), auto_class="AutoModelForCausalLM")
