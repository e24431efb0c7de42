"""Entropy minimisation: makes each prediction on the target certain."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adaption import _checks, _reduction
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.predictions._entropy import each_entropy, total_entropy


def entropy_minimization(target_logits: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Mean entropy of predictions, in nats.

    .. math:: L = -\frac1m \sum_{i=1}^m \sum_{k=1}^C p_{ik} \log p_{ik}, \qquad p_i = \mathrm{softmax}(z_i)

    with the logits `z` of `C` classes for `m` target samples, or for all positions of dense predictions. Uniform
    predictions give :math:`\log C`, certain ones exactly 0, even if all are the same class.

    Shapes:
        - `target_logits`: :math:`(m, C)` or :math:`(m, C, d_1, ..)`
        - output: scalar in :math:`[0, \log C]`; with ``reduction="none"`` :math:`(m,)` or :math:`(m, d_1, ..)`

    Args:
        target_logits: the classifier's logits for the target samples.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty tensor, one without a class dimension, fewer than two classes, probabilities, and an
            unknown reduction.

    References:
        Y. Grandvalet, Y. Bengio: Semi-supervised Learning by Entropy Minimization. NIPS 2004.
        https://proceedings.neurips.cc/paper/2004/hash/96f2b50b5d3613adf9c27049b2a888c7-Abstract.html

    Example:
        >>> import torch
        >>> from adaption.functional import entropy_minimization
        >>> entropy_minimization(torch.tensor([[0.0, 0.0], [0.0, 200.0]]), reduction="none")
        tensor([0.6931, 0.0000])
    """
    return _reduction.value(reduction, *_statistics(target_logits, reduction))


@full_precision
def _statistics(target_logits: Tensor, reduction: str) -> Statistics:
    _reduction.check(reduction)
    _checks.logits("target_logits", target_logits)
    if reduction == "none":
        return each_entropy(target_logits)
    return total_entropy(target_logits)[0], target_logits.numel() // target_logits.shape[1]


class EntropyMinimizationLoss(AdditiveMetric):
    r"""Entropy minimisation: the network minimises it on the target, and boundaries move to regions with few samples.

    There is no adversary: classifier and features minimise it together with the task loss on the source, with a small
    weight. Alone, it is minimised by one class for all samples; :class:`InformationMaximizationLoss` is not. Without
    training, it is a score of a network that needs no labels, but does not detect such a collapse.

    The formula is that of :func:`adaption.functional.entropy_minimization`. `compute` is exact over the epoch.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, C)` or :math:`(m, C, d_1, ..)`, before softmax

    Output: scalar in :math:`[0, \log C]`; with ``reduction="none"`` one value per sample or position.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. ``"none"`` keeps every value of the epoch.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: as :func:`adaption.functional.entropy_minimization`.

    References:
        Y. Grandvalet, Y. Bengio: Semi-supervised Learning by Entropy Minimization. NIPS 2004.
        https://proceedings.neurips.cc/paper/2004/hash/96f2b50b5d3613adf9c27049b2a888c7-Abstract.html

    Example:
        >>> import torch
        >>> from adaption import EntropyMinimizationLoss
        >>> entropy = EntropyMinimizationLoss()
        >>> entropy(torch.zeros(3, 2)), entropy(torch.tensor([[0.0, 200.0]]))  # log 2, and certain
        (tensor(0.6931), tensor(0.))
        >>> entropy.compute().float()  # 3 / 4 of log 2
        tensor(0.5199)
    """

    plot_lower_bound = 0.0

    def __init__(self, reduction: str = "mean", **kwargs: Any) -> None:
        _reduction.check(reduction)
        super().__init__(**kwargs)
        self.reduction = reduction
        if reduction == "none":
            self._keep_samples("values")
        else:
            self._keep_sums("entropy", "num_samples")

    def update(self, target_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        return _statistics(target_logits, self.reduction)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value(self.reduction, *statistics)
