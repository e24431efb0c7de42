"""Mutual information of two predictions for the same samples: they agree, and use every class."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._precision import full_precision, log_probability
from adaption._states import sum_dtype


def mutual_information(predictions1: Tensor, predictions2: Tensor) -> Tensor:
    r"""Negative mutual information, in nats, between the classes of two predictions for the same sample.

    .. math::
        L = -\sum_{k, l} J_{kl} \log \frac{J_{kl}}{j_k j_l}, \qquad
        J = \frac1{2m} \sum_{i=1}^m \bigl(p_i q_i^\top + q_i p_i^\top\bigr), \qquad j_k = \sum_l J_{kl}

    with the probabilities `p` and `q` of `C` classes for `m` samples, or for all positions of dense predictions. `J` is
    how often one prediction is class `k` and the other class `l`, made symmetric. Predictions that are certain, agree
    and use all classes equally often give :math:`-\log C`; one class for all samples, and uniform predictions, give 0.

    Everything except the products is computed in float64, and `J` is divided by its sum, as in the paper's code: for
    nearly uniform predictions the value is a small difference of entropies, smaller than the rounding errors of
    probabilities whose sum is nearly 1. The gradient has a closed form.

    Shapes:
        - `predictions1`, `predictions2`: :math:`(m, C)` or :math:`(m, C, d_1, ..)`
        - output: scalar in :math:`[-\log C, 0]`

    Args:
        predictions1: probabilities, the softmax of a classifier's logits.
        predictions2: probabilities for the same samples, of another view of them or by another classifier.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, differing shapes or devices, and what cannot be probabilities.

    References:
        X. Ji, J. F. Henriques, A. Vedaldi: Invariant Information Clustering for Unsupervised Image Classification and
        Segmentation. ICCV 2019. https://arxiv.org/abs/1807.06653

    Example:
        >>> import torch
        >>> from adaption.functional import mutual_information
        >>> mutual_information(torch.eye(2), torch.eye(2))  # certain, agreeing and balanced: -log 2
        tensor(-0.6931)
    """
    return _information([_products(predictions1, predictions2)])


@full_precision
def _products(predictions1: Tensor, predictions2: Tensor) -> Tensor:
    """How often each pair of classes is predicted, shape ``(C, C)``, in the order of the predictions."""
    _checks.probabilities("predictions1", predictions1)
    _checks.probabilities("predictions2", predictions2)
    _checks.same_shape("predictions1", predictions1, "predictions2", predictions2)
    if predictions1.ndim == 2:
        return predictions1.T @ predictions2
    p, q = (predictions.transpose(0, 1).flatten(1) for predictions in (predictions1, predictions2))
    return p @ q.T


def _evaluate(tensors: list[Tensor], needed: list[bool], _options: list[float]) -> list[Tensor]:
    """The negative mutual information of products of classes, and its gradient if it is needed."""
    (products,) = tensors
    # those of an epoch are flat
    square = products.to(sum_dtype(products.device)).view(_num_classes(products), -1)
    total = square.sum()
    joint = (square + square.T).div_(2 * total)
    log_marginal = log_probability(joint.sum(0))
    by_chance = (log_marginal.unsqueeze(1) + log_marginal).sub_(log_probability(joint))
    value = joint.view(-1).dot(by_chance.view(-1))
    found = [value.to(products.dtype)]
    return [*found, by_chance.sub_(value).div_(total).view_as(products).to(products.dtype)] if needed[0] else found


def _num_classes(products: Tensor) -> int:
    classes: int = round(products.numel() ** 0.5)
    return classes


_information = ClosedForm("mutual_information", _evaluate)


class MutualInformationLoss(GlobalBatchMetric):
    r"""Invariant information clustering (IIC): two predictions for a sample agree, and all classes are used.

    There is no adversary: the networks minimise it; the sign is already reversed. The predictions may be of two views
    of a sample by one network, or of one view by two networks; if one of them is a teacher, detach its prediction.
    Unlike a distance between them, it does not reward agreement on one class for all.

    The formula is that of :func:`adaption.functional.mutual_information`. `compute` is the exact value of all samples
    of the epoch, from the sum of the batches' products of class probabilities, :math:`C^2` numbers in float64; it is
    not the mean of the batches' values, in which the classes are never quite balanced.

    Inputs of `update` and `forward`:
        - `predictions1`, `predictions2`: :math:`(m, C)` or :math:`(m, C, d_1, ..)`, probabilities

    Output: scalar in :math:`[-\log C, 0]`.

    Args:
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.mutual_information`, and where the number of classes differs from that
            of the batches before.

    References:
        X. Ji, J. F. Henriques, A. Vedaldi: Invariant Information Clustering for Unsupervised Image Classification and
        Segmentation. ICCV 2019. https://arxiv.org/abs/1807.06653

    Example:
        Each batch has samples of one class only, the epoch is balanced.

        >>> import torch
        >>> from adaption import MutualInformationLoss
        >>> information = MutualInformationLoss()
        >>> first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> information(first, first), information(second, second)
        (tensor(0.), tensor(0.))
        >>> information.compute().float()  # -log 2
        tensor(-0.6931)
    """

    plot_upper_bound = 0.0

    class_products: Tensor

    def __init__(self, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self._keep_vectors("class_products")  # row by row

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The value of certain, agreeing and balanced predictions; 0 while the number of classes is unknown."""
        return -math.log(_num_classes(self.class_products))

    def update(self, predictions1: Tensor, predictions2: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(predictions1, predictions2))

    def _statistics(self, predictions1: Tensor, predictions2: Tensor) -> Statistics:
        predictions1, predictions2 = self._global_batch(predictions1=predictions1, predictions2=predictions2)
        products = _products(predictions1, predictions2).flatten()
        if self.class_products.ndim:
            _checks.classes_of_before("predictions1", predictions1, _num_classes(self.class_products))
        return (products,)

    def _value(self, *statistics: Tensor) -> Tensor:
        return _information(statistics)
