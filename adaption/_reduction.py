"""From one loss per sample to the value: `"mean"`, `"sum"` or `"none"`, with a separate mean for each domain.

The mean of a loss over two domains is the sum of two means, so that unequal batches do not shift the balance between
them. Its statistics are one sum and one count per domain; those of ``"none"`` are the losses themselves.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from torch import Tensor

from adaption import _checks

REDUCTIONS = ("mean", "sum", "none")


def check(reduction: str) -> None:
    _checks.option("reduction", reduction, REDUCTIONS)


def spread(name: str, weights: Tensor | None, losses: Tensor) -> Tensor:
    """The weights of samples, by default 1, one for each loss; a dense task has a loss at every position."""
    if weights is None:
        return losses.new_ones(()).expand_as(losses)
    _checks.weights(name, weights, losses)
    return weights.reshape(-1, *[1] * (losses.ndim - 1)).expand_as(losses)


def weighted(name: str, losses: Tensor, weights: Tensor | None) -> Tensor:
    """Per-sample losses times the weights of the samples, which are not normalised."""
    return losses if weights is None else losses * spread(name, weights, losses)


def per_sample(name: str, values: Tensor, outputs: Tensor, need: str | None = None) -> Tensor:
    """The values of a measure given by the user for `outputs` ``(N, C, ..)``, one per sample ``(N, ..)``.

    A value per element is averaged over `C`; a scalar, already a mean, is used for every sample, unless `need` names an
    argument that needs separate values.
    """
    _checks.tensor(f"{name}(..)", values)
    samples = outputs.shape[:1] + outputs.shape[2:]
    if values.ndim == 0 and need is None:
        return values.expand(samples)
    if values.shape == outputs.shape:
        return values.mean(1)
    if values.shape in (samples, samples[:1]):
        return values
    reason = "or a scalar" if need is None else f"for {need}"
    msg = (
        f"`{name}` must return one value per sample {tuple(samples)} or per element {tuple(outputs.shape)} {reason}, "
        f'but returned shape {_checks.shape(values)}. Let it keep samples apart, e.g. with `reduction="none"`.'
    )
    raise ValueError(msg)


def statistics(reduction: str, *domains: Tensor) -> tuple[Any, ...]:
    """The additive statistics of the per-sample losses of one or two domains, each of shape ``(N, ..)``."""
    if reduction == "none":
        first, *others = (losses.shape for losses in domains)
        if any(shape != first for shape in others):  # a set of them would fix a compiled step to one batch size
            msg = (
                '`reduction="none"` needs losses of the same shape for both domains, to add them sample by sample, '
                f"but got {tuple(first)} and {tuple(others[0])}. Reduce them alike, or use the mean."
            )
            raise ValueError(msg)
        return (functools.reduce(operator.add, domains),)
    return tuple(part for losses in domains for part in (losses.sum(), losses.numel()))


def value(reduction: str, *statistics: Tensor) -> Tensor:
    """The reduced loss. Without any sample it is 0 / 0 = NaN, also for the sum."""
    if reduction == "none":
        return statistics[0]
    sums, counts = statistics[::2], statistics[1::2]
    if reduction == "sum":
        return functools.reduce(operator.add, sums) * (counts[0] / counts[0])
    mean = sums[0] / counts[0]
    return mean if len(sums) == 1 else mean + sums[1] / counts[1]
