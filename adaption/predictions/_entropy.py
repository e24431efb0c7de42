"""The entropy of predictions, with a gradient that keeps its digits where they are certain."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def entropies(logits: Tensor) -> Tensor:
    """One for each sample ``(N,)`` or position ``(N, d1, ..)``, of logits ``(N, C, ..)``, in nats."""
    log_p = F.log_softmax(logits, dim=1)
    return entropy(log_p.exp(), log_p, 1)


def entropy(p: Tensor, log_p: Tensor, *dim: int) -> Tensor:
    """The sum of ``-p log p``, in all or over some dimensions, of the softmax of logits and its logarithm.

    Autograd finds its derivative by a logit as a difference of terms ``p (log p + 1)``, in which certain predictions
    lose their digits to the 1. The sum of `p` is constant and moves no derivative of any order: with it added the 1 is
    gone, and without a gradient it is taken off again.
    """
    return (p * (1 - log_p) - p.detach()).sum(*dim)
