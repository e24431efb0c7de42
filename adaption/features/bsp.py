"""Batch spectral penalization: keeps a few directions from dominating the features."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption.features.mmd import check_pair

_WORTH_HALVING = 128
# Up to so many leading vectors are found one by one.
_FEW = 4
# Between these bounds the squares of the features are far from the limits of float32.
_TINY, _HUGE = 1e-20, 1e20


@full_precision
def batch_spectral_penalization(
    source_features: Tensor, target_features: Tensor, *, num_singular_values: int = 1
) -> Tensor:
    r"""Sum of the squares of the `k` largest singular values of each domain's batch of features.

    .. math:: \mathrm{BSP} = \sum_{i=1}^k \sigma_i(F_s)^2 + \sigma_i(F_t)^2

    with the source features :math:`F_s` and target features :math:`F_t` as matrices. The squares are the largest
    eigenvalues of the smaller of :math:`F F^\top` and :math:`F^\top F`; no singular value decomposition is taken. With
    the leading eigenvectors :math:`U` of :math:`F F^\top` the gradient is :math:`2 U U^\top F`, which stays finite when
    singular values coincide. A batch of fewer than `k` samples has that many singular values, and all count.

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
    return _spectral_energy([source_features], options) + _spectral_energy([target_features], options)


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    (features,) = tensors
    n, d = features.shape
    size, gram = 1.0, _gram(features if n <= d else features.T)
    if not _TINY < float(gram.trace()) < _HUGE:
        size = float(features.abs().amax()) or 1.0
        if not math.isfinite(size):
            return [features.new_tensor(math.nan), *(torch.full_like(features, math.nan) for need in needed if need)]
        features = features / size
        gram = _gram(features if n <= d else features.T)
    vectors = _leading_vectors(gram, int(options[0]))
    projected = vectors.T @ features if n <= d else features @ vectors
    results = [projected.square().sum() * size**2]
    if needed[0]:
        results.append((2 * size * vectors) @ projected if n <= d else (2 * size * projected) @ vectors.T)
    return results


def _gram(rows: Tensor) -> Tensor:
    """``rows @ rows'``, of which one of each two off-diagonal blocks is enough."""
    if len(rows) < _WORTH_HALVING:
        return rows @ rows.T
    upper, lower = rows.tensor_split(2)
    across = upper @ lower.T
    return torch.cat([torch.cat([_gram(upper), across], 1), torch.cat([across.T, _gram(lower)], 1)])


def _leading_vectors(gram: Tensor, number: int) -> Tensor:
    """Orthonormal vectors that span the `number` leading eigenvectors.

    For few of them it takes less time to find the eigenvalues alone, and to solve with the matrix shifted to just
    above each leading one: of any start, its eigenvector comes out larger than the rest by nearly the inverse of the
    precision, and a second time by the square. Of a multiple eigenvalue comes out some vector of its space, and of
    another start another: what a subgradient needs.
    """
    n, eps = len(gram), torch.finfo(gram.dtype).eps
    # In units of the trace nothing below overflows. Without the shift, which moves no eigenvector, LAPACK underflows on
    # dead features and fails.
    gram = gram / (float(gram.trace()) or 1.0)
    gram.diagonal().add_(1e-3)
    if number > min(_FEW, n // 2):
        vectors: Tensor = torch.linalg.eigh(gram).eigenvectors[:, -number:]
        return vectors
    leading = torch.linalg.eigvalsh(gram)[-number:]
    shifted = gram.repeat(number, 1, 1)
    shifted.diagonal(dim1=1, dim2=2).sub_((leading + 4 * eps * leading[-1])[:, None])
    factors, pivots, _ = torch.linalg.lu_factor_ex(shifted)
    pivot_values = factors.diagonal(dim1=1, dim2=2)
    pivot_values.masked_fill_(pivot_values == 0, eps)
    vectors = torch.arange(number * n, dtype=gram.dtype, device=gram.device).cos().view(number, n, 1)  # like noise
    for _ in range(2):
        vectors = torch.linalg.lu_solve(factors, pivots, vectors)
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
    basis: Tensor = torch.linalg.qr(vectors.squeeze(2).T).Q
    return basis


_spectral_energy = ClosedForm("spectral_energy", _evaluate)


class BatchSpectralPenalizationLoss(GlobalBatchMetric):
    r"""Batch spectral penalization: shrinks the largest singular values, so that no few directions dominate.

    The formula is that of :func:`adaption.functional.batch_spectral_penalization`. Nobody plays against anybody: the
    feature extractor minimises the value. It is no distance between domains, but a companion of adversarial losses,
    which strengthen the transferable directions at the cost of the discriminative ones; add it to one of those with a
    small weight (the paper: 1e-4).

    `compute` returns the mean of the batch values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        num_singular_values: number of singular values to penalise in each domain.
        gather_distributed: whether the batches of all ranks count as one, for the value and for the gradient that DDP
            averages; see :doc:`/distributed`.
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
        self._keep_sums("values", "num_batches")

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

    def _value(self, *statistics: Tensor) -> Tensor:
        total, number = statistics
        return total / number
