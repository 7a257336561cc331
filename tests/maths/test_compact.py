import pytest
import torch

from danlu.core.seeds import generator_of
from danlu.maths.compact import BLOCK, dynamic_map, from_codes, to_bf16_by_chance, to_codes


def test_dynamic_map() -> None:
    signed, unsigned = dynamic_map(True), dynamic_map(False)
    for values in (signed, unsigned):
        assert len(values.unique()) == 256
        assert torch.equal(values, values.sort().values)
    # the published tables: three values of each by hand
    assert signed[0].item() == pytest.approx(-(0.1 + 0.9 * 63.5 / 64))
    assert signed[128].item() == pytest.approx(0.55e-6)
    assert signed[127].item() == 0.0
    assert signed[-1].item() == 1.0
    assert unsigned[:3].tolist() == pytest.approx([0.0, 0.325e-6, 0.775e-6])


@pytest.mark.parametrize("signed", [True, False])
def test_each_entry_gets_the_nearest_code(signed: bool) -> None:
    x = torch.randn(3, 200, generator=generator_of("x"))
    x = x if signed else x.square()
    x[1] *= 1e-4
    codes_MB, largest_M = to_codes(x, signed=signed)
    assert codes_MB.dtype == torch.uint8
    assert codes_MB.shape == (3, BLOCK)
    largest = largest_M.repeat_interleave(BLOCK)[:600].view(3, 200)
    assert largest.view(-1)[::BLOCK].tolist() == [part.abs().max().item() for part in x.flatten().split(BLOCK)]
    allowed = dynamic_map(signed)[0 if signed else 1 :]
    nearest = ((x / largest)[..., None] - allowed).abs().amin(-1)
    found = ((x - from_codes(codes_MB, largest_M, x.shape, signed=signed)) / largest).abs()
    torch.testing.assert_close(found, nearest, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_finds_what_a_search_does(signed: bool) -> None:
    values = dynamic_map(signed)
    middles = (values[:-1] + values[1:]) / 2
    near = torch.cat([middles, middles.nextafter(torch.tensor(2.0)), middles.nextafter(torch.tensor(-2.0)), values])
    x = torch.cat([near, torch.linspace(-1.0 if signed else 0.0, 1.0, 100_000), torch.ones(300)])
    x = x[: len(x) // BLOCK * BLOCK].view(-1, BLOCK)
    x[:, 0] = 1.0  # the largest of each block
    expected = torch.bucketize(x, middles).clamp(min=0 if signed else 1)
    assert torch.equal(to_codes(x, signed=signed)[0].long(), expected)


def test_a_second_moment_is_never_rounded_to_zero() -> None:
    x = torch.tensor([1.0, 1e-12, 0.0])
    assert (from_codes(*to_codes(x, signed=False), x.shape, signed=False) > 0).all()
    zeros = torch.zeros(5)
    assert torch.equal(from_codes(*to_codes(zeros, signed=False), zeros.shape, signed=False), zeros)


def test_bf16_by_chance_is_right_on_average() -> None:
    x = torch.full((20000,), 1.0 + 1 / 512)  # a quarter of the way from 1 to the next bf16, 1 + 1/128
    rounded = to_bf16_by_chance(x, generator_of("chance"))
    assert set(rounded.tolist()) == {1.0, 1.0078125}
    assert rounded.float().mean().item() == pytest.approx(1 + 1 / 512, abs=3e-4)
    exact = torch.tensor([0.0, -2.5, 3.0])
    assert torch.equal(to_bf16_by_chance(exact, generator_of("exact")).float(), exact)
    assert torch.equal(rounded, to_bf16_by_chance(x, generator_of("chance")))
