"""Batch spectral penalization: keeps a few directions from dominating the features."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._global_batch import BatchMeanMetric
from adaption._host import asks
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption._spectrum import gram_matrix, leading_vectors, queued_leading_vectors
from adaption.features.mmd import check_pair

# Between these bounds the fourth powers of the features are far from the limits of float32.
_TINY, _HUGE = 1e-12, 1e12


@full_precision
def batch_spectral_penalization(
    source_features: Tensor, target_features: Tensor, *, num_singular_values: int = 1
) -> Tensor:
    r"""Sum of the squares of the `k` largest singular values of each domain's batch of features.

    .. math:: \mathrm{BSP} = \sum_{i=1}^k \sigma_i(F_s)^2 + \sigma_i(F_t)^2

    with the source features :math:`F_s` and target features :math:`F_t` as matrices. The squares are the largest
    eigenvalues of the smaller of :math:`F F^\top` and :math:`F^\top F`; no singular value decomposition is taken. With
    the leading eigenvectors :math:`U` of :math:`F F^\top` the gradient is :math:`2 U U^\top F`, which stays finite when
    singular values coincide. A batch of fewer than `k` samples has fewer singular values; all of them then count.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar, at least 0; it grows with the number of samples and the square of the features

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        num_singular_values: number `k` of singular values to penalise; the paper takes 1.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, wrong ranks, differing widths or devices, `num_singular_values` below 1.

    References:
        X. Chen, S. Wang, M. Long, J. Wang: Transferability vs. Discriminability: Batch Spectral Penalization for
        Adversarial Domain Adaptation. ICML 2019. https://proceedings.mlr.press/v97/chen19i.html

    Example:
        >>> import torch
        >>> from adaption.functional import batch_spectral_penalization
        >>> batch_spectral_penalization(torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([2.0, 5.0])))
        tensor(34.)
    """
    _checks.count("num_singular_values", num_singular_values)
    check_pair(source_features, target_features)
    options = [float(num_singular_values)]
    if asks(source_features) or torch.compiler.is_compiling():
        return _spectral_energy([source_features], options) + _spectral_energy([target_features], options)
    return _spectral_energy([source_features, target_features], options)  # both at once, in half as many launches


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    wide = [features.shape[0] <= features.shape[1] for features in tensors]
    rows = [features if is_wide else features.T for features, is_wide in zip(tensors, wide, strict=True)]
    number = int(options[0])
    if asks(rows[0]):
        vectors = [_leading_vectors(part, number) for part in rows]
    else:
        vectors = queued_leading_vectors(rows, number)
    images = [part.T @ leading for part, leading in zip(rows, vectors, strict=True)]
    factors = [
        torch.cat([leading, image] if is_wide else [image, leading])
        for leading, image, is_wide, need in zip(vectors, images, wide, needed, strict=True)
        if need
    ]
    return [functools.reduce(torch.add, [image.square().sum() for image in images]), *factors]


def _leading_vectors(rows: Tensor, number: int) -> Tensor:
    """The leading eigenvectors of ``rows @ rows'``, NaN if an entry is not finite."""
    gram = gram_matrix(rows)
    if not _TINY < float(gram.trace()) < _HUGE:
        size = float(rows.abs().amax()) or 1.0
        if not math.isfinite(size):
            return rows.new_full((len(rows), min(number, len(rows))), math.nan)
        gram = gram_matrix(rows / size)
    return leading_vectors(gram, number)


def _gradient(factors: Tensor, outer: Tensor, features: Tensor) -> Tensor:
    n = features.shape[0]
    return (2 * outer * factors[:n]) @ factors[n:].T


def _like_factors(features: Tensor, options: list[float]) -> Tensor:
    number = min(int(options[0]), *features.shape)  # in this order the compiler learns least about the sizes
    return features.new_empty(sum(features.shape), number)


# For backward it keeps the factors of the gradient, which are smaller than the gradient.
_spectral_energy = ClosedForm("spectral_energy", _evaluate, gradient=_gradient, like=_like_factors)


class BatchSpectralPenalizationLoss(BatchMeanMetric):
    r"""Batch spectral penalization: shrinks the largest singular values, so that a few directions do not dominate.

    The formula is that of :func:`adaption.functional.batch_spectral_penalization`. There is no adversary: the feature
    extractor minimises the value. It is not a distance between domains. Adversarial losses strengthen the transferable
    directions at the cost of the discriminative ones; add it to one of those with a small weight (the paper: 1e-4).

    `compute` returns the mean of the batch values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        num_singular_values: number of singular values to penalise in each domain.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.batch_spectral_penalization`.

    References:
        X. Chen, S. Wang, M. Long, J. Wang: Transferability vs. Discriminability: Batch Spectral Penalization for
        Adversarial Domain Adaptation. ICML 2019. https://proceedings.mlr.press/v97/chen19i.html

    Example:
        >>> import torch
        >>> from adaption import BatchSpectralPenalizationLoss
        >>> bsp = BatchSpectralPenalizationLoss(num_singular_values=1)
        >>> source, target = torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([2.0, 5.0]))
        >>> bsp(source, target), bsp(source, source)
        (tensor(34.), tensor(18.))
        >>> bsp.compute()
        tensor(26., dtype=torch.float64)
    """

    plot_lower_bound = 0.0

    def __init__(self, num_singular_values: int = 1, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        _checks.count("num_singular_values", num_singular_values)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.num_singular_values = num_singular_values

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, target_features))

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        source_features, target_features = self._global_batch(
            source_features=source_features, target_features=target_features
        )
        penalty = batch_spectral_penalization(
            source_features, target_features, num_singular_values=self.num_singular_values
        )
        return penalty, 1
