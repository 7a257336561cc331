"""Mixup and CutMix: what they mix, and that the loss is that of both classes."""

import dataclasses

import pytest
import torch

from danlu.core.batch import Batch
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.techniques.augment.cutmix import Cutmix
from danlu.techniques.augment.mixup import Mixup

ROWS = 10


@pytest.fixture
def classed() -> Batch:
    """Row b is a plain picture of value b, of class b."""
    return Batch(
        inputs={"pixel_values": torch.arange(ROWS).float().view(-1, 1, 1, 1).expand(-1, 3, 16, 20).clone()},
        labels={"classes": torch.arange(ROWS)},
        example_ids_B=torch.arange(ROWS) + 40,
        targets_B=torch.ones(ROWS, dtype=torch.long),
        tokens_B=torch.ones(ROWS, dtype=torch.long),
    )


@pytest.mark.parametrize("technique", [Mixup(alpha=1.0), Cutmix(p=1.0)], ids=["mixup", "cutmix"])
def test_pictures_and_loss_are_mixed_alike(technique, classed, ctx) -> None:
    at = ctx(3)
    made = technique.on_batch(classed, at, None)
    others, shares = made.labels["mixed_classes"], made.labels["mixed_shares"]
    assert sorted(others.tolist()) == list(range(ROWS)), "each is the partner of one"
    assert (others != classed.labels["classes"]).all()
    assert shares.std() > 0.05
    expected = (1 - shares) * torch.arange(ROWS) + shares * others
    torch.testing.assert_close(made.inputs["pixel_values"].mean((1, 2, 3)), expected, atol=1e-4, rtol=0)
    logits = torch.randn(ROWS, ROWS, generator=torch.Generator().manual_seed(0))
    term = technique.loss_terms(Outputs(logits=logits), made, at, None)[technique.name()]
    cross_entropy = torch.nn.functional.cross_entropy
    soft = torch.zeros(ROWS, ROWS).scatter_(1, torch.arange(ROWS)[:, None], (1 - shares)[:, None])
    soft.scatter_add_(1, others[:, None], shares[:, None])
    plain = cross_entropy(logits, classed.labels["classes"], reduction="sum")
    torch.testing.assert_close(plain + term, cross_entropy(logits, soft, reduction="sum"))


@pytest.mark.parametrize("technique", [Mixup(), Cutmix(p=1.0)], ids=["mixup", "cutmix"])
def test_two_processes_mix_as_one(technique, classed, ctx) -> None:
    whole = technique.on_batch(classed, ctx(3), None)
    parts = classed.split(5)
    gathered = {id(part): at for at, part in enumerate(parts)}
    for part in parts:
        at = gathered[id(part)]

        def gather(rows: torch.Tensor, at: int = at) -> tuple[torch.Tensor, slice]:
            fields = [(half.example_ids_B, half.inputs["pixel_values"], half.labels["classes"]) for half in parts]
            which = next(
                n for n, field in enumerate(fields[at]) if field.shape == rows.shape and field.equal(rows.to(field))
            )
            return torch.cat([field[which] for field in fields]), slice(5 * at, 5 * at + 5)

        made = technique.on_batch(part, dataclasses.replace(ctx(3), gather=gather), None)
        assert torch.equal(made.inputs["pixel_values"], whole.inputs["pixel_values"][5 * at : 5 * at + 5])
        assert torch.equal(made.labels["mixed_classes"], whole.labels["mixed_classes"][5 * at : 5 * at + 5])


def test_off_and_what_cannot_be_mixed(classed, batch, ctx) -> None:
    assert Mixup(p=0.0).on_batch(classed, ctx(0), None) is classed
    with pytest.raises(RequestError, match="one class each"):
        Cutmix(p=1.0).on_batch(batch, ctx(0), None)
