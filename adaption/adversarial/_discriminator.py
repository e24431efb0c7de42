"""Calling a discriminator, checking its output, and the cross entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.utilities import rank_zero_warn

from adaption import _checks, _reduction
from adaption._passes import constants, passed
from adaption._precision import as_parameters

Discriminator = Callable[[Tensor], Tensor]

_SQUASHES = (nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Softmax, nn.Softmax2d, nn.LogSoftmax)
_RESHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)


_SIGMOID_INSIDE = "The loss takes the sigmoid itself, and of numbers that are squashed already it comes nowhere near 0"


def check_discriminator(name: str, discriminator: object, why_logits: str = _SIGMOID_INSIDE) -> None:
    """It must be callable; warns if its last module is visible and does not give logits."""
    _checks.function(name, discriminator)
    last = _last(discriminator)
    if isinstance(last, _SQUASHES):
        rank_zero_warn(
            f"`{name}` must give logits, but ends in {type(last).__name__}. {why_logits}. Drop the last module.",
            UserWarning,
        )


def _last(module: object) -> object:
    """The last module of a chain that does more than change the shape."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        working = [child for child in module if not isinstance(child, _RESHAPES)]
        return _last(working[-1]) if working else None
    return module


def ask(domain_disc: Discriminator, grl: Discriminator, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The domain logits of both batches, with the gradient reversal before the discriminator.

    The batches go through the discriminator as one, so that a batch normalisation inside cannot normalise each domain
    separately and so hide the difference between them, and a schedule inside `grl` advances once. Batches whose samples
    differ in size go through the discriminator one after the other.
    """
    if source.shape[1:] == target.shape[1:]:
        logits = answer("domain_disc", domain_disc, through(grl, torch.cat([source, target])))
        return logits[: len(source)], logits[len(source) :]
    _check_no_batch_norm(domain_disc, source, target)
    both = through(grl, torch.cat([source.flatten(), target.flatten()]))
    seen, others = both.split([source.numel(), target.numel()])
    return (
        answer("domain_disc", domain_disc, seen.view(source.shape)),
        answer("domain_disc", domain_disc, others.view(target.shape)),
    )


def through(grl: Discriminator, features: Tensor) -> Tensor:
    """The features after a gradient reversal, which must not change them."""
    found = grl(features)
    if not isinstance(found, Tensor) or found.shape != features.shape:
        came = f"shape {_checks.shape(found)}" if isinstance(found, Tensor) else type(found).__name__
        msg = (
            f"`grl` must return its input of shape {_checks.shape(features)}, but returned {came}. "
            "Pass a layer that changes nothing but the gradient."
        )
        raise (ValueError if isinstance(found, Tensor) else TypeError)(msg)
    return found


def _check_no_batch_norm(discriminator: object, source: Tensor, target: Tensor) -> None:
    """Refuse batch normalisation if the domains cannot pass through it as one batch."""
    modules = discriminator.modules() if isinstance(discriminator, nn.Module) else ()
    if any(isinstance(module, _BatchNorm) and module.training for module in modules):
        msg = (
            f"`target` must have samples of the size of those of `source` {tuple(source.shape[1:])}, because "
            f"`domain_disc` normalises over the batch, but got shape {_checks.shape(target)}. Each domain by itself "
            "would lose what tells them apart: resize one of them, or normalise over groups instead."
        )
        raise ValueError(msg)


def answer(name: str, discriminator: Discriminator, samples: Tensor, *, fixed: bool = False) -> Tensor:
    """The domain logits of one batch, without their dimension of size 1, by the discriminator passed as `name`.

    A `fixed` discriminator passes the gradient on, but its parameters get none.
    """
    samples = as_parameters(discriminator, samples)
    logits = _fixed(discriminator, samples) if fixed else discriminator(samples)
    _checks.tensor(f"{name}(x)", logits)
    return domain_logits(name, logits, samples)


def _fixed(discriminator: Discriminator, samples: Tensor) -> Tensor:
    """The output of a discriminator with constant parameters; their `requires_grad` is not changed."""
    if not isinstance(discriminator, nn.Module) or isinstance(discriminator, torch.jit.ScriptModule):
        return discriminator(samples)
    logits: Tensor = passed(discriminator, constants(discriminator), samples)
    return logits


def domain_logits(name: str, logits: object, samples: Tensor | None = None) -> Tensor:
    """Logits of shape ``(N, 1)``, ``(N,)`` or ``(N, 1, d1, ..)``, without their dimension of size 1."""
    _checks.tensor(name, logits)
    assert isinstance(logits, Tensor)  # noqa: S101 - for mypy
    if logits.ndim == 0 or (logits.ndim > 1 and logits.shape[1] != 1):
        msg = (
            f"`{name}` must give one domain logit per sample, shape (N, 1), (N,) or (N, 1, H, W), but got shape "
            f"{_checks.shape(logits)}. {_repair(logits)}"
        )
        raise ValueError(msg)
    if samples is not None and len(logits) != len(samples):
        msg = (
            f"`{name}` must give one domain logit for each of the {len(samples)} samples, but got shape "
            f"{_checks.shape(logits)}. Keep the first dimension as it is."
        )
        raise ValueError(msg)
    return logits.squeeze(1) if logits.ndim > 1 else logits


def _repair(logits: Tensor) -> str:
    if logits.ndim > 2 and logits.shape[-1] == 1:
        return "Bring the logits of a sequence, (N, T, 1), to shape (N, 1, T) with `.movedim(-1, 1)`, or pool over it."
    if logits.ndim > 1 and logits.shape[1] == 2:
        return "Make one of two logits z, that of the target less that of the source: `z[:, 1:] - z[:, :1]`."
    return "End the discriminator in a single output without sigmoid or softmax."


def domain_losses(source: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """The cross entropies of domain logits, place by place, checked for the requirements of `reduction`."""
    _reduction.check(reduction)
    if reduction == "mean":  # of each domain: they need not have the same places
        _checks.same_rank("source_logits", source, "target_logits", target)
    else:
        _checks.same_layer("source_logits", source, "target_logits", target)
        _checks.same_size("source_logits", source, "target_logits", target, f'reduction="{reduction}"')
    return cross_entropy(source, "source"), cross_entropy(target, "target")


def check_label(domain_label: str) -> None:
    """The label must be one of the two domains."""
    _checks.option("domain_label", domain_label, ("source", "target"))


def cross_entropy(logits: Tensor, domain_label: str) -> Tensor:
    """The cross entropy of each domain logit with label 0 for the source and 1 for the target."""
    # exact for logits of any size: the logarithm of a sigmoid ends at 17, and softplus is linear from 20 on
    return -F.logsigmoid(-logits if domain_label == "source" else logits)
