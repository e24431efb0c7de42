"""Fréchet distance between normal distributions with the means and covariances of the domains."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adaption._closed_form import ClosedForm
from adaption._precision import full_precision
from adaption._spectrum import finite
from adaption._states import sum_dtype
from adaption.features._moments import Moments, MomentsMetric, Scatter, at_least, in_one_dtype
from adaption.features.mmd import check_pair


@full_precision
def frechet_distance(source_features: Tensor, target_features: Tensor) -> Tensor:
    r"""Squared Fréchet distance between normal distributions with the moments of source and target features.

    .. math::
        \mathrm{FD} = \lVert \bar s - \bar t \rVert^2
        + \operatorname{tr} \bigl( C_s + C_t - 2 (C_s C_t)^{1/2} \bigr)

    with the covariances `C`, divided by the number of samples minus one. It is the smallest mean squared distance over
    which samples of one normal distribution must be moved to become samples of the other, also known as the squared
    2-Wasserstein distance; for the features of an Inception network it is the FID. Unlike CORAL it compares the means,
    and is in units of squared features.

    No square root of a matrix is computed: :math:`\operatorname{tr} (C_s C_t)^{1/2}` is the nuclear norm of the
    products of all pairs of samples, :math:`S T^\top / \sqrt{(n - 1) (m - 1)}` with the centred features `S` and `T`.
    With the singular vectors `U` and `V` the gradient of the norm with respect to `S` is :math:`U V^\top T`, up to that
    factor: finite where covariances are singular, as they are with fewer samples than features. Singular values below
    rounding error count as 0. Roots and norms are in float64.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar, at least 0; it grows with the square of the features

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for a batch of fewer than 2 samples, wrong ranks, differing widths or devices.

    References:
        D. C. Dowson, B. V. Landau: The Fréchet Distance between Multivariate Normal Distributions. Journal of
        Multivariate Analysis 1982. https://doi.org/10.1016/0047-259X(82)90077-X

        M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter: GANs Trained by a Two Time-Scale Update Rule
        Converge to a Local Nash Equilibrium. NeurIPS 2017. https://arxiv.org/abs/1706.08500

    Example:
        For one feature it is the squared difference of the means plus that of the standard deviations: 2 and 4, and
        :math:`\sqrt 2` and :math:`\sqrt 8`.

        >>> import torch
        >>> from adaption.functional import frechet_distance
        >>> frechet_distance(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [6.0]]))
        tensor(6.)
    """
    check_pair(source_features, target_features)
    _check_sizes(source_features, target_features)
    return _distance(in_one_dtype(source_features, target_features))


def _check_sizes(source: Tensor, target: Tensor) -> None:
    at_least(2, "because one sample has no covariance", source, target)


def _evaluate(tensors: list[Tensor], needed: list[bool], _options: list[float]) -> list[Tensor]:
    r"""The value, and its gradients.

    With more samples than features, a root `A` of the covariance replaces the rows `Z`, which are orthonormal columns
    times `A`: :math:`Z = (Z A^+) A`.
    """
    dtype = tensors[0].dtype
    means = [tensor.mean(0) for tensor in tensors]
    centred = [(x - mean) / math.sqrt(len(x) - 1) for x, mean in zip(tensors, means, strict=True)]
    exact = [z.to(sum_dtype(z.device)) for z in centred]
    roots = [_root(z.T @ z) if len(z) > z.shape[1] else (z, None, z.square().sum()) for z in exact]
    (source, _, variance), (target, _, other_variance) = roots
    products, gap, spread = source @ target.T, means[0] - means[1], variance + other_variance
    if not any(needed):
        return [_distance_of(gap, spread, torch.linalg.svdvals(finite(products))).to(dtype)]
    u, values, v = torch.linalg.svd(finite(products), full_matrices=False)
    turn = (u * (values > max(products.shape) * torch.finfo(values.dtype).eps * values[0])) @ v
    results = [_distance_of(gap, spread, values).to(dtype)]
    for domain, (z, (_, inverse, _)) in enumerate(zip(centred, roots, strict=True)):
        if needed[domain]:
            moved = (turn if domain == 0 else turn.T) @ roots[1 - domain][0]
            moved = moved.to(dtype) if inverse is None else z @ (inverse @ moved).to(dtype)
            pull = (z - moved).mul_(2 / math.sqrt(len(z) - 1))
            results.append(pull.add_((1 - 2 * domain) * 2 / len(z) * gap - pull.mean(0)))
    return results


def _root(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""A matrix `A` with :math:`A^\top A` the covariance, its inverse, both 0 below rounding error, and the trace."""
    values, vectors = torch.linalg.eigh(finite(covariance))
    rounding = 10 * len(values) * torch.finfo(values.dtype).eps
    roots = values.where(values > rounding * values[-1], 0.0).sqrt()
    return roots[:, None] * vectors.T, vectors * roots.reciprocal().where(roots > 0, 0.0), covariance.trace()


def _distance_of(gap: Tensor, spread: Tensor, values: Tensor) -> Tensor:
    """From the difference of the means, the sum of both traces, and the singular values of the products."""
    rest: Tensor = (spread - 2 * values.sum()).clamp(min=0)  # 0 may round below
    return gap.to(rest.dtype).square().sum() + rest


_distance = ClosedForm("frechet_distance", _evaluate)


class FrechetDistanceLoss(MomentsMetric):
    r"""Fréchet distance between the domains; minimising it gives their features the same mean and covariance.

    There is no adversary: the feature extractor minimises the value together with the task loss. Without training, it
    measures how far apart the domains are, in units of squared features.

    The formula is that of :func:`adaption.functional.frechet_distance`. `compute` is its value for all samples of the
    epoch as one batch, exact over batches and ranks. The value of a batch is far above it: with fewer samples than
    features, the covariances of two batches of one domain share few directions. It keeps the covariance of each domain,
    :math:`d^2` numbers in float64: 4 MB for 512 features and 67 MB for 2,048, for both domains. ``pooled=False`` keeps
    two numbers, and `compute` is the mean of the batches' values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        pooled: whether `compute` is the value of all samples of the epoch, or the mean of the batches' values.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and settings of a wrong type.
        ValueError: as :func:`adaption.functional.frechet_distance`, and where the number of features differs from that
            of the batches before.

    References:
        D. C. Dowson, B. V. Landau: The Fréchet Distance between Multivariate Normal Distributions. Journal of
        Multivariate Analysis 1982. https://doi.org/10.1016/0047-259X(82)90077-X

        M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter: GANs Trained by a Two Time-Scale Update Rule
        Converge to a Local Nash Equilibrium. NeurIPS 2017. https://arxiv.org/abs/1706.08500

    Example:
        The domains differ in each batch, but not in the epoch.

        >>> import torch
        >>> from adaption import FrechetDistanceLoss
        >>> frechet = FrechetDistanceLoss()
        >>> low, high = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]])
        >>> frechet(low, high), frechet(high, low)
        (tensor(25.), tensor(25.))
        >>> round(float(frechet.compute()), 6)
        0.0
    """

    plot_lower_bound = 0.0

    def __init__(self, *, pooled: bool = True, gather_distributed: bool = False, **kwargs: Any) -> None:
        super().__init__(Scatter(), pooled=pooled, gather_distributed=gather_distributed, **kwargs)

    def _check(self, source_features: Tensor, target_features: Tensor) -> None:
        _check_sizes(source_features, target_features)

    def _of_batch(self, source_features: Tensor, target_features: Tensor) -> Tensor:
        return frechet_distance(source_features, target_features)

    def _of_moments(self, source: Moments, target: Moments) -> Tensor:
        (left, _, variance), (right, _, other_variance) = (_root(domain.covariance) for domain in (source, target))
        values = torch.linalg.svdvals(finite(left @ right.T))
        return _distance_of(source.mean - target.mean, variance + other_variance, values)
