import torch
from torch.nn import functional

from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials
from danlu.maths.losses import cross_entropies
from danlu.techniques.regularise.label_smoothing import LabelSmoothing


def test_the_dial_gives_torchs_smoothed_loss():
    torch.manual_seed(0)
    logits_NV, labels_N = torch.randn(20, 11), torch.randint(0, 11, (20,))
    labels_N[3] = -100
    dials = Dials(LabelSmoothing(epsilon=0.2).dials())
    epsilon = dials.value("label_smoothing", Clock(budget=Budget(steps=1)))
    ours = cross_entropies(logits_NV, labels_N, label_smoothing=epsilon)[0].sum()
    theirs = functional.cross_entropy(logits_NV, labels_N, label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
