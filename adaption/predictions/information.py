"""Information maximisation: predictions on the target are certain, and diverse over all samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import Shortcut, Values
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._precision import full_precision, log_probability
from adaption.predictions._entropy import entropy_and_classes


def information_maximization(target_logits: Tensor, diversity_weight: float = 1.0) -> Tensor:
    r"""Mean entropy of predictions, minus the entropy of their mean.

    .. math::
        L = \frac1m \sum_{i=1}^m H(p_i) - w \, H \Bigl( \frac1m \sum_{i=1}^m p_i \Bigr), \qquad
        H(p) = -\sum_{k=1}^C p_k \log p_k, \qquad p_i = \mathrm{softmax}(z_i)

    with the logits `z` of `C` classes for `m` target samples, or for all positions of dense predictions, and the weight
    `w` of the diversity. At :math:`w = 1` it is the negative mutual information, in nats, between a sample and its
    predicted class: :math:`-\log C` where predictions are certain and classes balanced, 0 where all predictions are
    equal, whether one class or uniform. A single sample gives 0 too, with a gradient of 0.

    Shapes:
        - `target_logits`: :math:`(m, C)` or :math:`(m, C, d_1, ..)`
        - output: scalar, at least :math:`-w \log C`; at most 0 for :math:`w \ge 1`

    Args:
        target_logits: the classifier's logits for the target samples.
        diversity_weight: `w`, at least 0. At 0 it is the mean entropy alone.

    Raises:
        TypeError: for anything but a floating-point tensor and a number.
        ValueError: for an empty tensor, one without a class dimension, fewer than two classes, probabilities, and a
            weight that is negative or not finite.

    References:
        J. Liang, D. Hu, J. Feng: Do We Really Need to Access the Source Data? Source Hypothesis Transfer for
        Unsupervised Domain Adaptation. ICML 2020. https://proceedings.mlr.press/v119/liang20a.html

    Example:
        >>> import torch
        >>> from adaption.functional import information_maximization
        >>> information_maximization(torch.tensor([[0.0, 200.0], [200.0, 0.0]]))  # balanced: -log 2
        tensor(-0.6931)
    """
    _check_weight(diversity_weight)
    return _value(diversity_weight, *_statistics(target_logits))


def _check_weight(diversity_weight: float) -> None:
    _checks.number("diversity_weight", diversity_weight, at_least=0)


@full_precision
def _statistics(target_logits: Tensor) -> Statistics:
    _checks.logits("target_logits", target_logits)
    return *entropy_and_classes(target_logits), target_logits.numel() // target_logits.shape[1]


def _value(weight: float, total_entropy: Any, totals: Any, number: Any) -> Tensor:
    return _difference_of_entropies(total_entropy, totals, number=number, weight=weight)[0]


def _formula(total_entropy: Tensor, totals: Tensor, number: Any, weight: float) -> Values:
    """The mean entropy, less the weighted entropy of the mean."""
    mean = totals / number
    # less the sum of `mean`, which is constant, for the reason of `entropies_and_probabilities`
    products = mean * log_probability(mean) - mean + mean.detach()
    return (torch.add(total_entropy / number, products.sum(), alpha=weight),)


def _evaluate(total_entropy: Tensor, totals: Tensor, number: Any, weight: float) -> tuple[Values, Values]:
    log_mean = log_probability(totals / number)
    total = torch.add(total_entropy, (totals * log_mean).sum(), alpha=weight)
    return (total / number,), (log_mean,)


def _gradients(notes: Values, outer: Values, number: Any, weight: float) -> Values:
    of_total = outer[0] / number
    return of_total, notes[0] * (weight * of_total)


_difference_of_entropies = Shortcut(_formula, _evaluate, _gradients)


class InformationMaximizationLoss(GlobalBatchMetric):
    r"""Information maximisation: minimising it on the target makes predictions certain and uses all classes.

    There is no adversary: features, and the classifier if it is trained, minimise it. The first term is that of
    :class:`EntropyMinimizationLoss`, the second prevents a collapse to one class. Without training, it is a score of a
    network that needs no labels: the smaller the better, and 0 for a collapse.

    The formula is that of :func:`adaption.functional.information_maximization`. The second entropy is that of a mean
    prediction, so `compute` is the exact value for the mean over the whole epoch, not a mean of batch values: in a
    small batch the classes are never quite balanced.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, C)` or :math:`(m, C, d_1, ..)`, before softmax

    Output: scalar, at least :math:`-w \log C`.

    Args:
        diversity_weight: `w`. Less than 1 where the target's classes are far from balanced.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor and a number.
        ValueError: as :func:`adaption.functional.information_maximization`, and where the number of classes differs
            from that of the batches before.

    References:
        J. Liang, D. Hu, J. Feng: Do We Really Need to Access the Source Data? Source Hypothesis Transfer for
        Unsupervised Domain Adaptation. ICML 2020. https://proceedings.mlr.press/v119/liang20a.html

    Example:
        Each batch has samples of one class only, the epoch is balanced.

        >>> import torch
        >>> from adaption import InformationMaximizationLoss
        >>> information = InformationMaximizationLoss()
        >>> information(torch.tensor([[200.0, 0.0]])), information(torch.tensor([[0.0, 200.0]]))
        (tensor(0.), tensor(0.))
        >>> information.compute().float()  # -log 2
        tensor(-0.6931)
    """

    class_totals: Tensor

    def __init__(self, diversity_weight: float = 1.0, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        _check_weight(diversity_weight)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.diversity_weight = diversity_weight
        self._keep_sums("entropy")
        self._keep_vectors("class_totals")
        self._keep_sums("num_samples")

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The value of certain and balanced predictions; 0 while the number of classes is unknown."""
        return -self.diversity_weight * math.log(self.class_totals.numel())

    def update(self, target_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        (target_logits,) = self._global_batch(target_logits=target_logits)
        statistics = _statistics(target_logits)
        if self.class_totals.ndim:
            _checks.classes_of_before("target_logits", target_logits, len(self.class_totals))
        return statistics

    def _value(self, *statistics: Any) -> Tensor:
        return _value(self.diversity_weight, *statistics)
