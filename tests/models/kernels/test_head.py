import pytest
import torch
from torch import Tensor
from torch.nn import functional

from danlu.core.errors import RequestError
from danlu.models.kernels import head
from danlu.models.kernels.head import linear_cross_entropy

IGNORE = -100


def case(N: int, D: int, V: int, labelled: float = 1.0, bias: bool = False) -> dict[str, Tensor]:
    labels_N = torch.randint(V, (N,))
    labels_N[torch.rand(N) >= labelled] = IGNORE
    made = {"hidden": torch.randn(N, D), "weight": torch.randn(V, D) * D**-0.5, "labels": labels_N}
    if bias:
        made["bias"] = torch.randn(V)
    return made


def reference(
    made: dict[str, Tensor], smoothing: float, weights_N: Tensor | None, gamma: float = 0.0
) -> dict[str, Tensor]:
    """Everything in fp64, by autograd through the full logits."""
    hidden, weight = (made[name].double().requires_grad_() for name in ("hidden", "weight"))
    bias = made["bias"].double().requires_grad_() if "bias" in made else None
    logp_NV = functional.linear(hidden, weight, bias).log_softmax(-1)
    valid_N = made["labels"] != IGNORE
    plain_N = -logp_NV.gather(1, made["labels"].clamp_min(0)[:, None])[:, 0] * valid_N
    focused_N = (1 - torch.exp(-plain_N)).clamp_min(1e-300) ** gamma * plain_N if gamma else plain_N
    rows_N = (1 - smoothing) * focused_N - smoothing * logp_NV.mean(-1) * valid_N
    rows_N = rows_N if weights_N is None else rows_N * weights_N.double()
    rows_N.sum().backward()
    found = {"loss": rows_N.sum().detach(), "rows": plain_N.detach(), "hidden": hidden.grad, "weight": weight.grad}
    return found | ({"bias": bias.grad} if bias is not None else {})


def fused(
    made: dict[str, Tensor], smoothing: float, weights_N: Tensor | None, scale: float = 1.0, gamma: float = 0.0
) -> dict[str, Tensor]:
    leaves = {name: made[name].clone().requires_grad_() for name in ("hidden", "weight", "bias") if name in made}
    loss, rows_N = linear_cross_entropy(
        leaves["hidden"],
        leaves["weight"],
        made["labels"],
        bias_V=leaves.get("bias"),
        label_smoothing=smoothing,
        focal_gamma=gamma,
        weights_N=weights_N,
        return_rows=True,
    )
    (loss * scale).backward()
    return {"loss": loss.detach(), "rows": rows_N} | {name: leaf.grad for name, leaf in leaves.items()}


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-12))


SHAPES = [(5, 16, 11, 1.0), (130, 33, 1000, 1.0), (1030, 24, 8192, 0.4), (90, 16, 49152, 1.0), (1, 8, 3, 1.0)]
SHAPES.append(pytest.param((700, 16, 49152, 1.0), marks=pytest.mark.slow))  # the last: more rows than a chunk holds


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("smoothing", "bias"), [(0.0, False), (0.1, True)])
def test_fp32_is_exact(path: str, shape: tuple[int, int, int, float], smoothing: float, bias: bool) -> None:
    made = case(*shape, bias=bias)
    weights_N = torch.rand(shape[0]) if bias else None
    wanted, found = reference(made, smoothing, weights_N), fused(made, smoothing, weights_N)
    for name, value in wanted.items():
        assert error(found[name], value) < 3e-6, name


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focused_is_exact(path: str, gamma: float, smoothing: float) -> None:
    made = case(130, 33, 1000, labelled=0.8, bias=True)
    weights_N = torch.rand(130)
    wanted, found = reference(made, smoothing, weights_N, gamma), fused(made, smoothing, weights_N, gamma=gamma)
    for name, value in wanted.items():
        assert error(found[name], value) < 3e-6, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bf16_is_within_rounding(path: str, shape: tuple[int, int, int, float], smoothing: float) -> None:
    made = case(*shape, bias=True)
    wanted = reference(made, smoothing, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused(made, smoothing, None)
    assert found["weight"].dtype == found["hidden"].dtype == torch.float32
    assert error(found["loss"], wanted["loss"]) < 2e-3
    for name in ("rows", "hidden", "weight", "bias"):
        assert error(found[name], wanted[name]) < 1.5e-2, name


def test_bf16_is_no_worse_than_unfused_autocast(path: str) -> None:
    made = case(300, 64, 1000)
    wanted = reference(made, 0.0, None)
    hidden, weight = made["hidden"].clone().requires_grad_(), made["weight"].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        functional.cross_entropy(functional.linear(hidden, weight).float(), made["labels"], reduction="sum").backward()
        found = fused(made, 0.0, None)
    assert error(found["hidden"], wanted["hidden"]) < 1.2 * error(hidden.grad, wanted["hidden"])
    assert error(found["weight"], wanted["weight"]) < 1.2 * error(weight.grad, wanted["weight"])


def test_fp64_passes_gradcheck(path: str) -> None:
    labels_N = torch.tensor([1, IGNORE, 0, 4])
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, labels_N), (hidden, weight))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_no_label_at_all_gives_zero(path: str, precision: torch.dtype) -> None:
    made = {name: t.to(precision) if t.is_floating_point() else t for name, t in case(7, 8, 11, bias=True).items()}
    made["labels"] = torch.full((7,), IGNORE)
    found = fused(made, 0.0, None)
    assert all(not value.any() for value in found.values())
    assert found["hidden"].shape == (7, 8)


def test_no_rows_at_all_gives_zero(path: str) -> None:
    found = fused(case(0, 8, 11), 0.0, None)
    assert found["loss"] == 0
    assert not found["weight"].any()


def test_scaling_before_backward_scales_the_gradients(path: str) -> None:
    made = case(60, 16, 100)
    once, third = fused(made, 0.0, None), fused(made, 0.0, None, scale=1 / 3)
    for name in ("hidden", "weight"):
        torch.testing.assert_close(third[name] * 3, once[name], rtol=1e-6, atol=1e-7)


def test_micro_batches_add_up_to_the_batch(path: str) -> None:
    made = case(101, 16, 1000, labelled=0.7)
    whole = fused(made, 0.0, None)
    weight = made["weight"].clone().requires_grad_()
    total = 0.0
    for part in torch.arange(101).split(23):
        loss = linear_cross_entropy(made["hidden"][part], weight, made["labels"][part])
        (loss / 70).backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(whole["loss"]), rel=1e-6)
    assert error(weight.grad * 70, whole["weight"].double()) < 1e-6


def test_second_backward_over_the_same_graph_is_right(path: str) -> None:
    made = case(40, 16, 50)
    hidden = made["hidden"].clone().requires_grad_()
    loss = linear_cross_entropy(hidden, made["weight"], made["labels"]) / 7
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
    kept = first.clone()
    second = torch.autograd.grad(loss, hidden)[0]
    assert torch.equal(first, kept)
    assert torch.equal(second, kept)


def test_frozen_weight_gets_no_gradient(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = case(40, 16, 50)
    products: list[int] = []
    kept = head._Pass._accumulate

    def watch(self: head._Pass, *arguments: object) -> None:
        kept(self, *arguments)
        products.append(self.grad_weight_VD is not None)

    monkeypatch.setattr(head._Pass, "_accumulate", watch)
    hidden = made["hidden"].clone().requires_grad_()
    linear_cross_entropy(hidden, made["weight"], made["labels"]).backward()
    assert products == [False]
    assert error(hidden.grad, reference(made, 0.0, None)["hidden"]) < 1e-6


def test_without_grad_the_loss_is_the_same(path: str) -> None:
    made = case(40, 16, 50)
    hidden = made["hidden"].clone().requires_grad_()
    with torch.inference_mode():
        plain = linear_cross_entropy(hidden, made["weight"], made["labels"])
    assert torch.equal(plain, linear_cross_entropy(hidden, made["weight"], made["labels"]))
    # What inference left in the kept buffer must not stop training.
    linear_cross_entropy(hidden, made["weight"], made["labels"]).backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bits_repeat(path: str, precision: str) -> None:
    made = case(1100, 24, 1000, labelled=0.8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        one, two = fused(made, 0.1, None), fused(made, 0.1, None)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_diverged_model_shows_in_the_loss(path: str, bad: float, dtype: torch.dtype) -> None:
    made = case(6, 8, 40)
    made["hidden"][2, 3] = bad
    loss, rows_N = linear_cross_entropy(
        made["hidden"].to(dtype), made["weight"].to(dtype), made["labels"], return_rows=True
    )
    assert torch.isnan(loss)
    assert rows_N.isnan().tolist() == [False, False, True, False, False, False]


def test_large_logits_do_not_overflow(path: str) -> None:
    made = case(6, 8, 40)
    made["hidden"] *= 1e4
    assert error(fused(made, 0.0, None)["loss"], reference(made, 0.0, None)["loss"]) < 1e-6


def test_a_label_out_of_range_is_refused(path: str) -> None:
    made = case(6, 8, 40)
    made["labels"][4] = 40
    with pytest.raises(RequestError, match="label 40 is not one of the 40 classes"):
        linear_cross_entropy(made["hidden"], made["weight"], made["labels"])


def test_never_holds_the_full_logits(path: str) -> None:
    made = case(4096, 8, 8192)
    peak = 0
    original = torch.empty

    def watch(*arguments: object, **options: object) -> Tensor:
        nonlocal peak
        made_tensor = original(*arguments, **options)
        peak = max(peak, made_tensor.numel())
        return made_tensor

    torch.empty = watch  # type: ignore[assignment]
    try:
        fused(made, 0.0, None)
    finally:
        torch.empty = original
    assert peak <= head.CHUNK_ROWS * 8192
