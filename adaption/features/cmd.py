"""Central moment discrepancy: aligns the moments of each feature up to some order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._precision import full_precision
from adaption._states import sum_dtype
from adaption.features._moments import Moments, MomentsMetric, Powers, in_one_dtype
from adaption.features.mmd import check_pair


@full_precision
def central_moment_discrepancy(
    source_features: Tensor,
    target_features: Tensor,
    *,
    num_moments: int = 5,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    r"""Distance between the means and the central moments of source and target features.

    .. math::
        \mathrm{CMD} = \frac{\lVert \bar s - \bar t \rVert}{b - a}
        + \sum_{k=2}^K \frac{\lVert c_k(s) - c_k(t) \rVert}{(b - a)^k}, \qquad
        c_k(x) = \frac1n \sum_i (x_i - \bar x)^k

    with features that lie between `a` and `b`, powers taken feature by feature, and Euclidean norms over the features.
    The second moments are variances, the third measure the skewness of a feature, the fourth the weight of its tails.
    Correlations between features are not compared.

    The norms are not differentiable at 0: the gradient of a term does not vanish as the term does, and is set to 0
    where the term is exactly 0. Moments and gradient are computed in float64, since powers span many orders of
    magnitude.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar, at least 0; it grows with the square root of `d`

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        num_moments: `K`, the number of moments, the mean included; the paper takes 5.
        bounds: `a` and `b`: (0, 1) after a sigmoid, (-1, 1) after a hyperbolic tangent. It is not checked that features
            lie between them. For unbounded features, the terms grow with the powers of their spread divided by `b - a`.

    Raises:
        TypeError: for anything but floating-point tensors, and settings of a wrong type.
        ValueError: for empty batches, wrong ranks, differing widths or devices, `num_moments` below 1, and bounds that
            are not finite or not in order.

    References:
        W. Zellinger, T. Grubinger, E. Lughofer, T. Natschläger, S. Saminger-Platz: Central Moment Discrepancy (CMD) for
        Domain-Invariant Representation Learning. ICLR 2017. https://arxiv.org/abs/1702.08811

    Example:
        The means are equal, and the variances 1/4 and 1/16. The third moments are 0, the fourth 1/16 and 1/256.

        >>> import torch
        >>> from adaption.functional import central_moment_discrepancy
        >>> source, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.25], [0.75]])
        >>> central_moment_discrepancy(source, target, num_moments=2)
        tensor(0.1875)
        >>> central_moment_discrepancy(source, target)
        tensor(0.2461)
    """
    check_settings(num_moments, bounds)
    check_pair(source_features, target_features)
    options = [float(num_moments), _width(bounds)]
    return _discrepancy(in_one_dtype(source_features, target_features), options)


def check_settings(num_moments: object, bounds: object) -> None:
    """Check the number of moments and the bounds."""
    _checks.count("num_moments", num_moments, at_most=100)
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        msg = f"`bounds` must be two numbers, the lower one first, but got {bounds!r}. Pass e.g. (0.0, 1.0)."
        raise (ValueError if isinstance(bounds, (tuple, list)) else TypeError)(msg)
    for bound in bounds:
        _checks.number("bounds", bound)
    if not bounds[0] < bounds[1]:
        msg = f"`bounds` must be in order, the lower one first, but got {bounds!r}. Exchange them, or look for a typo."
        raise ValueError(msg)
    _checks.positive("bounds[1] - bounds[0]", float(bounds[1]) - float(bounds[0]))


def _width(bounds: Sequence[float]) -> float:
    return float(bounds[1]) - float(bounds[0])


def _value(source: Sequence[Tensor], target: Sequence[Tensor], width: float) -> tuple[Tensor, list[Tensor]]:
    """The value from mean and central moments, and its gradients with respect to those of the source."""
    norms, pulls = [], []
    for k, (left, right) in enumerate(zip(source, target, strict=True), start=1):
        difference = left - right
        norm = torch.linalg.vector_norm(difference)
        norms.append(norm / width**k)
        pulls.append(difference / torch.where(norm == 0, 1, norm) / width**k)
    return torch.stack(norms).sum(), pulls


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    r"""The value, and its gradients.

    With the gradient :math:`u_k` for the `k`-th moment, that for a sample is
    :math:`\frac1n \bigl(u_1 + \sum_k k u_k (z^{k-1} - c_{k-1})\bigr)`, a polynomial in the centred sample `z`.
    """
    order, width = int(options[0]), options[1]
    rows, moments = [], []
    for tensor in tensors:
        x = tensor.to(sum_dtype(tensor.device))
        mean = x.mean(0)
        z = power = x - mean
        of_domain = [mean]
        for _ in range(2, order + 1):
            power = power * z
            of_domain.append(power.mean(0))
        rows.append(z)
        moments.append(of_domain)
    source, target = moments
    value, pulls = _value(source, target, width)
    results = [value]
    for z, of_domain, sign, need in zip(rows, moments, (1, -1), needed, strict=True):
        if need:
            results.append(_polynomial(z, of_domain, pulls) * (sign / len(z)))
    return [result.to(tensors[0].dtype) for result in results]


def _polynomial(z: Tensor, moments: list[Tensor], pulls: list[Tensor]) -> Tensor:
    """Evaluate a polynomial by Horner's rule."""
    constant = pulls[0]
    for k in range(3, len(pulls) + 1):  # the first central moment is 0
        constant = constant - k * pulls[k - 1] * moments[k - 2]
    result = torch.zeros_like(z[:1])
    for k in range(len(pulls), 1, -1):
        result = torch.addcmul(k * pulls[k - 1], result, z)
    return torch.addcmul(constant, result, z)


_discrepancy = ClosedForm("central_moment_discrepancy", _evaluate)


class CentralMomentDiscrepancyLoss(MomentsMetric):
    r"""Central moment discrepancy (CMD): minimising it gives each feature the same moments in both domains.

    There is no adversary: the feature extractor minimises the value together with the task loss. It needs no kernel and
    no bandwidth, but bounded features, such as those of a sigmoid or a hyperbolic tangent.

    The formula is that of :func:`adaption.functional.central_moment_discrepancy`. `compute` is its value for all
    samples of the epoch as one batch, exact over batches and ranks, from :math:`K d` numbers of each domain. The value
    of a small batch is far above it, by the noise of its moments.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        num_moments: number of moments, the mean included.
        bounds: the lower and the upper bound of the features.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and settings of a wrong type.
        ValueError: as :func:`adaption.functional.central_moment_discrepancy`, and where the number of features differs
            from that of the batches before.

    References:
        W. Zellinger, T. Grubinger, E. Lughofer, T. Natschläger, S. Saminger-Platz: Central Moment Discrepancy (CMD) for
        Domain-Invariant Representation Learning. ICLR 2017. https://arxiv.org/abs/1702.08811

    Example:
        The means of the domains differ in each batch, but not in the epoch.

        >>> import torch
        >>> from adaption import CentralMomentDiscrepancyLoss
        >>> cmd = CentralMomentDiscrepancyLoss()
        >>> zeros, ones = torch.zeros(3, 4), torch.ones(3, 4)
        >>> cmd(zeros, ones), cmd(ones, zeros)
        (tensor(2.), tensor(2.))
        >>> cmd.compute()
        tensor(0., dtype=torch.float64)
    """

    plot_lower_bound = 0.0

    def __init__(
        self,
        num_moments: int = 5,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        check_settings(num_moments, bounds)
        super().__init__(Powers(num_moments), gather_distributed=gather_distributed, **kwargs)
        self.num_moments = num_moments
        self.bounds = bounds

    def _check(self, source_features: Tensor, target_features: Tensor) -> None:
        """Accept any batch: one sample has moments, too."""

    def _of_batch(self, source_features: Tensor, target_features: Tensor) -> Tensor:
        settings = {"num_moments": self.num_moments, "bounds": self.bounds}
        return central_moment_discrepancy(source_features, target_features, **settings)  # type: ignore[arg-type]

    def _of_moments(self, source: Moments, target: Moments) -> Tensor:
        return _value(self._every(source), self._every(target), _width(self.bounds))[0]

    def _every(self, domain: Moments) -> list[Tensor]:
        if not domain.sums:
            return [domain.mean]
        return [domain.mean, *(domain.sums[0] / domain.number).view(self.num_moments - 1, -1)]
