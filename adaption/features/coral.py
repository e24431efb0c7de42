"""CORAL: aligns the covariances of two domains."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._precision import full_precision
from adaption._states import sum_dtype
from adaption.features._moments import FourthOrder, Moments, MomentsMetric, Scatter, at_least, in_one_dtype
from adaption.features.mmd import check_pair

ESTIMATORS = ("biased", "unbiased")


@full_precision
def correlation_alignment(source_features: Tensor, target_features: Tensor, *, estimator: str = "biased") -> Tensor:
    r"""Squared distance between the covariances of source and target features.

    .. math:: \mathrm{CORAL} = \frac{1}{4 d^2} \lVert C_s - C_t \rVert_F^2

    with the covariances `C` of `d` features, divided by the number of samples minus one. It does not depend on the
    means of the domains.

    For finite batches it is too high: under equal normal distributions with covariance :math:`\Sigma` its mean is

    .. math::
        \frac{\operatorname{tr} \Sigma^2 + (\operatorname{tr} \Sigma)^2}{4 d^2}
        \Bigl(\frac1{n - 1} + \frac1{m - 1}\Bigr)

    instead of 0. ``estimator="unbiased"`` is unbiased for every distribution. It estimates
    :math:`\operatorname{tr} \Sigma_s \Sigma_t` by :math:`\operatorname{tr} C_s C_t`, and
    :math:`\operatorname{tr} \Sigma^2` of a domain from products of different samples only, which is

    .. math::
        \frac{(n - 1)^2}{n (n - 3)} \operatorname{tr} C^2 + \frac{n - 1}{n (n - 2) (n - 3)} (\operatorname{tr} C)^2
        - \frac{1}{(n - 2) (n - 3)} \sum_i |x_i - \bar x|^4

    so it may be negative, and needs four samples of each domain.

    No matrix of size `d x d` is formed where `d` is larger than `n + m`: the norm is computed from the products of all
    pairs of samples, in float64, which costs :math:`(n + m)^2 d`.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar; it grows with the fourth power of the features

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        estimator: ``"biased"``, as in the paper, at least 0; or ``"unbiased"``.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for a batch of fewer than 2 samples, with the unbiased estimate 4; for wrong ranks, differing widths
            or devices, and an unknown `estimator`.

    References:
        B. Sun, K. Saenko: Deep CORAL: Correlation Alignment for Deep Domain Adaptation. ECCV Workshops 2016.
        https://arxiv.org/abs/1607.01719

        J. Li, S. X. Chen: Two Sample Tests for High-dimensional Covariance Matrices. Annals of Statistics 2012.
        https://arxiv.org/abs/1206.0917

    Example:
        >>> import torch
        >>> from adaption.functional import correlation_alignment
        >>> correlation_alignment(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]))  # variances 2 and 8
        tensor(9.)
    """
    _checks.option("estimator", estimator, ESTIMATORS)
    check_pair(source_features, target_features)
    _check_sizes(source_features, target_features, estimator)
    return _distance(in_one_dtype(source_features, target_features), [float(estimator == "unbiased")])


def _check_sizes(source: Tensor, target: Tensor, estimator: str) -> None:
    if estimator == "unbiased":
        at_least(4, "as the unbiased estimate needs them", source, target)
    else:
        at_least(2, "because one sample has no covariance", source, target)


def _weights(n: Any) -> tuple[Any, Any, Any]:
    """The coefficients of the unbiased estimate for tr C^2, minus one, for (tr C)^2, and for the sum of |z|^4."""
    return (n + 1) / (n * (n - 3)), (n - 1) / (n * (n - 2) * (n - 3)), 1 / ((n - 2) * (n - 3))


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    r"""The value, and its gradients.

    With rows `Z`, centred and divided by the square root of `n - 1`, the gradient of :math:`\lVert C_s - C_t \rVert^2`
    is :math:`4 Z_s (C_s - C_t)` for those of the source, and :math:`4 Z_t (C_t - C_s)` for those of the target. Its
    columns have the mean 0, like those of `Z`, so the centring does not change it.
    """
    unbiased, d = bool(options[0]), tensors[0].shape[1]
    sizes = [len(tensor) for tensor in tensors]
    wide = sum(sizes) < d
    exact = sum_dtype(tensors[0].device) if wide or unbiased else tensors[0].dtype
    rows = [_standardised(tensor.to(exact)) for tensor in tensors]
    extra = [_weights(n)[0] if unbiased else 0.0 for n in sizes]
    value, pulls = (_by_samples if wide else _by_features)(rows, extra, needed)
    for domain, (z, n) in enumerate(zip(rows, sizes, strict=True)) if unbiased else ():
        _, of_trace, of_fourths = _weights(n)
        squares, scale = z.square().sum(1), of_fourths * (n - 1) ** 2
        trace = squares.sum()
        value = value + of_trace * trace.square() - scale * squares.square().sum()
        if needed[domain]:
            pull = pulls[domain] + (of_trace * trace - scale * squares[:, None]) * z
            pulls[domain] = pull - pull.mean(0)
    scales = [1 / (d * d * math.sqrt(n - 1)) for n in sizes]
    notes = [pull.mul_(scale) for pull, scale in zip(pulls, scales, strict=True) if pull is not None]
    return [part.to(tensors[0].dtype) for part in (value / (4 * d * d), *notes)]


def _standardised(features: Tensor) -> Tensor:
    """Centred rows, scaled so that their Gram matrix is the covariance."""
    return (features - features.mean(0)) / math.sqrt(len(features) - 1)


def _by_features(rows: list[Tensor], extra: list[float], needed: list[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """From the covariances, `d x d`: squared distance plus `extra` squared norms, and a quarter of the gradients."""
    covariances = [z.T @ z for z in rows]
    difference = covariances[0] - covariances[1]
    value, pulls = difference.square().sum(), list[Tensor | None]()
    for z, c, more, sign, need in zip(rows, covariances, extra, (1, -1), needed, strict=True):
        value = value + more * c.square().sum() if more else value
        pulls.append(z @ (sign * difference + more * c) if need else None)
    return value, pulls


def _by_samples(rows: list[Tensor], extra: list[float], needed: list[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """The same from the products of all pairs of samples, `(n + m) x (n + m)`."""
    n = len(rows[0])
    stacked = torch.cat(rows)
    products = stacked @ stacked.T
    weighted = products.clone()
    weighted[:n, n:] *= -1
    weighted[n:, :n] *= -1
    weighted[:n, :n] *= 1 + extra[0]
    weighted[n:, n:] *= 1 + extra[1]
    value = (weighted * products).sum().clamp(min=0)  # 0 may round below
    pulls = (weighted @ stacked).tensor_split([n]) if any(needed) else (None, None)
    return value, [pull if need else None for pull, need in zip(pulls, needed, strict=True)]


_distance = ClosedForm("correlation_alignment", _evaluate)


class CorrelationAlignmentLoss(MomentsMetric):
    r"""Correlation alignment (Deep CORAL): minimising it gives the features of both domains the same covariance.

    There is no adversary: the feature extractor minimises the value together with the task loss.

    The formula is that of :func:`adaption.functional.correlation_alignment`. `compute` is its value for all samples of
    the epoch as one batch, exact over batches and ranks, and so nearly without the bias of a batch. It keeps the
    covariance of each domain, :math:`d^2` numbers in float64: 4 MB for 512 features and 67 MB for 2,048, for both
    domains; with many features, adding to it takes longer than the loss. ``pooled=False`` keeps two numbers, and
    `compute` is the mean of the batches' values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0; the unbiased estimate may be slightly negative.

    Args:
        estimator: ``"biased"`` or ``"unbiased"``.
        pooled: whether `compute` is the value of all samples of the epoch, or the mean of the batches' values.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and settings of a wrong type.
        ValueError: as :func:`adaption.functional.correlation_alignment`, and where the number of features differs from
            that of the batches before.

    References:
        B. Sun, K. Saenko: Deep CORAL: Correlation Alignment for Deep Domain Adaptation. ECCV Workshops 2016.
        https://arxiv.org/abs/1607.01719

    Example:
        The covariances differ in each batch, but not in the epoch.

        >>> import torch
        >>> from adaption import CorrelationAlignmentLoss
        >>> coral = CorrelationAlignmentLoss()
        >>> small, large = torch.tensor([[0.0], [2.0]]), torch.tensor([[-1.0], [3.0]])
        >>> coral(small, large), coral(large, small)
        (tensor(9.), tensor(9.))
        >>> coral.compute()
        tensor(0., dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        estimator: str = "biased",
        pooled: bool = True,
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        _checks.option("estimator", estimator, ESTIMATORS)
        central = FourthOrder() if estimator == "unbiased" else Scatter()
        super().__init__(central, pooled=pooled, gather_distributed=gather_distributed, **kwargs)
        self.estimator = estimator

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The biased estimate is at least 0."""
        return 0.0 if self.estimator == "biased" else None

    def _check(self, source_features: Tensor, target_features: Tensor) -> None:
        _check_sizes(source_features, target_features, self.estimator)

    def _of_batch(self, source_features: Tensor, target_features: Tensor) -> Tensor:
        return correlation_alignment(source_features, target_features, estimator=self.estimator)

    def _of_moments(self, source: Moments, target: Moments) -> Tensor:
        value: Tensor = (source.covariance - target.covariance).square().sum()
        for domain in (source, target) if self.estimator == "unbiased" else ():
            covariance, (more, of_trace, of_fourths) = domain.covariance, _weights(domain.number)
            value = value + more * covariance.square().sum() + of_trace * covariance.trace().square()
            value = value - of_fourths * domain.sums[2]
        return value / (4 * len(source.mean) ** 2)
