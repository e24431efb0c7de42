"""Asking a discriminator, and what its answer must look like."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adaption import _checks
from adaption._precision import as_parameters

Discriminator = Callable[[Tensor], Tensor]


def ask(domain_disc: Discriminator, grl: Discriminator, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """The domain logits of both batches, seen through the gradient reversal.

    The batches go through the discriminator as one, so that a batch normalisation inside cannot normalise each domain
    by itself and so hide the difference between them, and a schedule inside `grl` steps once.
    """
    stacked = grl(torch.cat([source, target]))
    logits = domain_disc(as_parameters(domain_disc, stacked))
    return torch.split(domain_logits("domain_disc", logits, stacked), [len(source), len(target)])


def domain_logits(name: str, logits: object, samples: Tensor | None = None) -> Tensor:
    """Logits of shape ``(N, 1)``, ``(N,)`` or ``(N, 1, d1, ..)``, without their dimension of size 1."""
    _checks.tensor(name, logits)
    assert isinstance(logits, Tensor)  # noqa: S101 - for mypy
    if logits.ndim == 0 or (logits.ndim > 1 and logits.shape[1] != 1):
        msg = (
            f"`{name}` must give one domain logit per sample, shape (N, 1), (N,) or (N, 1, H, W), but got shape "
            f"{_checks.shape(logits)}. End the discriminator in a single output without sigmoid or softmax."
        )
        raise ValueError(msg)
    if samples is not None and len(logits) != len(samples):
        msg = (
            f"`{name}` must give one domain logit for each of the {len(samples)} samples, but got shape "
            f"{_checks.shape(logits)}. Keep the first dimension as it is."
        )
        raise ValueError(msg)
    return logits.squeeze(1) if logits.ndim > 1 else logits
