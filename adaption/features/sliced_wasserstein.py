"""Sliced Wasserstein distance: compares the domains along many lines, exactly on each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption import _checks
from adaption._directions import Directions
from adaption._global_batch import BatchMeanMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption.features.mmd import check_pair


@full_precision
def sliced_wasserstein(source_features: Tensor, target_features: Tensor, projections: Tensor) -> Tensor:
    r"""Mean over directions of the squared Wasserstein distance between the projections of both domains.

    .. math::
        \mathrm{SW} = \frac1k \sum_{l=1}^k \int_0^1 \bigl(F_{s, l}^{-1}(u) - F_{t, l}^{-1}(u)\bigr)^2 \, du

    with the quantile functions :math:`F^{-1}` of the source and target features times the column `l` of `projections`.
    On a line, moving samples in their order has the smallest cost: with equally many samples, that is the mean of the
    squared differences of the sorted projections. With `n` and `m` samples, the quantile functions are steps of width
    :math:`1 / n` and :math:`1 / m`, and the integral is an exact sum over the at most `n + m` pieces between their
    jumps. So the distance of a batch to the same batch with every sample twice is 0.

    With columns of length 1, drawn uniformly from all directions, a shift by `s` of all samples gives :math:`|s|^2 / d`
    on average.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `projections`: :math:`(d, k)`
        - output: scalar, at least 0; it grows with the square of the features and of the projections

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        projections: a direction in each column, not normalised and held constant in the differentiation.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, wrong ranks, differing widths or devices, and projections with another number of
            rows.

    References:
        N. Bonneel, J. Rabin, G. Peyré, H. Pfister: Sliced and Radon Wasserstein Barycenters of Measures. Journal of
        Mathematical Imaging and Vision 2015. https://doi.org/10.1007/s10851-014-0506-3

        C.-Y. Lee, T. Batra, M. H. Baig, D. Ulbricht: Sliced Wasserstein Discrepancy for Unsupervised Domain Adaptation.
        CVPR 2019. https://arxiv.org/abs/1903.04064

    Example:
        Along the first axis both samples move by 3, along the second one by 1.

        >>> import torch
        >>> from adaption.functional import sliced_wasserstein
        >>> source, target = torch.tensor([[0.0, 0.0], [1.0, 5.0]]), torch.tensor([[4.0, 6.0], [3.0, 1.0]])
        >>> sliced_wasserstein(source, target, torch.eye(2))
        tensor(5.)
    """
    check_pair(source_features, target_features)
    _checks.matrix("projections", projections, "directions")
    _check_width(projections, source_features)
    n, m = len(source_features), len(target_features)
    # the mean is subtracted, because numbers far from 0 would lose the digits in which they differ
    if n == m:  # both domains in one product, which rounds equal ones alike, and in one sort
        rows = torch.stack([source_features, target_features])
        rows = rows - rows.detach().mean((0, 1))
        directions = projections.detach().to(rows.dtype).T.expand(2, -1, -1)
        source, target = torch.bmm(directions, rows.mT).sort(2).values.unbind()
        return F.mse_loss(source, target)
    rows = torch.cat([source_features, target_features])
    rows = rows - rows.detach().mean(0)
    directions = projections.detach().to(rows.dtype).T
    source, target = (torch.mm(directions, part.T).sort(1).values for part in rows.split([n, m]))
    return _along_the_quantiles(source, target, n, m) / len(directions)


def _check_width(projections: Tensor, features: Tensor) -> None:
    if len(projections) != features.shape[1]:
        msg = (
            f"`projections` must have as many rows as the features have columns ({features.shape[1]}), but got shape "
            f"{_checks.shape(projections)}. Pass a direction in each column."
        )
        raise ValueError(msg)
    _checks.same_device("source_features", features, "projections", projections)


def _along_the_quantiles(source: Tensor, target: Tensor, n: int, m: int) -> Tensor:
    """The sum over directions, from sorted projections ``(k, n)`` and ``(k, m)``.

    In units of ``1 / (n m)`` both quantile functions jump at integers. Where both jump, a piece has width 0.
    """
    of_source, of_target = torch.arange(n, device=source.device) * m, torch.arange(m, device=source.device) * n
    starts = torch.cat([of_source, of_target]).sort().values
    widths = torch.cat([starts[1:], starts.new_full((1,), n * m)]) - starts
    apart = source[:, starts // m] - target[:, starts // n]
    return (apart.square() @ (widths.to(source.dtype) / (n * m))).sum()


class SlicedWassersteinLoss(BatchMeanMetric):
    r"""Sliced Wasserstein distance between source and target features; minimising it moves one onto the other.

    The formula is that of :func:`adaption.functional.sliced_wasserstein`. There is no adversary: the feature extractor
    minimises the value together with the task loss. The cost is that of sorting, and memory is linear in the samples.

    In training every batch has new directions, in evaluation all have the same, so that values can be compared. They
    are computed only from the number of batches, a buffer: torch's generators do not change, and a resumed run
    continues with the same directions.

    `compute` returns the mean of the batch values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        num_projections: number of directions.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors and an integer.
        ValueError: as :func:`adaption.functional.sliced_wasserstein`, and for `num_projections` below 1.

    References:
        N. Bonneel, J. Rabin, G. Peyré, H. Pfister: Sliced and Radon Wasserstein Barycenters of Measures. Journal of
        Mathematical Imaging and Vision 2015. https://doi.org/10.1007/s10851-014-0506-3

        C.-Y. Lee, T. Batra, M. H. Baig, D. Ulbricht: Sliced Wasserstein Discrepancy for Unsupervised Domain Adaptation.
        CVPR 2019. https://arxiv.org/abs/1903.04064

    Example:
        In one dimension there is one direction, and samples move in their order: 0 to 2, and 5 to 6.

        >>> import torch
        >>> from adaption import SlicedWassersteinLoss
        >>> sliced = SlicedWassersteinLoss(num_projections=16)
        >>> sliced(torch.tensor([[0.0], [5.0]]), torch.tensor([[6.0], [2.0]]))
        tensor(2.5000)
        >>> sliced.compute()
        tensor(2.5000, dtype=torch.float64)
    """

    plot_lower_bound = 0.0

    def __init__(self, num_projections: int = 128, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        _checks.count("num_projections", num_projections)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.num_projections = num_projections
        self.directions = Directions()

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add the value of a batch to the epoch."""
        self._accumulate(self._statistics(source_features, target_features))

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        source_features, target_features = self._global_batch(
            source_features=source_features, target_features=target_features
        )
        check_pair(source_features, target_features)
        directions = self.directions(source_features.shape[1], self.num_projections, source_features)
        return sliced_wasserstein(source_features, target_features, directions), 1
