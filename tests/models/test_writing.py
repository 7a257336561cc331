"""Writing: a seed gives the same text, alone or in company, streamed or not."""

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from danlu.core.errors import RequestError
from danlu.models.writing import Pieces, Writing, at_rest, log_probabilities, write_texts

END = 256


@pytest.fixture(scope="module")
def tokenizer():
    """One token a byte, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={sign: at for at, sign in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


def make(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=257, n_embd=32, n_layer=2, n_head=2, n_positions=48, bos_token_id=END, eos_token_id=END
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            bos_token_id=None,
            eos_token_id=END,
        )
    )


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return make(request.param)


def ids_of(tokenizer, *texts):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def test_a_row_does_not_depend_on_its_neighbours(model, tokenizer):
    prompts = ids_of(tokenizer, "a", "def longer_name(x):", "hello")
    writing = Writing(max_tokens=12, seed=3)
    together = write_texts(model, tokenizer, prompts, writing)
    alone = [write_texts(model, tokenizer, [prompt], writing, first_row=at)[0] for at, prompt in enumerate(prompts)]
    assert together == alone
    assert together != write_texts(model, tokenizer, prompts, Writing(max_tokens=12, seed=4))


def test_a_seed_gives_the_same_text_and_leaves_the_global_numbers_alone(model, tokenizer):
    prompts = ids_of(tokenizer, "abc")
    torch.manual_seed(1)
    first = write_texts(model, tokenizer, prompts, Writing(max_tokens=20, seed=5))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    torch.manual_seed(2)
    assert write_texts(model, tokenizer, prompts, Writing(max_tokens=20, seed=5)) == first


def test_pieces_join_to_the_text(model, tokenizer):
    told = []
    [written] = write_texts(model, tokenizer, ids_of(tokenizer, "é"), Writing(max_tokens=30, seed=1), say=told.append)
    assert "".join(told) == written.text
    assert len(told) > 3


def test_pieces_hold_back_half_characters(tokenizer):
    ids = tokenizer("€uro 丹炉", add_special_tokens=False)["input_ids"]
    pieces = Pieces(tokenizer, [])
    told = [pieces.push(token) for token in ids]
    assert "".join(told) + pieces.flush() == "€uro 丹炉"
    assert told[0] == told[1] == ""
    assert told[2] == "€"


def test_zero_temperature_takes_the_likeliest(model, tokenizer):
    prompts = ids_of(tokenizer, "abc")
    [written] = write_texts(model, tokenizer, prompts, Writing(max_tokens=4, temperature=0))
    ids = list(prompts[0])
    with at_rest(model), torch.no_grad():
        for token in written.ids:
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_draws_follow_the_distribution(model, tokenizer):
    """4,000 first tokens at temperature 1: their frequencies agree with the softmax within five standard errors."""
    prompt = ids_of(tokenizer, "abc")[0]
    writing = Writing(max_tokens=1, temperature=1.0, top_p=1.0)
    number = 4_000
    drawn = [one.ids[0] if one.ids else END for one in write_texts(model, tokenizer, [prompt] * number, writing)]
    with at_rest(model), torch.no_grad():
        wanted_V = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    seen_V = torch.bincount(torch.tensor(drawn), minlength=257) / number
    errors_V = (seen_V - wanted_V).abs() / (wanted_V * (1 - wanted_V) / number).sqrt()
    assert errors_V.max() < 5


def test_text_stops_where_the_context_does(model, tokenizer):
    prompt = ids_of(tokenizer, "x" * 40)[0]
    [written] = write_texts(model, tokenizer, [prompt], Writing(max_tokens=500, seed=2))
    assert len(written.ids) <= 8
    with pytest.raises(RequestError, match="48 tokens and the model's context holds 48"):
        write_texts(model, tokenizer, ids_of(tokenizer, "x" * 48), Writing())
    with pytest.raises(RequestError, match="nothing to go on from"):
        write_texts(model, tokenizer, [[]], Writing())


def test_the_end_token_ends_a_text(model, tokenizer):
    head = model.get_output_embeddings()
    with torch.no_grad():
        kept = head.weight[END].clone()
        outputs = model(torch.tensor([ids_of(tokenizer, "abc")[0]]), output_hidden_states=True)
        head.weight[END] = 100 * outputs.hidden_states[-1][0, -1]
    [written] = write_texts(model, tokenizer, ids_of(tokenizer, "abc"), Writing(max_tokens=9, temperature=0))
    with torch.no_grad():
        head.weight[END] = kept
    assert written.finish == "end"
    assert written.text == ""


def test_log_probabilities_equal_those_of_one_row_alone(model, tokenizer):
    prompts, answers = ids_of(tokenizer, "ab", "a longer one"), ids_of(tokenizer, "cde", "f")
    scores = log_probabilities(model, prompts, answers)
    for prompt, answer, score in zip(prompts, answers, scores, strict=True):
        with at_rest(model), torch.no_grad():
            logs_TV = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        expected = sum(float(logs_TV[len(prompt) - 1 + at, token]) for at, token in enumerate(answer))
        assert score == pytest.approx(expected, abs=1e-4)
        assert not math.isclose(score, 0.0)


def test_the_model_is_left_as_it_was(model, tokenizer):
    model.train()
    write_texts(model, tokenizer, ids_of(tokenizer, "a"), Writing(max_tokens=1))
    assert model.training
    model.eval()
