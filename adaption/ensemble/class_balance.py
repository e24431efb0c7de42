"""Class balance: keeps self-ensembling from collapsing to one class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._precision import full_precision, log_probability


def class_balance_loss(predictions: Tensor) -> Tensor:
    r"""Binary cross entropy between the mean prediction and the uniform distribution.

    .. math::
        L = -\frac1c \sum_{k=1}^c \frac1c \log \bar p_k + \Bigl(1 - \frac1c\Bigr) \log(1 - \bar p_k), \qquad
        \bar p_k = \frac1n \sum_{i=1}^n p_{ik}

    with the probabilities `p` of `c` classes for `n` samples. Single predictions may be certain, but their mean should
    not favour a class. The smallest value, at a uniform mean, is the entropy of a Bernoulli variable with probability
    :math:`1 / c`. A mean of exactly 0 or 1 is replaced by a value that differs by float32's smallest normal number.

    Shapes:
        - `predictions`: :math:`(n, c)`; output: scalar

    Args:
        predictions: probabilities, the softmax of a classifier's logits.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty batch, a shape other than :math:`(n, c)`, and what cannot be probabilities.

    References:
        G. French, M. Mackiewicz, M. Fisher: Self-ensembling for visual domain adaptation. ICLR 2018.
        https://arxiv.org/abs/1706.05208

    Example:
        >>> import torch
        >>> from adaption.functional import class_balance_loss
        >>> class_balance_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # balanced: log 2
        tensor(0.6931)
    """
    return _value(*_statistics(predictions))


@full_precision
def _statistics(predictions: Tensor) -> Statistics:
    _checks.matrix("predictions", predictions, "C")
    _checks.probabilities("predictions", predictions)
    return predictions.sum(0), len(predictions)


def _value(totals: Any, number: Any) -> Tensor:
    log_p = log_probability(totals / number)
    log_not_p = log_probability((number - totals) / number)  # unlike 1 - p it loses no digits of a p close to 1
    uniform = 1 / log_p.numel()
    return -(uniform * log_p + (1 - uniform) * log_not_p).mean()


class ClassBalanceLoss(GlobalBatchMetric):
    r"""Class balance loss: the student minimises it, and so predicts all classes about equally often.

    The consistency alone does not penalise a student that assigns every target sample to the same class. This term,
    with a small weight, does. It assumes a target whose classes are about balanced.

    The formula is that of :func:`adaption.functional.class_balance_loss`. The cross entropy is that of a mean
    prediction, so `compute` is the exact value for the mean over the whole epoch, not a mean of batch values, which are
    larger.

    Inputs of `update` and `forward`:
        - `predictions`: :math:`(n, c)`, probabilities

    Output: scalar, above 0.

    Args:
        num_classes: number of classes `c`.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor, and a `num_classes` that is not an integer.
        ValueError: as :func:`adaption.functional.class_balance_loss`, for another number of classes, and for a
            `num_classes` below 2.

    References:
        G. French, M. Mackiewicz, M. Fisher: Self-ensembling for visual domain adaptation. ICLR 2018.
        https://arxiv.org/abs/1706.05208

    Example:
        Each batch has samples of one class only, the epoch is balanced.

        >>> import torch
        >>> from adaption import ClassBalanceLoss
        >>> balance = ClassBalanceLoss(num_classes=2)
        >>> balance(torch.tensor([[1.0, 0.0]])), balance(torch.tensor([[0.0, 1.0]]))
        (tensor(43.6683), tensor(43.6683))
        >>> balance.compute()
        tensor(0.6931, dtype=torch.float64)
    """

    def __init__(self, num_classes: int, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        _checks.count("num_classes", num_classes, at_least=2)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.num_classes = num_classes
        self._keep_vectors("class_totals", length=num_classes)
        self._keep_sums("num_samples")

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The value where all classes are predicted equally often."""
        uniform = torch.full((1, self.num_classes), 1 / self.num_classes, dtype=torch.float64)
        return class_balance_loss(uniform).item()

    def update(self, predictions: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(predictions))

    def _statistics(self, predictions: Tensor) -> Statistics:
        (predictions,) = self._global_batch(predictions=predictions)
        statistics = _statistics(predictions)
        repair = "Build the loss for the classifier's number of classes."
        _checks.columns("predictions", predictions, self.num_classes, "num_classes", repair)
        return statistics

    def _value(self, *statistics: Any) -> Tensor:
        return _value(*statistics)
