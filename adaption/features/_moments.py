r"""Moments of two domains, combined over batches, ranks and merges.

Sums of powers lose their digits where features lie far from the origin: with a mean of 1,000 and a standard deviation
of 1 the fifth central moment is lost even in float64. So a domain is represented by its number of samples, its mean,
and its *central* sums. About the mean of two sets `A` and `B` together, the samples of `A` are shifted by
:math:`-\delta n_B / n` and those of `B` by :math:`\delta n_A / n`, with the difference :math:`\delta` of their means,
and the effect of a shift on central sums is given by the binomial theorem (T. Chan, G. Golub, R. LeVeque: Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances, COMPSTAT 1982; P. Pébay: Formulas for Robust, One-Pass
Parallel Computation of Covariances and Arbitrary-Order Statistical Moments, 2008).
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption._states import sum_dtype
from adaption.features.mmd import check_pair

DOMAINS = ("source", "target")

Sums = tuple[Tensor, ...]


@dataclass(frozen=True)
class Moments:
    """The moments of the samples of a domain: number, mean and central sums."""

    number: Any
    mean: Tensor
    sums: Sums

    @property
    def covariance(self) -> Tensor:
        """The covariance from a scatter, divided by the number of samples minus one."""
        covariance: Tensor = self.sums[0].view(len(self.mean), -1) / (self.number - 1)
        return covariance


class Scatter:
    """The central sums of second order: the matrix of the sums of products, row by row.

    A kind of central sums defines their names, their values for centred rows ``(n, d)``, and how those of `number`
    samples change under a shift ``(d,)``. Each is a vector, or one of the `scalars`.
    """

    names: tuple[str, ...] = ("scatter",)
    scalars: tuple[str, ...] = ()

    def of(self, z: Tensor) -> Sums:
        """The central sums for centred rows."""
        return ((z.T @ z).flatten(),)

    def shifted(self, number: Any, sums: Sums, shift: Tensor) -> Sums:
        """The central sums about another point."""
        d = len(shift)
        return (torch.addr(sums[0].view(d, d), number * shift, shift).flatten(),)


class FourthOrder(Scatter):
    r"""`Scatter`, and :math:`\sum z |z|^2` and :math:`\sum |z|^4`."""

    names = ("scatter", "cubes", "fourths")
    scalars = ("fourths",)

    def of(self, z: Tensor) -> Sums:
        """The central sums for centred rows."""
        squares = z.square().sum(1)
        return *super().of(z), squares @ z, squares.square().sum()

    def shifted(self, number: Any, sums: Sums, shift: Tensor) -> Sums:
        r"""By :math:`|z + s|^2 = |z|^2 + 2 z^\top s + |s|^2`, multiplied by :math:`z + s` and by itself."""
        scatter, cubes, fourths = sums
        matrix, square = scatter.view(len(shift), -1), shift @ shift
        image, trace = matrix @ shift, matrix.trace()
        return (
            *super().shifted(number, sums, shift),
            cubes + 2 * image + (trace + number * square) * shift,
            fourths + 4 * (cubes @ shift + shift @ image) + square * (2 * trace + number * square),
        )


class Powers(Scatter):
    """Sums of the powers of each feature, from the second to that of `order`, one after the other."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.names = ("powers",) if order > 1 else ()

    def of(self, z: Tensor) -> Sums:
        """The central sums for centred rows."""
        power, sums = z, []
        for _ in range(2, self.order + 1):
            power = power * z
            sums.append(power.sum(0))
        return (torch.cat(sums),) if sums else ()

    def shifted(self, number: Any, sums: Sums, shift: Tensor) -> Sums:
        """By the binomial theorem; the sum of the first powers is 0."""
        if not sums:
            return ()
        known = [number, torch.zeros_like(shift), *sums[0].view(self.order - 1, -1)]
        moved = []
        for power in range(2, self.order + 1):
            terms = [math.comb(power, k) * shift**k * known[power - k] for k in range(power + 1)]
            moved.append(functools.reduce(torch.add, terms))
        return (torch.cat(moved),)


@full_precision
def moments(features: Tensor, central: Scatter) -> Moments:
    """The moments of a batch, without its graph."""
    rows = features.detach()
    rows = rows.to(sum_dtype(rows.device))
    mean = rows.mean(0)
    return Moments(len(rows), mean, central.of(rows - mean))


def together(a: Moments, b: Moments, central: Scatter) -> Moments:
    """The moments of the samples of both."""
    number = a.number + b.number
    delta = b.mean - a.mean
    share = b.number / number
    back, ahead = -delta * share, delta * (a.number / number)
    sums = zip(central.shifted(a.number, a.sums, back), central.shifted(b.number, b.sums, ahead), strict=True)
    return Moments(number, a.mean + delta * share, tuple(left + right for left, right in sums))


def at_least(number: int, why: str, source: Tensor, target: Tensor) -> None:
    """Each domain must have as many samples as an estimate needs."""
    for name, features in (("source_features", source), ("target_features", target)):
        if len(features) < number:
            msg = (
                f"`{name}` must hold at least {number} samples, {why}, but got shape {_checks.shape(features)}. "
                "Drop the batch, or make batches larger."
            )
            raise ValueError(msg)


def in_one_dtype(*features: Tensor) -> list[Tensor]:
    """Features of different precisions, cast to the highest of them."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in features))
    return [tensor.to(dtype) for tensor in features]


class MomentsMetric(GlobalBatchMetric):
    """A loss on the moments of two domains, whose epoch value is that of the samples of all batches and ranks.

    A subclass checks a batch in `_check`, and defines the value of a batch, with gradient, in `_of_batch`, and that of
    the moments of both domains in `_of_moments`. Both must agree up to rounding.

    Args:
        central: the central sums to be kept.
        pooled: whether moments are kept; otherwise the epoch value is the mean of the batches' values.
        kwargs: those of :class:`GlobalBatchMetric`.
    """

    def __init__(self, central: Scatter, *, pooled: bool = True, **kwargs: Any) -> None:
        _checks.flag("pooled", pooled)
        super().__init__(**kwargs)
        self.pooled = pooled
        self._central = central
        if not pooled:
            self._keep_sums("values", "num_batches")
            return
        for domain in DOMAINS:
            self._keep_sums(f"num_{domain}")
            self._keep_vectors(f"{domain}_mean")
            for name in central.names:
                (self._keep_sums if name in central.scalars else self._keep_vectors)(f"{domain}_{name}")

    @abstractmethod
    def _check(self, source_features: Tensor, target_features: Tensor) -> None:
        """Refuse a batch, of matrices of equal width, that the estimate cannot use."""

    @abstractmethod
    def _of_batch(self, source_features: Tensor, target_features: Tensor) -> Tensor:
        """Return the value of a batch, with gradient."""

    @abstractmethod
    def _of_moments(self, source: Moments, target: Moments) -> Tensor:
        """Return the value of the moments of both domains."""

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, target_features))

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        batch = self._global_batch(source_features=source_features, target_features=target_features)
        if not self.pooled:
            return self._of_batch(*batch), 1
        check_pair(*batch)
        self._check(*batch)
        self._check_width(batch[0])
        source, target = (moments(features, self._central) for features in batch)
        return source.number, source.mean, *source.sums, target.number, target.mean, *target.sums, *batch

    def _check_width(self, features: Tensor) -> None:
        mean = self.__dict__["source_mean"]
        if mean.ndim and len(mean) != features.shape[1]:
            msg = (
                f"`source_features` must have as many columns as the batches before ({len(mean)}), but got shape "
                f"{_checks.shape(features)}. Pass features of the same layer, or call `reset()` before another task."
            )
            raise ValueError(msg)

    def _batch_value(self, *statistics: Any) -> Tensor:
        return self._of_batch(*statistics[-2:]) if self.pooled else self._value(*statistics)

    def _value(self, *statistics: Any) -> Tensor:
        if not self.pooled:
            value: Tensor = statistics[0] / statistics[1]
            return value
        if not statistics[1].ndim:  # there is no sample yet
            return torch.full_like(statistics[1], torch.nan)
        half = len(statistics) // 2
        return self._of_moments(_moments_of(statistics[:half]), _moments_of(statistics[half:]))

    def _together(self, states: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
        if not self.pooled or not (states["source_mean"].ndim and others["source_mean"].ndim):
            return super()._together(states, others)  # of no samples, all is 0
        half = len(self._statistic_names) // 2
        joined: dict[str, Any] = {}
        for names in (self._statistic_names[:half], self._statistic_names[half:]):
            a, b = (_moments_of([values[name] for name in names]) for values in (states, others))
            both = together(a, b, self._central)
            joined |= zip(names, (both.number, both.mean, *both.sums), strict=True)
        rest = {name: other for name, other in others.items() if name not in joined}
        return super()._together(states, rest) | joined


def _moments_of(statistics: Sequence[Any]) -> Moments:
    number, mean, *sums = statistics
    return Moments(number, mean, tuple(sums))
