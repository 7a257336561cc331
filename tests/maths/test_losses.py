import torch
from torch.nn import functional

from danlu.maths.losses import cross_entropy_sum


def test_is_the_sum_over_valid_targets() -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([1, -100, 3, 6, -100])
    expected = functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy_sum(logits, labels, label_smoothing=0.1), expected)


def test_weights_and_low_precision() -> None:
    logits, labels = torch.randn(4, 7), torch.tensor([1, -100, 3, 6])
    parts = [float(cross_entropy_sum(logits[row : row + 1], labels[row : row + 1])) for row in range(4)]
    weights = torch.tensor([2.0, 5.0, 0.0, 1.0])
    total = cross_entropy_sum(logits, labels, weights_N=weights)
    torch.testing.assert_close(float(total), 2 * parts[0] + parts[3], rtol=1e-5, atol=1e-5)
    assert cross_entropy_sum(logits.bfloat16(), labels).dtype == torch.float32
