"""MCD: two classifiers maximise their disagreement on target samples; the features minimise it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from adaption import _checks, _reduction
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision, log_probability


def classifier_discrepancy(predictions1: Tensor, predictions2: Tensor) -> Tensor:
    r"""Mean absolute difference between the probabilities of two classifiers.

    .. math:: d = \frac1{m c} \sum_{j=1}^m \sum_{k=1}^c | p_{jk} - q_{jk} |

    with the probabilities `p` and `q` of the two classifiers for `c` classes and `m` target samples. Two one-hot
    predictions of different classes have the value :math:`2 / c`. Where both agree exactly the gradient is 0.

    Shapes:
        - `predictions1`, `predictions2`: :math:`(m, c)` or :math:`(m, c, d_1, ..)`
        - output: scalar in :math:`[0, 2 / c]`

    Args:
        predictions1: probabilities of the first classifier, the softmax of its logits.
        predictions2: probabilities of the second one for the same samples.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, differing shapes or devices, and what cannot be probabilities.

    References:
        K. Saito, K. Watanabe, Y. Ushiku, T. Harada: Maximum Classifier Discrepancy for Unsupervised Domain Adaptation.
        CVPR 2018. https://arxiv.org/abs/1712.02560

    Example:
        >>> import torch
        >>> from adaption.functional import classifier_discrepancy
        >>> classifier_discrepancy(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]]))
        tensor(0.7000)
    """
    return _reduction.value("mean", *_discrepancy_statistics(predictions1, predictions2))


@full_precision
def _discrepancy_statistics(predictions1: Tensor, predictions2: Tensor) -> Statistics:
    _checks.probabilities("predictions1", predictions1)
    _checks.probabilities("predictions2", predictions2)
    _checks.same_shape("predictions1", predictions1, "predictions2", predictions2)
    return _reduction.statistics("mean", (predictions1 - predictions2).abs())


def marginal_entropy(predictions: Tensor) -> Tensor:
    r"""Cross entropy between the uniform distribution and the mean prediction: small if classes are balanced.

    .. math:: H = -\frac1c \sum_{k=1}^c \log \Bigl( \frac1m \sum_{j=1}^m p_{jk} \Bigr)

    with the probabilities `p` of `c` classes for `m` samples. The mean over the samples is inside the logarithm: single
    predictions may be certain, but their mean should not favour a class. The smallest value, :math:`\log c`, is that of
    a uniform mean. The mean of a class that is never predicted counts as float32's smallest normal number: with `c`
    classes it adds :math:`87.3 / c`.

    Shapes:
        - `predictions`: :math:`(m, c)` or :math:`(m, c, d_1, ..)`
        - output: scalar in :math:`[\log c, 87.4)`

    Args:
        predictions: probabilities, the softmax of a classifier's logits.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty batch, and what cannot be probabilities.

    References:
        K. Saito, K. Watanabe, Y. Ushiku, T. Harada: Maximum Classifier Discrepancy for Unsupervised Domain Adaptation.
        CVPR 2018, the authors' code. https://github.com/mil-tokyo/MCD_DA

    Example:
        >>> import torch
        >>> from adaption.functional import marginal_entropy
        >>> marginal_entropy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # the classes are balanced: log 2
        tensor(0.6931)
    """
    return _marginal_entropy(*_marginal_statistics(predictions))


@full_precision
def _marginal_statistics(predictions: Tensor) -> Statistics:
    _checks.probabilities("predictions", predictions)
    by_class = predictions.transpose(0, 1).flatten(1)  # (c, m * d1 * ..)
    return by_class.sum(1), by_class.shape[1]


def _marginal_entropy(totals: Any, number: Any) -> Tensor:
    return -log_probability(totals / number).mean()


class ClassifierDiscrepancyLoss(AdditiveMetric):
    r"""Classifier discrepancy of MCD: two classifiers maximise it on the target, the feature extractor minimises it.

    Both classifiers fit the source. When they maximise the loss on the target, they disagree where target samples lie
    outside the support of the source; the feature extractor then moves those inside. The loss does not reverse any
    sign: subtract it in the step of the classifiers, add it in the step of the features, as in the loop of the
    documentation.

    The formula is that of :func:`adaption.functional.classifier_discrepancy`. `compute` is exact over the epoch, over
    both kinds of steps if both use one object.

    Inputs of `update` and `forward`:
        - `predictions1`, `predictions2`: :math:`(m, c)` or :math:`(m, c, d_1, ..)`, probabilities of the target samples

    Output: scalar in :math:`[0, 2 / c]`.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.classifier_discrepancy`.

    References:
        K. Saito, K. Watanabe, Y. Ushiku, T. Harada: Maximum Classifier Discrepancy for Unsupervised Domain Adaptation.
        CVPR 2018. https://arxiv.org/abs/1712.02560

    Example:
        >>> import torch
        >>> from adaption import ClassifierDiscrepancyLoss
        >>> mcd = ClassifierDiscrepancyLoss()
        >>> logits1, logits2 = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> mcd(logits1.softmax(1), logits2.softmax(1))
        tensor(0.7616)
    """

    plot_lower_bound = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep_sums("difference", "num_entries")

    def update(self, predictions1: Tensor, predictions2: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(predictions1, predictions2))

    def _statistics(self, predictions1: Tensor, predictions2: Tensor) -> Statistics:
        return _discrepancy_statistics(predictions1, predictions2)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value("mean", *statistics)


class MarginalEntropyLoss(GlobalBatchMetric):
    r"""MCD's class balance term; minimising it makes a classifier predict all classes equally often.

    There is no adversary: classifiers and features minimise it, for each classifier separately. Without it, MCD's
    classifiers may agree by assigning every target sample to one class. Use it where the target's classes are about
    balanced, with a small weight (the authors: 0.01), and with batches large enough to hold every class.

    The formula is that of :func:`adaption.functional.marginal_entropy`. The entropy is that of a mean prediction, so
    `compute` is the exact value for the mean over the whole epoch, not a mean of batch values, which are larger.

    Inputs of `update` and `forward`:
        - `predictions`: :math:`(m, c)` or :math:`(m, c, d_1, ..)`, probabilities

    Output: scalar, at least :math:`\log c`.

    Args:
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: as :func:`adaption.functional.marginal_entropy`, and where the number of classes differs from that
            of the batches before.

    References:
        K. Saito, K. Watanabe, Y. Ushiku, T. Harada: Maximum Classifier Discrepancy for Unsupervised Domain Adaptation.
        CVPR 2018, the authors' code. https://github.com/mil-tokyo/MCD_DA

    Example:
        Each batch has samples of one class only, the epoch is balanced.

        >>> import torch
        >>> from adaption import MarginalEntropyLoss
        >>> balance = MarginalEntropyLoss()
        >>> balance(torch.tensor([[1.0, 0.0]])), balance(torch.tensor([[0.0, 1.0]]))
        (tensor(43.6683), tensor(43.6683))
        >>> balance.compute()
        tensor(0.6931, dtype=torch.float64)
    """

    class_totals: Tensor

    def __init__(self, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self._keep_vectors("class_totals")
        self._keep_sums("num_samples")

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The logarithm of the number of classes; 0 while it is unknown."""
        return math.log(self.class_totals.numel())

    def update(self, predictions: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(predictions))

    def _statistics(self, predictions: Tensor) -> Statistics:
        (predictions,) = self._global_batch(predictions=predictions)
        totals, number = _marginal_statistics(predictions)
        if self.class_totals.ndim:
            _checks.classes_of_before("predictions", predictions, len(self.class_totals))
        return totals, number

    def _value(self, *statistics: Any) -> Tensor:
        return _marginal_entropy(*statistics)
