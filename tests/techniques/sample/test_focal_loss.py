import pytest
import torch
from torch import nn
from torch.nn import functional

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.tasks.base import shape_of
from danlu.tasks.text_classification import TextClassification
from danlu.tasks.text_generation import TextGeneration
from danlu.techniques.sample.focal_loss import FocalLoss


@pytest.mark.parametrize("fused", [True, False])
def test_tokens_have_the_formula_and_its_gradient(fused: bool, make_ctx, batch: Batch) -> None:
    hidden = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(0))
    head, labels = nn.Linear(8, 64, bias=False), batch.labels["tokens"]
    ctx = make_ctx(head, FocalLoss(gamma=1.5))
    found = []
    for own in (True, False):
        leaf = hidden.clone().requires_grad_()
        if own:
            outputs = Outputs(hidden=leaf, head=head)
            if not fused:
                outputs.logits  # noqa: B018 - somebody has read them
            loss = TextGeneration().loss(outputs, batch, ctx)
        else:
            p = head(leaf).softmax(-1).gather(-1, labels[..., None])
            loss = -((1 - p) ** 1.5 * p.log()).sum()
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_without_gamma_the_loss_is_the_cross_entropy_to_the_bit(make_ctx, batch: Batch) -> None:
    logits = torch.randn(4, 16, 64)
    losses = [
        TextGeneration().loss(Outputs(logits=logits), batch, make_ctx(nn.Module(), *on))
        for on in ((), (FocalLoss(gamma=0.0),))
    ]
    assert torch.equal(*losses)


def test_marks_have_the_formula_of_each_class(make_ctx, batch: Batch) -> None:
    logits, marks = torch.randn(4, 3), torch.randint(0, 2, (4, 3)).float()
    ctx = make_ctx(nn.Module(), FocalLoss(gamma=2.0))
    found = TextClassification().loss(Outputs(logits=logits), batch.replace(labels={"marks": marks}), ctx)
    p = torch.where(marks == 1, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(found, -((1 - p) ** 2 * p.log()).mean(1).sum())
    assert shape_of(ctx) == {"label_smoothing": 0.0, "focal_gamma": 2.0}


def test_classes_have_the_formula(make_ctx, batch: Batch) -> None:
    logits, classes = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    weighted = batch.replace(labels={"classes": classes}, weights_B=torch.tensor([1.0, 0.0, 2.0, 1.0]))
    found = TextClassification().loss(Outputs(logits=logits), weighted, make_ctx(nn.Module(), FocalLoss(gamma=0.5)))
    plain = functional.cross_entropy(logits, classes, reduction="none")
    torch.testing.assert_close(found, ((1 - (-plain).exp()) ** 0.5 * plain * weighted.weights_B).sum())
