import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from danlu.models.kernels import attention, blocks, build
from danlu.models.kernels.attention import attention_forward, blocked_attention, dense_mask, packed_mask

pytestmark = pytest.mark.skipif(not build.status().available, reason=build.status().reason)

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}


def inputs(B: int, H: int, KV: int, T: int, D: int) -> list[Tensor]:
    return [torch.randn(B, heads, T, D) for heads in (H, KV, KV)]


def segments(B: int, T: int, num: int) -> Tensor:
    """Each row cut at its own random places."""
    starts = torch.zeros(B, T, dtype=torch.int64)
    for b in range(B):
        starts[b, torch.randperm(T - 1)[: num - 1] + 1] = 1
    return starts.cumsum(1)


def allowed(B: int, T: int, mask: Tensor | None, causal: bool) -> Tensor:
    whole = torch.ones(B, 1, T, T, dtype=torch.bool)
    return dense_mask(mask) if mask is not None else (whole.tril() if causal else whole)


def reference(tensors: list[Tensor], allowed_B1TT: Tensor, grad: Tensor) -> list[Tensor]:
    """In fp64 with every score at hand; a row that may attend to nothing gives zeros."""
    query, key, value = (t.double().requires_grad_() for t in tensors)
    groups = query.shape[1] // key.shape[1]
    keys, values = (t.repeat_interleave(groups, 1) for t in (key, value))
    scores = (query @ keys.transpose(2, 3)) * query.shape[-1] ** -0.5
    probs = scores.masked_fill(~allowed_B1TT, -1e30).softmax(-1) * allowed_B1TT
    out = (probs @ values).transpose(1, 2)
    out.backward(grad.double())
    return [out.detach(), query.grad, key.grad, value.grad]


def ours(tensors: list[Tensor], mask: Tensor | None, causal: bool, grad: Tensor, dtype: torch.dtype) -> list[Tensor]:
    query, key, value = (t.detach().clone().to(dtype).requires_grad_() for t in tensors)
    module = torch.nn.Module()
    module.is_causal = causal
    module.num_key_value_groups = query.shape[1] // key.shape[1]
    out, weights = attention_forward(module, query, key, value, mask)
    assert weights is None
    out.backward(grad.to(dtype))
    return [out.detach(), query.grad, key.grad, value.grad]


def compare(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for name, one, two in zip(("out", "query", "key", "value"), found, wanted, strict=False):
        assert one.shape == two.shape
        # Where a gradient is zero in truth (one key to attend to), rounding alone is left.
        assert float((one.double() - two).norm()) < tolerance * (float(two.norm()) + 0.25 * float(wanted[0].norm())), (
            name
        )


SHAPES = [(2, 4, 2, 33, 32), (1, 3, 1, 300, 64), (3, 2, 2, 128, 128), (2, 6, 3, 257, 16), (1, 1, 1, 2, 8)]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["plain", "packed", "padded right", "padded left", "packed and padded"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_fp64(shape: tuple[int, ...], kind: str, causal: bool, dtype: torch.dtype) -> None:
    B, H, _, T, D = shape
    tensors, grad = inputs(*shape), torch.randn(B, T, H, D)
    segments_BT = segments(B, T, min(4, T)) if "packed" in kind else torch.zeros(B, T, dtype=torch.int64)
    lengths_B1 = torch.randint(1, T, (B, 1))
    attend_BT = torch.arange(T)[None] < lengths_B1
    attend_BT = attend_BT.flip(1) if "left" in kind else attend_BT
    padding = attend_BT if "padded" in kind else None
    mask = None if kind == "plain" else packed_mask(segments_BT, causal=causal, attend_BT=padding)
    wanted = reference(tensors, allowed(B, T, mask, causal), grad)
    compare(ours(tensors, mask, causal, grad, dtype), wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_head_at_a_time_is_the_same_by_blocks(causal: bool, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same places dropped out; where the processor has no products of bf16 pairs both are the blocks."""
    query, key, value = (t.bfloat16() for t in inputs(2, 4, 2, 201, 32))
    codes = (segments(2, 201, 3) + 1).int() if packed else None
    grad, options = torch.randn(2, 201, 4, 32).bfloat16(), {"scale": 0.2, "causal": causal, "dropout": 0.3, "seed": 5}
    found = []
    for by_heads in (True, False):
        if not by_heads:
            monkeypatch.setattr(blocks.heads, "fit", lambda query, value: False)
        out, lse = blocks.forward(query, key, value, codes, **options)
        found.append([out, lse, *blocks.backward(grad, query, key, value, out, lse, codes, **options)])
    for one, two in zip(*found, strict=True):
        assert float((one - two).norm()) < 1e-2 * float(two.norm())


@pytest.mark.parametrize("causal", [True, False])
def test_matches_sdpa_under_autocast(causal: bool) -> None:
    tensors, grad = inputs(2, 4, 2, 130, 64), torch.randn(2, 130, 4, 64)
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = causal, 2
    wanted = reference(tensors, allowed(2, 130, None, causal), grad)
    errors = {}
    for function in (attention_forward, sdpa_attention_forward):
        leaves = [t.clone().requires_grad_() for t in tensors]
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = function(module, *leaves, None, scaling=64**-0.5)
        assert out.dtype == torch.bfloat16
        out.backward(grad.bfloat16())
        found = [out.detach(), *(leaf.grad for leaf in leaves)]
        errors[function] = [float((f.double() - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True)]
    for mine, theirs in zip(*errors.values(), strict=True):
        assert mine < 2.5 * theirs + 1e-3


def test_packed_row_equals_its_documents_apart() -> None:
    lengths = [70, 1, 150, 36]
    T = sum(lengths)
    tensors, grad = inputs(1, 4, 2, T, 32), torch.randn(1, T, 4, 32)
    ids_BT = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    whole = ours(tensors, packed_mask(ids_BT, causal=True), True, grad, torch.float32)
    for start, n in zip(itertools.accumulate([0, *lengths[:-1]]), lengths, strict=True):
        cut = slice(start, start + n)
        alone = ours([t[:, :, cut] for t in tensors], None, True, grad[:, cut], torch.float32)
        compare([whole[0][:, cut], *(g[:, :, cut] for g in whole[1:])], [a.double() for a in alone], 3e-6)


def test_work_outside_documents_is_left_out() -> None:
    tensors = inputs(2, 2, 2, 1024, 16)
    codes_BT = segments(2, 1024, 12).int() + 1
    full = blocks._Layout(*tensors, None, True)
    packed = blocks._Layout(*tensors, codes_BT, True)

    def multiplied(layout: blocks._Layout) -> int:
        return sum((u.last - u.first) * (u.stop - u.start) * (u.high - u.low) for u in layout.units())

    assert multiplied(full) < 0.6 * 2 * 1024**2
    assert multiplied(packed) < 0.6 * multiplied(full)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_dropout_drops_the_right_share_and_backward_matches(dtype: torch.dtype) -> None:
    B, H, T, p = 2, 3, 150, 0.25
    query, key = torch.randn(B, H, T, 32).to(dtype), torch.randn(B, H, T, 32).to(dtype)
    identity = torch.eye(T).expand(B, H, T, T).to(dtype)
    seed = torch.tensor([12345])

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return blocked_attention(q, k, v, None, seed, 32**-0.5, False, p)[0]

    # With the identity for values the output is the dropped probabilities themselves.
    dropped = run(query, key, identity).transpose(1, 2)
    keep = (dropped != 0).double() / (1 - p)
    assert float((dropped == 0).double().mean()) == pytest.approx(p, abs=0.01)
    # No two heads or rows share a mask.
    assert len(torch.unique(keep.flatten(0, 2), dim=0)) == B * H * T
    value, grad = torch.randn(B, H, T, 8).to(dtype), torch.randn(B, T, H, 8)
    leaves = [t.clone().requires_grad_() for t in (query, key, value)]
    out = run(*leaves)
    out.backward(grad.to(dtype))
    doubles = [t.double().requires_grad_() for t in (query, key, value)]
    probs = (doubles[0] @ doubles[1].transpose(2, 3) * 32**-0.5).softmax(-1) * keep
    wanted = (probs @ doubles[2]).transpose(1, 2)
    wanted.backward(grad.double())
    compare(
        [out.detach(), *(leaf.grad for leaf in leaves)],
        [wanted.detach(), *(leaf.grad for leaf in doubles)],
        TOLERANCE[dtype],
    )


def test_dropout_follows_the_seed_and_not_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, module = inputs(2, 2, 2, 300, 16), torch.nn.Module()
    module.is_causal = True

    def run() -> Tensor:
        torch.manual_seed(7)
        return attention_forward(module, *tensors, None, dropout=0.5)[0]

    one = run()
    assert torch.equal(one, run())
    assert not torch.equal(one, attention_forward(module, *tensors, None, dropout=0.5)[0])
    monkeypatch.setattr(blocks, "QUERIES", 64)
    torch.testing.assert_close(one, run())


def test_bits_repeat() -> None:
    tensors, grad = inputs(2, 4, 2, 200, 32), torch.randn(2, 200, 4, 32)
    mask = packed_mask(segments(2, 200, 5), causal=True)
    one, two = (ours(tensors, mask, True, grad, torch.bfloat16) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_nan_is_not_hidden() -> None:
    tensors = inputs(1, 1, 1, 8, 8)
    tensors[0][0, 0, 3] = float("nan")
    module = torch.nn.Module()
    out = attention_forward(module, *tensors, None)[0]
    assert out.isnan().all(-1).flatten().tolist() == [False] * 3 + [True] + [False] * 4


def test_large_scores_do_not_overflow() -> None:
    tensors, grad = inputs(1, 2, 2, 40, 16), torch.randn(1, 40, 2, 16)
    tensors[0] *= 1e3
    wanted = reference(tensors, allowed(1, 40, None, True), grad)
    compare(ours(tensors, None, True, grad, torch.float32)[:1], wanted[:1], 1e-4)


def test_operator_is_well_formed() -> None:
    query, key, value = (t.requires_grad_() for t in inputs(1, 4, 2, 20, 8))
    codes_BT = segments(1, 20, 3).int() + 1
    torch.library.opcheck(blocked_attention, (query, key, value, codes_BT, torch.tensor([3]), 0.3, True, 0.0))


FALLBACKS = {
    "one query": lambda t: ([t[0][:, :, :1], t[1], t[2]], {}),
    "more keys than queries": lambda t: ([t[0][:, :, :4], t[1], t[2]], {}),
    "fp64": lambda t: ([x.double() for x in t], {}),
    "position bias": lambda t: (t, {"position_bias": torch.randn(1, 2, 9, 9)}),
    "dense mask": lambda t: (t, {"attention_mask": torch.rand(1, 1, 9, 9) < 0.9}),
    "additive mask": lambda t: (t, {"attention_mask": torch.randn(1, 1, 9, 9)}),
}


@pytest.mark.parametrize("case", list(FALLBACKS))
def test_what_is_not_supported_goes_to_sdpa(case: str) -> None:
    tensors, options = FALLBACKS[case](inputs(1, 2, 2, 9, 8))
    module, mask = torch.nn.Module(), options.pop("attention_mask", None)
    found = attention_forward(module, *tensors, mask, **options)[0]
    assert torch.equal(found, sdpa_attention_forward(module, *tensors, mask, **options)[0])


def test_compact_mask_opens_for_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, module = inputs(2, 2, 2, 50, 8), torch.nn.Module()
    mask = packed_mask(segments(2, 50, 3), causal=True)
    blocked = attention_forward(module, *tensors, mask)[0]
    monkeypatch.setenv("DANLU_KERNELS", "0")
    torch.testing.assert_close(attention_forward(module, *tensors, mask)[0], blocked)
    assert functional.scaled_dot_product_attention(*tensors, attn_mask=dense_mask(mask)).shape == (2, 2, 50, 8)


def test_compact_mask_cannot_be_added_to_scores() -> None:
    mask = packed_mask(segments(1, 5, 2), causal=False)
    for part in (mask, mask[..., :5]):
        with pytest.raises(RuntimeError, match=r"Float8|must match"):
            torch.randn(1, 2, 5, 5) + part
    assert attention.is_compact(mask)
