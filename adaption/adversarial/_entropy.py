"""The entropy of predictions, exact where they are certain."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def entropy_terms(logits: Tensor) -> Tensor:
    """``-p log p`` of each class in nats, with `p` the softmax over dimension 1. Their sum is the entropy.

    A class of probability 0 gives 0 and a gradient of 0, also where its log-probability is minus infinity.
    """
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    return 0 - p * log_p.masked_fill(p == 0, 0.0)  # a minus sign alone would make -0.0 of it
