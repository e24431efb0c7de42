"""The entropy of predictions, with a gradient that is accurate where they are certain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption._closed_form import Shortcut, Values


def entropies(logits: Tensor) -> Tensor:
    """The entropy of each sample ``(N,)`` or position ``(N, d1, ..)``, from logits ``(N, C, ..)``, in nats."""
    return entropies_and_probabilities(logits)[0]


def _formula(logits: Tensor) -> Values:
    """The derivative of an entropy for a logit is a difference of terms ``p (log p + 1)``.

    In these, certain predictions lose their digits to the 1. The sum of `p` is constant and changes no derivative:
    adding it removes the 1, and it is subtracted again without a gradient.
    """
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    return (p * (1 - log_p) - p.detach()).sum(1), p


def _evaluate(logits: Tensor) -> tuple[Values, Values]:
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    terms = log_p.mul_(p)
    entropy = 0.0 - terms.sum(1)  # not -0 where predictions are certain
    return (entropy, p), (entropy, p, terms)


def _gradients(notes: Values, outer: Sequence[Tensor | None]) -> Values:
    """The derivative of an entropy `H` is ``-p (log p + H)``, that of the probabilities is that of a softmax."""
    (entropy, p, terms), (of_entropy, of_p) = notes, outer
    factors = (torch.zeros_like(entropy) if of_entropy is None else of_entropy).unsqueeze(1)
    common = factors * entropy.unsqueeze(1)
    if of_p is None:
        gradient = terms * -factors
    else:
        gradient = p * of_p
        common = common + gradient.sum(1, keepdim=True)
        gradient.addcmul_(terms, factors, value=-1)
    return (gradient.addcmul_(p, common, value=-1),)


# The entropies, and the softmax ``(N, C, ..)`` that they are computed from.
entropies_and_probabilities = Shortcut(_formula, _evaluate, _gradients, sparse=True, pays_from=2**13)
