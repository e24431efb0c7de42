"""Soft neighborhood density: whether predictions lie in dense groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption import _checks
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption._states import sum_dtype

_ENTRIES = 2**22  # of the similarities that are held at once


class SoftNeighborhoodDensity(AdditiveMetric):
    r"""Soft neighborhood density: the larger, the more target samples have many neighbours with the same prediction.

    **A collapsed model gets the best value.** If all samples have the same prediction, all of them are neighbours, and
    the value is :math:`\log(m - 1)`, the largest possible. Compare only models that have not collapsed, which
    :class:`EnsembleAgreement` or the predicted classes show.

    .. math::
        \mathrm{SND} = -\frac1m \sum_i \sum_{j \ne i} P_{ij} \log P_{ij}, \qquad
        P_{ij} = \frac{\exp(s_{ij} / T)}{\sum_{l \ne i} \exp(s_{il} / T)}, \qquad
        s_{ij} = \frac{p_i^\top p_j}{|p_i| |p_j|}

    with the class probabilities :math:`p_i` of `m` target samples and the temperature `T`. The logits of the epoch are
    kept, in :math:`m C` numbers; `compute` is exact over all samples and ranks and needs :math:`m^2 C` operations, in
    blocks. It grows with the number of samples, so compare models on the same ones. A single sample has no neighbours,
    and the value is 0. The value has no gradient.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, C)`, before softmax

    Output: scalar in :math:`[0, \log(m - 1)]`; the larger, the better the model, if it has not collapsed.

    Args:
        temperature: `T`; the paper takes 0.05.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor and a number.
        ValueError: for an empty tensor, a wrong rank, fewer than two classes, probabilities instead of logits, a
            different number of classes than before, and a temperature that is not finite and at least 1.2e-38,
            float32's smallest normal number.

    References:
        K. Saito, D. Kim, P. Teterwak, S. Sclaroff, T. Darrell, K. Saenko: Tune it the Right Way: Unsupervised
        Validation of Domain Adaptation via Soft Neighborhood Density. ICCV 2021. https://arxiv.org/abs/2108.10860

    Example:
        Two groups of three: each sample has two neighbours at the smallest distance, and no other near.

        >>> import torch
        >>> from adaption import SoftNeighborhoodDensity
        >>> density = SoftNeighborhoodDensity()
        >>> density.update(torch.tensor([[20.0, 0.0], [20.0, 0.0], [20.0, 0.0]]))
        >>> density.update(torch.tensor([[0.0, 20.0], [0.0, 20.0], [0.0, 20.0]]))
        >>> density.compute()  # log 2
        tensor(0.6931, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(self, temperature: float = 0.05, **kwargs: Any) -> None:
        _checks.positive("temperature", temperature)
        super().__init__(**kwargs)
        self.temperature = temperature
        self._keep_samples("target_logits")

    def update(self, target_logits: Tensor) -> None:
        """Add a batch of the target to those that are compared."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        _checks.flat_logits("target_logits", target_logits)
        return (target_logits,)

    def _value(self, *statistics: Tensor) -> Tensor:
        (logits,) = statistics
        return _density(logits, self.temperature)


@full_precision
def _density(logits: Tensor, temperature: float) -> Tensor:
    number = len(logits)
    directions = F.normalize(logits.to(sum_dtype(logits.device)).softmax(1), dim=1)
    if number == 1:
        return directions.sum() * 0  # NaN stays
    total = directions.new_zeros(())
    for start in range(0, number, step := max(1, _ENTRIES // number)):
        block = directions[start : start + step]
        others = block @ directions.T
        own = others.diagonal(start)
        own.fill_(-torch.inf)  # a sample is not a neighbour of itself
        others = (others - others.amax(1, keepdim=True)) / temperature
        log_sum = others.logsumexp(1)
        shares = others.softmax(1)
        others.diagonal(start).zero_()  # its share is 0, and 0 times infinity would not be
        total += (log_sum - (shares * others).sum(1)).sum()
    return total / number
