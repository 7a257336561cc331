"""DDP and FSDP2 in real processes give the losses of one process; layers are found in any Transformer."""

import pytest
from tests.dist.ranks import TOY, run_ranks
from torch import nn
from tests.dist.toy import Loss

from danlu.core.errors import RequestError
from danlu.dist.config import ParallelConfig
from danlu.dist.world import World
from danlu.dist.wrap import full_weights, gradient_scale, repeated_layers, synchronised, unwrap, wrap


def test_two_processes_are_one() -> None:
    """Accumulation, tied weights, frozen layers, and a step after one process used the whole weights by itself."""
    kinds = [{"strategy": strategy, "frozen": frozen, "steps": 5} for frozen in (0, 1) for strategy in ("ddp", "fsdp")]
    alone, both = run_ranks(TOY, kinds[::2], 1), run_ranks(TOY, kinds, 2)
    for number, kind in enumerate(kinds):
        assert both[number]["losses"] == pytest.approx(alone[number // 2]["losses"], abs=1e-5), kind
        assert both[number]["shown"] == pytest.approx(alone[number // 2]["shown"], abs=1e-3), kind


def test_one_process_changes_nothing() -> None:
    module, world = nn.Linear(2, 2), World()
    assert wrap(module, ParallelConfig(), world) is module
    assert unwrap(module) is module
    assert gradient_scale(world) == 1.0
    with synchronised(module, False), full_weights(module) as whole:
        assert whole is module


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(RequestError, match="frozen"):
        wrap(nn.Linear(2, 2).requires_grad_(False), ParallelConfig(), World(size=2))


def test_layers_of_a_toy() -> None:
    toy = Loss(frozen=False)
    assert repeated_layers(toy) == list(toy.layers)


def test_lists_that_are_no_stack_of_layers() -> None:
    shared = nn.Linear(2, 2)
    heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    tied = nn.ModuleList([nn.Sequential(shared, nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.ReLU())])
    module = nn.ModuleDict({"heads": heads, "tied": tied, "shared": shared})
    assert repeated_layers(module) == [tied[1]]


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_layers_of_a_transformer(family: str) -> None:
    """Decoders, and encoders with decoders; a mixture's experts stay inside their layer."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "hidden_size": 8, "d_model": 8, "intermediate_size": 8, "num_attention_heads": 2}
    sizes |= {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
    }
    config = transformers.AutoConfig.for_model(family, **sizes)
    auto = transformers.AutoModelForCausalLM if family == "llama" else transformers.AutoModelForSeq2SeqLM
    names = {type(layer).__name__ for layer in repeated_layers(auto.from_config(config))}
    assert names == ({"LlamaDecoderLayer"} if family == "llama" else {"BartEncoderLayer", "BartDecoderLayer"})
