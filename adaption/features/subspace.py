"""Representation subspace distance: the angles between the subspaces of two domains, for regression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._global_batch import BatchMeanMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption._spectrum import finite, poison, spectrum_of_rows
from adaption._states import sum_dtype
from adaption.features._moments import in_one_dtype
from adaption.features.mmd import check_pair


@full_precision
def representation_subspace_distance(
    source_features: Tensor, target_features: Tensor, *, bases_weight: float = 0.1
) -> Tensor:
    r"""Sum of the sines of the angles between the subspaces that the features span, and how their bases differ.

    The features of a batch span a subspace, whose leading directions are the columns of `U`, the left singular vectors
    of :math:`X^\top`. Between the `k` leading ones of both domains there are `k` principal angles:

    .. math::
        U_s^\top U_t = P_s \operatorname{diag}(\cos \theta_1, .., \cos \theta_k) P_t^\top, \qquad
        \mathrm{RSD} = \sum_{i=1}^k \sin \theta_i + w \, \lVert |P_s| - |P_t| \rVert_F

    The second term compares the coefficients of the principal vectors in the singular vectors of each domain, by
    absolute values, since the signs of singular vectors are arbitrary. It aligns leading directions with leading
    directions. Multiplying the features of source or target by a number does not change the value.

    `k` is the smaller of both ranks: :math:`\min(n, m, d)`, less where features are linearly dependent, 1 for constant
    ones and 0 for zeros. Directions below rounding error do not count. Principal vectors with equal angles are
    determined only up to a rotation, and are left out of the second term. So with :math:`n + m > d`, where the
    subspaces share directions, that term compares the others only, and with batches of `d` or more both terms are 0.

    Sines are computed from the components of principal vectors orthogonal to the other subspace, not from cosines, and
    their gradient is finite where an angle is 0. Quantities below rounding error get the gradient 0. Everything is in
    float64.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar, at least 0

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        bases_weight: the weight `w` of the difference of the bases, at least 0.

    Raises:
        TypeError: for anything but floating-point tensors, and a weight of a wrong type.
        ValueError: for empty batches, wrong ranks, differing widths or devices, and a weight below 0.

    References:
        X. Chen, S. Wang, J. Wang, M. Long: Representation Subspace Distance for Domain Adaptation Regression.
        ICML 2021. https://proceedings.mlr.press/v139/chen21u.html

    Example:
        One direction of each domain; the sine of the angle between them is 3/5.

        >>> import torch
        >>> from adaption.functional import representation_subspace_distance
        >>> source, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[40.0, 30.0]])
        >>> representation_subspace_distance(source, target)
        tensor(0.6000)
    """
    check_weight(bases_weight)
    check_pair(source_features, target_features)
    return _distance(in_one_dtype(source_features, target_features), [bases_weight])


def check_weight(bases_weight: object) -> None:
    """Check the weight of the second term."""
    _checks.number("bases_weight", bases_weight, at_least=0)


class _Directions:
    """The directions of some rows, the leading one first, and the gradient for the rows."""

    def __init__(self, rows: Tensor) -> None:
        spectrum = spectrum_of_rows(rows)
        self.rows, self.rounding, vectors = rows, spectrum.rounding, spectrum.vectors
        self.values = spectrum.values[: vectors.shape[1]]
        if len(rows) < len(vectors):  # quotients, at right angles only nearly so; a step of Newton's iteration
            vectors = torch.addmm(vectors, vectors, vectors.T @ vectors, beta=1.5, alpha=-0.5)
        else:
            vectors = vectors * (self.values > 0)
        self.vectors, self.rank = vectors, (self.values > 0).sum()

    def pull(self, outer: Tensor, others: Tensor) -> Tensor:
        r"""The gradient for the rows `X`, from that for the products of the `k` leading directions with `others`.

        An eigenvector :math:`u_i` of :math:`G = X^\top X` changes by
        :math:`\sum_j u_j u_j^\top dG \, u_i / (\lambda_i - \lambda_j)` over :math:`j \ne i`, including those with
        :math:`\lambda_j = 0`, which are the components of `others` orthogonal to all directions.
        """
        k = len(outer)
        values, overlap = self.values[:k], self.vectors.T @ others
        apart = values - self.values[:, None]
        turns = (overlap @ outer.T) / torch.where(apart.abs() > self.rounding, apart, torch.inf)
        along = self.rows @ self.vectors
        outside = (along[:, :k] / torch.where(values > 0, values, torch.inf)) @ outer
        inside = (along[:, :k] @ turns.T).addmm_(outside, overlap.T, alpha=-1)
        inside[:, :k] += along @ turns
        return (inside @ self.vectors.T).addmm_(outside, others.T)


class _Comparison:
    """The angles between two bases, and their principal vectors as combinations of the bases' columns."""

    def __init__(self, source: Tensor, target: Tensor, number: Tensor) -> None:
        """Use the first `number` columns of the bases."""
        self.counts = torch.arange(source.shape[1], device=number.device) < number
        both = self.counts[:, None] & self.counts
        # a cosine of 2 keeps apart what does not count
        overlap = torch.where(both, source.T @ target, 2.0 * torch.diag(~self.counts))
        self.p, self.cosines, q = torch.linalg.svd(overlap)
        self.q = q.T
        self.rounding = torch.finfo(source.dtype).eps ** 0.5  # of a cosine near 1, in the angle
        rests = (target @ self.q).addmm_(source, self.p * self.cosines, alpha=-1)
        self.sines = torch.where(self.cosines < 1.5, torch.linalg.vector_norm(rests, dim=0), 0.0)
        self.equal = (self.cosines[:, None] - self.cosines).abs() <= self.rounding
        alone = (self.equal.sum(1) == 1) & (self.cosines < 1.5)
        self.mismatch = (self.p.abs() - self.q.abs()) * alone
        self.distance = torch.linalg.vector_norm(self.mismatch)

    def value(self, weight: float) -> Tensor:
        """The sum of both terms."""
        value: Tensor = self.sines.sum() + weight * self.distance
        return value

    def gradient(self, weight: float) -> Tensor:
        """The gradient for the products of the columns of both bases, whose singular vectors are `p` and `q`."""
        p, q, c = self.p, self.q, self.cosines
        cotangents = c / torch.where(self.sines > self.rounding, self.sines, torch.inf)
        outer = self.mismatch * (weight / torch.where(self.distance > self.rounding, self.distance, torch.inf))
        left, right = p.T @ (p.sign() * outer), q.T @ (q.sign() * outer)
        squares = torch.where(self.equal, torch.inf, (c - c[:, None]) * (c + c[:, None]))
        inner = ((left - left.T) * c - c[:, None] * (right - right.T)) / squares - torch.diag(cotangents)
        gradient: Tensor = p @ inner @ q.T
        return gradient * self.counts * self.counts[:, None]


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    rows = [tensor.to(sum_dtype(tensor.device)) for tensor in tensors]
    lost = poison(*rows)
    source, target = (_Directions(finite(x)) for x in rows)
    k = min(len(source.values), len(target.values))
    bases = source.vectors[:, :k], target.vectors[:, :k]
    comparison = _Comparison(*bases, torch.minimum(source.rank, target.rank))
    results = [comparison.value(options[0]) + lost]
    if any(needed):
        outer = comparison.gradient(options[0])
        if needed[0]:
            results.append(source.pull(outer, bases[1]) + lost)
        if needed[1]:
            results.append(target.pull(outer.T, bases[0]) + lost)
    return [result.to(tensors[0].dtype) for result in results]


_distance = ClosedForm("representation_subspace_distance", _evaluate)


class RepresentationSubspaceDistanceLoss(BatchMeanMetric):
    r"""Representation subspace distance (RSD): minimising it aligns the subspaces of both domains.

    There is no adversary: the feature extractor minimises the value together with the task loss. It is for regression:
    losses that align distributions tend to change the scale of the features, and so the predictions; this one depends
    on directions only.

    The formula is that of :func:`adaption.functional.representation_subspace_distance`. `compute` returns the mean of
    the batch values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ, and `n + m`
          should be at most `d`

    Output: scalar, at least 0.

    Args:
        bases_weight: the weight of the difference of the bases; the sum of the sines has weight 1.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and a weight of a wrong type.
        ValueError: as :func:`adaption.functional.representation_subspace_distance`.

    References:
        X. Chen, S. Wang, J. Wang, M. Long: Representation Subspace Distance for Domain Adaptation Regression.
        ICML 2021. https://proceedings.mlr.press/v139/chen21u.html

    Example:
        Planes that share one axis and are otherwise at a right angle. The shared axis is the second direction of the
        source and the first of the target, so that :math:`|P_s| - |P_t|` has the entries 1 and -1.

        >>> import torch
        >>> from adaption import RepresentationSubspaceDistanceLoss
        >>> rsd = RepresentationSubspaceDistanceLoss()
        >>> source = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
        >>> rsd(source, source.roll(1, 1).flip(0))
        tensor(1.2000)
        >>> rsd(source, source)
        tensor(0.)
    """

    plot_lower_bound = 0.0

    def __init__(self, bases_weight: float = 0.1, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        check_weight(bases_weight)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.bases_weight = bases_weight

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add the value of a batch to the epoch."""
        self._accumulate(self._statistics(source_features, target_features))

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        batch = self._global_batch(source_features=source_features, target_features=target_features)
        return representation_subspace_distance(*batch, bases_weight=self.bases_weight), 1
