"""From one loss per sample to the value: `"mean"`, `"sum"` or `"none"`, each domain with its own mean.

The mean of a loss over two domains is the sum of two means, so that unequal batches do not shift the balance between
them. Its statistics are one sum and one count per domain; those of ``"none"`` are the losses themselves.
"""

from __future__ import annotations

import functools
import operator

from torch import Tensor

from adaption._checks import option

REDUCTIONS = ("mean", "sum", "none")


def check(reduction: str) -> None:
    option("reduction", reduction, REDUCTIONS)


def statistics(reduction: str, *domains: Tensor) -> tuple[Tensor | int, ...]:
    """The additive statistics of the per-sample losses of one or two domains, each of shape ``(N, ..)``."""
    if reduction == "none":
        return (functools.reduce(operator.add, domains),)
    return tuple(part for losses in domains for part in (losses.sum(), losses.numel()))


def value(reduction: str, *statistics: Tensor) -> Tensor:
    """The reduced loss. Without any sample it is 0 / 0 = NaN, also for the sum."""
    if reduction == "none":
        return statistics[0]
    sums, counts = statistics[::2], statistics[1::2]
    if reduction == "sum":
        return functools.reduce(operator.add, sums) * (counts[0] / counts[0])
    means = [total / number for total, number in zip(sums, counts, strict=True)]
    return functools.reduce(operator.add, means)
