"""The entropy of predictions, with a gradient that is accurate where they are certain.

The derivative of an entropy :math:`H(p)` of :math:`p = softmax(z)` for a logit is :math:`-p_k (log p_k + H)`: what a
softmax passes back of :math:`-log p`. So the gradient of any function of entropies and probabilities takes one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption._closed_form import Shortcut, Values


def entropies_and_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The entropy of each sample or position in nats, and the softmax of logits ``(N, C, ..)``, for autograd.

    In a sum of terms ``p (log p + 1)``, certain predictions lose their digits to the 1. The sum of `p` is constant and
    changes no derivative: adding it removes the 1, and it is subtracted again without a gradient.
    """
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    return (p * (1 - log_p) - p.detach()).sum(1), p


def terms(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Without a gradient: ``p log p``, `p` and ``log p`` of each class."""
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    return p * log_p, p, log_p


def through_softmax(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of logits, from that of their softmax over dimension 1."""
    found: Tensor = torch._softmax_backward_data(gradient, p, 1, p.dtype)  # noqa: SLF001 - one pass instead of three
    return found


def over_classes(p: Tensor) -> Tensor:
    """The sum ``(C,)`` over samples and positions."""
    return p.transpose(0, 1).flatten(1).sum(1) if p.ndim > 2 else p.sum(0)


def _each(logits: Tensor) -> Values:
    return entropies_and_probabilities(logits)[:1]


def _evaluate_each(logits: Tensor) -> tuple[Values, Values]:
    products, p, log_p = terms(logits)
    return (0.0 - products.sum(1),), (p, log_p)  # not -0 where predictions are certain


def _each_gradient(notes: Values, outer: Values) -> Values:
    (p, log_p), (of_each,) = notes, outer
    return (through_softmax(p, log_p * -of_each.unsqueeze(1)),)


def _total(logits: Tensor) -> Values:
    return (entropies_and_probabilities(logits)[0].sum(),)


def _evaluate_total(logits: Tensor) -> tuple[Values, Values]:
    products, p, log_p = terms(logits)
    return (0.0 - products.sum(),), (p, log_p)


def _total_gradient(notes: Values, outer: Values) -> Values:
    (p, log_p), (of_total,) = notes, outer
    return (through_softmax(p, log_p) * -of_total,)


def _totals(logits: Tensor) -> Values:
    each, p = entropies_and_probabilities(logits)
    return each.sum(), over_classes(p)


def _evaluate_totals(logits: Tensor) -> tuple[Values, Values]:
    (total,), (p, log_p) = _evaluate_total(logits)
    return (total, over_classes(p)), (p, log_p)


def _totals_gradient(notes: Values, outer: Values) -> Values:
    (p, log_p), (of_total, of_classes) = notes, outer
    of_classes = of_classes.view(-1, *[1] * (p.ndim - 2)) if p.ndim > 2 else of_classes
    return (through_softmax(p, torch.addcmul(of_classes, log_p, of_total, value=-1)),)


# The entropy of each sample ``(N,)`` or position ``(N, d1, ..)``.
each_entropy = Shortcut(_each, _evaluate_each, _each_gradient)
# The sum of all entropies.
total_entropy = Shortcut(_total, _evaluate_total, _total_gradient)
# The same, and the sum of the probabilities of each class ``(C,)``.
entropy_and_classes = Shortcut(_totals, _evaluate_totals, _totals_gradient)
