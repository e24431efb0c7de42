"""DANCE: predictions on the target become either certain or uncertain."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adaption import _checks, _reduction
from adaption._closed_form import Shortcut, Values
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.predictions._entropy import entropies_and_probabilities, terms, through_softmax


def entropy_separation(target_logits: Tensor, *, margin: float = 0.5) -> Tensor:
    r"""Negative distance of the entropies of predictions from half of the largest one, where it exceeds a margin.

    .. math::
        L = -\frac1m \sum_{i=1}^m d_i \, [d_i > \mu], \qquad
        d_i = \lvert H(p_i) - \rho \rvert, \qquad \rho = \tfrac12 \log K, \qquad p_i = \mathrm{softmax}(z_i)

    with the logits `z` of the `K` classes of the source for `m` target samples, their entropies `H` in nats, and the
    margin :math:`\mu`. Beyond the margin the entropy of a sample moves further away, down to 0 or up to :math:`\log K`;
    a sample within it counts 0, with a gradient of 0. The mean runs over all samples.

    Shapes:
        - `target_logits`: :math:`(m, K)`
        - output: scalar in :math:`[-\tfrac12 \log K, 0]`; the smallest value for certain and for uniform predictions

    Args:
        target_logits: the logits of the classifier for the source's classes, for the target samples.
        margin: :math:`\mu`, at least 0 and below :math:`\rho`, the largest possible distance.

    Raises:
        TypeError: for anything but a floating-point tensor, and a margin that is not a number.
        ValueError: for an empty batch, a shape other than :math:`(m, K)`, fewer than two classes, probabilities, and a
            margin that is negative or not below :math:`\tfrac12 \log K`.

    References:
        K. Saito, D. Kim, S. Sclaroff, K. Saenko: Universal Domain Adaptation through Self-Supervision. NeurIPS 2020.
        https://arxiv.org/abs/2002.07953

    Example:
        Four classes; the entropy of the last sample, with two equally likely classes, is within the margin.

        >>> import torch
        >>> from adaption.functional import entropy_separation
        >>> certain, uniform, between = [200.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, -9.0, -9.0]
        >>> entropy_separation(torch.tensor([certain, uniform, between]))  # -(log 2 + log 2 + 0) / 3
        tensor(-0.4621)
    """
    return _reduction.value("mean", *_statistics(target_logits, margin))


def _half(num_classes: int) -> float:
    return math.log(num_classes) / 2


def _check_margin(margin: float, num_classes: int) -> None:
    _checks.number("margin", margin, at_least=0)
    half = _half(num_classes)
    if margin >= half:
        msg = (
            f"`margin` must be below log({num_classes}) / 2 = {half:.4g}, half of the largest entropy of {num_classes} "
            f"classes, because no entropy is farther from it, but got {margin!r}. Pass a smaller margin."
        )
        raise ValueError(msg)


@full_precision
def _statistics(target_logits: Tensor, margin: float) -> Statistics:
    _checks.flat_logits("target_logits", target_logits)
    _check_margin(margin, target_logits.shape[1])
    return _total(target_logits, margin=margin)[0], len(target_logits)


def _formula(logits: Tensor, margin: float) -> Values:
    distances = (entropies_and_probabilities(logits)[0] - _half(logits.shape[1])).abs()
    # asked this way round, a NaN is not within the margin
    return (torch.where(distances <= margin, 0.0, -distances).sum(),)


def _evaluate(logits: Tensor, margin: float) -> tuple[Values, Values]:
    products, p, log_p = terms(logits)
    offsets = -_half(logits.shape[1]) - products.sum(1, keepdim=True)
    signs = offsets.sign().masked_fill_(offsets.abs() <= margin, 0.0)
    return (0.0 - (signs * offsets).sum(),), (p, log_p, signs)


def _gradient(notes: Values, outer: Values, **_: float) -> Values:
    """That of an entropy, with a sign of its own for each sample."""
    (p, log_p, signs), (of_total,) = notes, outer
    return (through_softmax(p, log_p * signs) * of_total,)


_total = Shortcut(_formula, _evaluate, _gradient)


class EntropySeparationLoss(AdditiveMetric):
    r"""DANCE's entropy separation: each target sample becomes one of the known classes, or clearly none of them.

    The target may have classes that the source lacks, and may lack some of the source's. Samples of known classes have
    a small entropy, unknown ones a large one; this loss moves both away from the threshold
    :math:`\rho = \tfrac12 \log K`, except those close to it. There is no adversary: the network minimises it together
    with the task loss on the source, with a small weight. Afterwards a sample with an entropy above :math:`\rho` is
    called unknown. DANCE has a second term, which pulls each target sample to its neighbours; it is not part of this
    loss.

    The formula is that of :func:`adaption.functional.entropy_separation`. `compute` is exact over the epoch.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, K)`, before softmax, without an output for the unknown

    Output: scalar in :math:`[-\tfrac12 \log K, 0]`.

    Args:
        num_known_classes: `K`, the number of classes of the source, at least 2.
        margin: :math:`\mu`, how far an entropy must be from :math:`\rho` to be changed; it must be below :math:`\rho`,
            as the default is from three classes on.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor, an integer and a number.
        ValueError: as :func:`adaption.functional.entropy_separation`, and for logits of another number of classes.

    References:
        K. Saito, D. Kim, S. Sclaroff, K. Saenko: Universal Domain Adaptation through Self-Supervision. NeurIPS 2020.
        https://arxiv.org/abs/2002.07953

    Example:
        >>> import torch
        >>> from adaption import EntropySeparationLoss
        >>> dance = EntropySeparationLoss(num_known_classes=4)
        >>> dance(torch.tensor([[200.0, 0.0, 0.0, 0.0]])), dance(torch.tensor([[9.0, 9.0, -9.0, -9.0]]))
        (tensor(-0.6931), tensor(0.))
        >>> dance.compute()  # -log 2 / 2
        tensor(-0.3466, dtype=torch.float64)
    """

    plot_upper_bound = 0.0

    def __init__(self, num_known_classes: int, *, margin: float = 0.5, **kwargs: Any) -> None:
        _checks.count("num_known_classes", num_known_classes, at_least=2)
        _check_margin(margin, num_known_classes)
        super().__init__(**kwargs)
        self.num_known_classes = num_known_classes
        self.margin = margin
        self._keep_sums("separation", "num_target")

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The value of certain and of uniform predictions."""
        return -math.log(self.num_known_classes) / 2

    def update(self, target_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        statistics = _statistics(target_logits, self.margin)
        repair = "Give the classifier an output for each class of the source, and none for the unknown."
        _checks.columns("target_logits", target_logits, self.num_known_classes, "num_known_classes", repair)
        return statistics

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value("mean", *statistics)
