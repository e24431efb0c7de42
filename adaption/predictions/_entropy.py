"""The entropy of predictions, with a gradient that is accurate where they are certain."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def entropies(logits: Tensor) -> Tensor:
    """The entropy of each sample ``(N,)`` or position ``(N, d1, ..)``, from logits ``(N, C, ..)``, in nats."""
    log_p = F.log_softmax(logits, dim=1)
    return entropy(log_p.exp(), log_p, 1)


def entropy(p: Tensor, log_p: Tensor, *dim: int) -> Tensor:
    """The sum of ``-p log p`` over all or some dimensions, from the softmax of logits and its logarithm.

    Autograd computes its derivative for a logit as a difference of terms ``p (log p + 1)``, in which certain
    predictions lose their digits to the 1. The sum of `p` is constant and changes no derivative: adding it removes the
    1, and it is subtracted again without a gradient.
    """
    return (p * (1 - log_p) - p.detach()).sum(*dim)
