"""MCC: reduces the confusion between classes in the predictions on the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import Shortcut, Values
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption.predictions._entropy import through_softmax

# A sum below this over a batch is the rounding of an absent class, which would be 0 / 0. It is the same in every dtype,
# so that the values of a batch and of an epoch agree.
_ABSENT = torch.finfo(torch.float32).tiny


def minimum_class_confusion(target_logits: Tensor, temperature: float = 2.5) -> Tensor:
    r"""How much a classifier confuses its predicted classes with each other.

    .. math::
        L = 1 - \frac1C \sum_{k=1}^C \frac{\sum_i w_i \, p_{ik}^2}{\sum_i w_i \, p_{ik}}, \qquad
        p_i = \mathrm{softmax}(z_i / T), \qquad w_i = 1 + e^{-H(p_i)}

    with the logits `z` of `m` target samples for `C` classes, the temperature `T`, and the entropy `H`. It is the
    paper's mean of the off-diagonal entries of the class confusion matrix :math:`p^\top \mathrm{diag}(w) \, p`, each
    row divided by its sum: the sum of row `k` is :math:`\sum_i w_i p_{ik}`, so only its diagonal is needed. The
    weights, by which certain samples count up to twice as much as uncertain ones, are held constant in the
    differentiation.

    Balanced certain predictions give 0. Uniform predictions give :math:`1 - 1 / C`, and so does one class for all
    samples, because all others have no samples: the loss penalises a collapse. A single sample gives :math:`1 - 1 / C`
    whatever its prediction, with a gradient of 0.

    Shapes:
        - `target_logits`: :math:`(m, C)`; output: scalar in :math:`[0, 1 - 1 / C]`

    Args:
        target_logits: the classifier's logits for the target samples.
        temperature: `T`. Above 1 it also reveals the confusion in overconfident predictions.

    Raises:
        TypeError: for anything but a floating-point tensor and a number.
        ValueError: for an empty tensor, a wrong rank, fewer than two classes, probabilities, and a temperature that is
            not finite and at least 1.2e-38, float32's smallest normal number.

    References:
        Y. Jin, X. Wang, M. Long, J. Wang: Minimum Class Confusion for Versatile Domain Adaptation. ECCV 2020.
        https://arxiv.org/abs/1912.03699

    Example:
        Two samples, with probabilities 0.9 and 0.1, and 0.1 and 0.9: 2 · 0.9 · 0.1.

        >>> import torch
        >>> from adaption.functional import minimum_class_confusion
        >>> minimum_class_confusion(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log(), temperature=1.0)
        tensor(0.1800)
    """
    _checks.positive("temperature", temperature)
    return _value(*_statistics(target_logits, temperature))


@full_precision
def _statistics(target_logits: Tensor, temperature: float) -> Statistics:
    _checks.flat_logits("target_logits", target_logits)
    return _class_sums(target_logits, temperature=temperature)


def _formula(logits: Tensor, temperature: float) -> Values:
    """The sums over samples of ``w p^2`` and of ``w p``, each of shape ``(C,)``."""
    # divided first, large logits would lose the digits in which they differ, or become infinite
    shifted = logits - logits.detach().amax(1, keepdim=True)
    p = (shifted / temperature).softmax(1)
    certain = p.detach()
    weights = 1 + torch.xlogy(certain, certain).sum(1, keepdim=True).exp()  # (m, 1)
    weighted = weights * p
    return (weighted * p).sum(0), weighted.sum(0)


def _evaluate(logits: Tensor, temperature: float) -> tuple[Values, Values]:
    log_p = torch.sub(logits, logits.amax(1, keepdim=True)).div_(temperature).log_softmax(1)
    p = log_p.exp()
    # a class with a logit of minus infinity adds nothing to the entropy
    weights = log_p.clamp_(min=torch.finfo(p.dtype).min).mul_(p).sum(1, keepdim=True).exp_().add_(1)
    weighted = weights * p
    return ((weighted * p).sum(0), weighted.sum(0)), (p, weights)


def _gradient(notes: Values, outer: Values, temperature: float) -> Values:
    (p, weights), (of_squares, of_totals) = notes, outer
    return (through_softmax(p, torch.addcmul(of_totals, p, of_squares, value=2)).mul_(weights / temperature),)


_class_sums = Shortcut(_formula, _evaluate, _gradient)


def _value(squares: Tensor, totals: Tensor) -> Tensor:
    return 1 - (squares / totals.clamp(min=_ABSENT)).mean()


class MinimumClassConfusionLoss(GlobalBatchMetric):
    r"""Minimum class confusion: the network minimises it on the target, and confuses fewer classes.

    There is no adversary, and no domains are aligned: classifier and features minimise it together with the task loss
    on the source. Without training, it is a score of a network on the target that needs no labels: the smaller the
    better.

    The formula is that of :func:`adaption.functional.minimum_class_confusion`. `compute` is the exact value of all
    samples of the epoch together, from two sums for each class, not a mean of batch values: those of small batches are
    larger, because they lack classes.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, C)`, before softmax

    Output: scalar in :math:`[0, 1 - 1 / C]`.

    Args:
        temperature: `T`; the authors take 2.5, and 3 for VisDA.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor and a number.
        ValueError: as :func:`adaption.functional.minimum_class_confusion`, and where the number of classes differs from
            that of the batches before.

    References:
        Y. Jin, X. Wang, M. Long, J. Wang: Minimum Class Confusion for Versatile Domain Adaptation. ECCV 2020.
        https://arxiv.org/abs/1912.03699

    Example:
        Each batch has samples of one class only, the epoch is balanced.

        >>> import torch
        >>> from adaption import MinimumClassConfusionLoss
        >>> confusion = MinimumClassConfusionLoss()
        >>> confusion(torch.tensor([[99.0, 0.0]])), confusion(torch.tensor([[0.0, 99.0]]))
        (tensor(0.5000), tensor(0.5000))
        >>> confusion.compute().float()
        tensor(0.)
    """

    plot_lower_bound = 0.0

    class_totals: Tensor

    def __init__(self, temperature: float = 2.5, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        _checks.positive("temperature", temperature)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.temperature = temperature
        self._keep_vectors("class_squares", "class_totals")

    def update(self, target_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        (target_logits,) = self._global_batch(target_logits=target_logits)
        statistics = _statistics(target_logits, self.temperature)
        if self.class_totals.ndim:
            _checks.classes_of_before("target_logits", target_logits, len(self.class_totals))
        return statistics

    def _value(self, *statistics: Any) -> Tensor:
        squares, totals = statistics
        return _value(squares, totals) if totals.ndim else totals / totals  # a scalar 0 before the first batch
