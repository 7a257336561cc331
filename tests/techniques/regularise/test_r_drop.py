import pytest
import torch
from torch.nn import functional

from danlu.core.batch import Batch
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.techniques.regularise.r_drop import RDrop


def _bound(one: torch.Tensor, two: torch.Tensor, labels: torch.Tensor) -> Outputs:
    def loss_of(made: Outputs) -> torch.Tensor:
        return functional.cross_entropy(made.logits, labels, reduction="sum")

    second = Outputs(logits=two).bound(loss_of=loss_of, again=lambda call: second)
    return Outputs(logits=one).bound(loss_of=loss_of, again=lambda call: second)


def _rows(count: int, **labels: torch.Tensor) -> Batch:
    ones = torch.ones(count, dtype=torch.int64)
    return Batch(inputs={}, labels=labels, example_ids_B=torch.arange(count), targets_B=ones, tokens_B=ones)


def test_the_loss_is_half_of_the_papers(make_model, make_ctx):
    torch.manual_seed(0)
    one, two, labels = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True), torch.arange(5)
    technique, outputs = RDrop(alpha=3.0), _bound(one, two, labels)
    ctx = make_ctx(make_model(), technique)
    total = outputs.loss + sum(technique.loss_terms(outputs, _rows(5, classes=labels), ctx, None).values())

    p, q = one.log_softmax(-1), two.log_softmax(-1)  # as the authors' code has it, with torch's own kl_div
    agreement = functional.kl_div(p, q.exp(), reduction="sum") + functional.kl_div(q, p.exp(), reduction="sum")
    truth = functional.nll_loss(p, labels, reduction="sum") + functional.nll_loss(q, labels, reduction="sum")
    paper = truth + 3.0 * 0.5 * agreement
    torch.testing.assert_close(total, 0.5 * paper)
    for ours, theirs in zip(
        torch.autograd.grad(total, [one, two], retain_graph=True), torch.autograd.grad(paper, [one, two]), strict=True
    ):
        torch.testing.assert_close(ours, 0.5 * theirs)


def test_marks_agree_each_for_itself(make_model, make_ctx):
    one, two = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]])
    technique = RDrop(alpha=2.0)
    batch = _rows(1, marks=torch.ones(1, 2))
    terms = technique.loss_terms(
        _bound(one, two, torch.zeros(1).long()), batch, make_ctx(make_model(), technique), None
    )
    p, q = one.sigmoid()[0, 0], two.sigmoid()[0, 0]
    apart = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    apart = apart + q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    torch.testing.assert_close(terms["r_drop"], apart / 4)  # half of both ways, of one class of two


def test_a_number_has_no_distribution(make_model, make_ctx):
    technique = RDrop()
    outputs = _bound(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2).long())
    with pytest.raises(RequestError, match=r"techniques.r_drop: .*no probabilities"):
        technique.loss_terms(outputs, _rows(2, numbers=torch.zeros(2)), make_ctx(make_model(), technique), None)
