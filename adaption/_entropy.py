"""The entropy of predictions, exact where they are certain."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

# below the logarithm of any positive number of float64, so that it only takes the place of minus infinity
_OF_ZERO = -1e4


def entropy_terms(logits: Tensor) -> Tensor:
    """``-p log p`` of each class in nats, with `p` the softmax over dimension 1. Their sum is the entropy.

    A class of probability 0 gives 0 and a gradient of 0, also where its log-probability is minus infinity.
    """
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    return 0 - p * log_p.masked_fill(p == 0, 0.0)  # a minus sign alone would make -0.0 of it


def entropy_and_predictions(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The entropy of each prediction in nats ``(N, ..)``, and the predictions themselves, the softmax over dimension 1.

    The derivative of an entropy `H` by a logit is ``-p (log p + H)``. Autograd finds it as a difference of numbers near
    1, in which a certain prediction loses its digits, and in twice as many passes.
    """
    if torch.is_grad_enabled() and logits.requires_grad:
        entropy, p, _ = _Entropy.apply(logits)
        return entropy, p
    return _parts(logits)[:2]


def _parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    log_p = log_p.clamp(min=_OF_ZERO)
    return 0 - (p * log_p).sum(1), p, log_p


class _Entropy(Function):
    @staticmethod
    def forward(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _parts(logits)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, by_entropy: Tensor | None, by_p: Tensor | None, _: None) -> Tensor | None:
        logits, *parts = ctx.saved_tensors
        # what was saved is constant to a second derivative
        entropy, p, log_p = _parts(logits) if torch.is_grad_enabled() else parts
        gradient = None
        if by_entropy is not None:
            gradient = -(log_p + entropy.unsqueeze(1)) * by_entropy.unsqueeze(1)
        if by_p is not None:
            centred = by_p - (p * by_p).sum(1, keepdim=True)
            gradient = centred if gradient is None else gradient + centred
        return None if gradient is None else gradient * p


# `Function.apply` derives the signature at each call, which takes as long as three operations on a small batch.
_Entropy.forward.__signature__ = inspect.signature(_Entropy.forward)  # type: ignore[attr-defined] # unknown to mypy
