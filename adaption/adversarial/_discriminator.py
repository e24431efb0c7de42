"""Asking a discriminator, what its answer must look like, and the cross entropy of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption import _checks, _reduction
from adaption._precision import as_parameters

Discriminator = Callable[[Tensor], Tensor]


def ask(domain_disc: Discriminator, grl: Discriminator, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The domain logits of both batches, seen through the gradient reversal.

    The batches go through the discriminator as one, so that a batch normalisation inside cannot normalise each domain
    by itself and so hide the difference between them, and a schedule inside `grl` steps once.
    """
    stacked = torch.cat([source, target])
    passed = grl(stacked)
    if not isinstance(passed, Tensor) or passed.shape != stacked.shape:
        came = f"shape {_checks.shape(passed)}" if isinstance(passed, Tensor) else type(passed).__name__
        msg = (
            f"`grl` must return its input of shape {_checks.shape(stacked)}, but returned {came}. "
            "Pass a layer that changes nothing but the gradient."
        )
        raise (ValueError if isinstance(passed, Tensor) else TypeError)(msg)
    logits = answer("domain_disc", domain_disc, passed)
    return logits[: len(source)], logits[len(source) :]


def answer(name: str, discriminator: Discriminator, samples: Tensor) -> Tensor:
    """The domain logits of one batch, by the discriminator that the caller passed as `name`."""
    logits = discriminator(as_parameters(discriminator, samples))
    _checks.tensor(f"{name}(x)", logits)
    return domain_logits(name, logits, samples)


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


def domain_losses(source_logits: Tensor, target_logits: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """The cross entropies of both domains, sample by sample, checked for what `reduction` asks of them."""
    _reduction.check(reduction)
    source = domain_logits("source_logits", source_logits)
    target = domain_logits("target_logits", target_logits)
    _checks.same_layer("source_logits", source, "target_logits", target)
    if reduction != "mean":
        _checks.same_size("source_logits", source, "target_logits", target, f'reduction="{reduction}"')
    return cross_entropy(source, "source"), cross_entropy(target, "target")


def check_label(domain_label: str) -> None:
    """A label names one of the two domains."""
    _checks.option("domain_label", domain_label, ("source", "target"))


def cross_entropy(logits: Tensor, domain_label: str) -> Tensor:
    """The cross entropy of each domain logit with label 0 for the source and 1 for the target."""
    # exact for logits of any size: the logarithm of a sigmoid ends at 17, and softplus is linear from 20 on
    return -F.logsigmoid(-logits if domain_label == "source" else logits)
