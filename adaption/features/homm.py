"""Higher-order moment matching: gives the products of several features equal means in both domains."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._global_batch import BatchMeanMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption._states import sum_dtype
from adaption.features._moments import in_one_dtype
from adaption.features.mmd import check_pair


@full_precision
def higher_order_moment_matching(source_features: Tensor, target_features: Tensor, *, order: int = 3) -> Tensor:
    r"""Mean squared difference between the central moments of one order, over all combinations of features.

    .. math::
        \mathrm{HoMM} = \frac1{d^p} \lVert M(x) - M(y) \rVert^2, \qquad
        M(x) = \frac1n \sum_i x_i^{\otimes p}

    with the source features `x` and the target features `y`, both minus their means, and the order `p`. The entries of
    :math:`x^{\otimes p}` are the products of `p` features, one for each way to choose them: for order 3, the mean is
    the skewness where all three are the same, and otherwise measures how the product of two features depends on a
    third.

    The :math:`d^p` entries are never formed. The inner product of two such tensors is a power of that of the features,
    so that

    .. math::
        d^p \, \mathrm{HoMM} = \frac1{n^2} \sum_{ij} (x_i^\top x_j)^p + \frac1{m^2} \sum_{ij} (y_i^\top y_j)^p
        - \frac2{nm} \sum_{ij} (x_i^\top y_j)^p

    at the cost of :math:`(n + m)^2 d` for any order. Products and powers are in float64, since the difference is small
    compared with its terms.

    The means of the domains are not compared. At order 2 the moments are covariances: the value is four times that of
    :func:`~adaption.functional.correlation_alignment`, if its covariances are divided by the number of samples.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar, at least 0; it grows with the power `2 p` of the features

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        order: `p`, at least 2; the paper takes 3 and 4.

    Raises:
        TypeError: for anything but floating-point tensors and an integer.
        ValueError: for empty batches, wrong ranks, differing widths or devices, and an `order` below 2 or above 100.

    References:
        C. Chen, Z. Fu, Z. Chen, S. Jin, Z. Cheng, X. Jin, X.-S. Hua: HoMM: Higher-order Moment Matching for
        Unsupervised Domain Adaptation. AAAI 2020. https://arxiv.org/abs/1912.11976

    Example:
        The centred source features are -1, -1 and 2 with the third moment 2, the target features are symmetric.

        >>> import torch
        >>> from adaption.functional import higher_order_moment_matching
        >>> source, target = torch.tensor([[0.0], [0.0], [3.0]]), torch.tensor([[5.0], [7.0]])
        >>> higher_order_moment_matching(source, target)
        tensor(4.)
    """
    check_order(order)
    check_pair(source_features, target_features)
    return _distance(in_one_dtype(source_features, target_features), [float(order)])


def check_order(order: object) -> None:
    """The order must be at least 2: the first centred moments are 0."""
    _checks.count("order", order, at_least=2, at_most=100)


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    r"""The value, and its gradients.

    The gradient for the centred sample :math:`x_i` is

    .. math::
        \frac{2 p}{n d^p} \Bigl( \frac1n \sum_j (x_i^\top x_j)^{p-1} x_j
        - \frac1m \sum_j (x_i^\top y_j)^{p-1} y_j \Bigr)

    from which the centring subtracts the mean over the samples. The features are first divided by the square root of
    `d`, so that no power of `d` can overflow.
    """
    order, root, dtype = int(options[0]), math.sqrt(tensors[0].shape[1]), tensors[0].dtype
    x, y = (_centred(tensor).mul_(1 / root) for tensor in tensors)
    products = [x @ x.T, y @ y.T, x @ y.T]
    powers = [product ** (order - 1) for product in products]
    within, beside, across = (_mean(*pair) for pair in zip(powers, products, strict=True))
    results = [(within + beside - 2 * across).clamp(min=0).to(dtype)]  # 0 may round below
    if not any(needed):
        return results
    x, y, (of_x, of_y, of_both) = x.to(dtype), y.to(dtype), (power.to(dtype) for power in powers)
    for need, rows, own, others, other in ((needed[0], x, of_x, y, of_both), (needed[1], y, of_y, x, of_both.T)):
        if need:
            size = 2 * order / (len(rows) * root)
            pull = torch.mm(other, others).addmm_(own, rows, beta=-size / len(others), alpha=size / len(rows))
            results.append(pull.sub_(pull.mean(0)))
    return results


def _centred(features: Tensor) -> Tensor:
    exact = features.to(sum_dtype(features.device))
    return exact - exact.mean(0)


def _mean(powers: Tensor, products: Tensor) -> Tensor:
    """The mean of the next higher powers, without another matrix."""
    return torch.dot(powers.view(-1), products.view(-1)) / products.numel()


_distance = ClosedForm("higher_order_moment_matching", _evaluate)


class HigherOrderMomentMatchingLoss(BatchMeanMetric):
    r"""Higher-order moment matching (HoMM): minimising it gives the products of several features equal means.

    There is no adversary: the feature extractor minimises the value together with the task loss. Unlike CORAL it
    compares the shape of the distribution beyond its covariance, and unlike CMD the dependence between features.

    The formula is that of :func:`adaption.functional.higher_order_moment_matching`. `compute` returns the mean of the
    batch values. Under equal distributions it is not 0 but about :math:`(1/n + 1/m)` times the mean of
    :math:`(|x|^2 / d)^p` over centred features.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        order: the order of the moments, at least 2; 3 for skewness, 4 for long tails.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors and an integer.
        ValueError: as :func:`adaption.functional.higher_order_moment_matching`.

    References:
        C. Chen, Z. Fu, Z. Chen, S. Jin, Z. Cheng, X. Jin, X.-S. Hua: HoMM: Higher-order Moment Matching for
        Unsupervised Domain Adaptation. AAAI 2020. https://arxiv.org/abs/1912.11976

    Example:
        Three features of -1 and 1, whose product is always 1 in one domain and always -1 in the other. Single features
        and pairs have equal distributions; six of the 27 third moments differ by 2.

        >>> import torch
        >>> from adaption import HigherOrderMomentMatchingLoss
        >>> signs = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
        >>> homm = HigherOrderMomentMatchingLoss()
        >>> homm(signs, -signs)  # 6 * 4 / 27
        tensor(0.8889)
        >>> HigherOrderMomentMatchingLoss(order=2)(signs, -signs)
        tensor(0.)
    """

    plot_lower_bound = 0.0

    def __init__(self, order: int = 3, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        check_order(order)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.order = order

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add the value of a batch to the epoch."""
        self._accumulate(self._statistics(source_features, target_features))

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        batch = self._global_batch(source_features=source_features, target_features=target_features)
        return higher_order_moment_matching(*batch, order=self.order), 1
