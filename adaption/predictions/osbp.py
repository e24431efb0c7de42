"""OSBP: a classifier with an additional class for samples unlike the source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption import _checks, _reduction
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision, log_odds


def unknown_class_binary_cross_entropy(target_logits: Tensor, t: float = 0.5) -> Tensor:
    r"""Binary cross entropy between the probability of the unknown class and `t`.

    .. math:: L = -\frac1m \sum_j t \log p_j + (1 - t) \log(1 - p_j), \qquad
              p_j = \frac{\exp z_{j,c+1}}{\sum_k \exp z_{jk}}

    with the logits `z` of `m` target samples for `c` known classes and, in the last column, the unknown one. It is
    computed from the logit of "unknown" against all known classes, :math:`z_{j,c+1} - \log \sum_{k \le c} \exp z_{jk}`:
    exact for certain classifiers too, and with a gradient that does not vanish. The smallest value, at :math:`p_j = t`,
    is the entropy of `t`: :math:`\log 2` for one half.

    Shapes:
        - `target_logits`: :math:`(m, c + 1)`; output: scalar

    Args:
        target_logits: the classifier's output for the target batch before the softmax, the unknown class last.
        t: the boundary between known and unknown, in :math:`[0, 1]`; 0.5 in the paper.

    Raises:
        TypeError: for anything but a floating-point tensor, and a `t` that is not a number.
        ValueError: for an empty batch, a shape other than :math:`(m, c + 1)`, probabilities, and `t` outside 0 to 1.

    References:
        K. Saito, S. Yamamoto, Y. Ushiku, T. Harada: Open Set Domain Adaptation by Backpropagation. ECCV 2018.
        https://arxiv.org/abs/1804.10427

    Example:
        >>> import torch
        >>> from adaption.functional import unknown_class_binary_cross_entropy
        >>> unknown_class_binary_cross_entropy(torch.tensor([[0.0, 0.0, 0.6931]]))  # p = 2 / 4
        tensor(0.6931)
    """
    return _reduction.value("mean", *_statistics(target_logits, t))


@full_precision
def _statistics(target_logits: Tensor, t: float) -> Statistics:
    _checks.number("t", t, at_least=0, at_most=1)
    _checks.flat_logits("target_logits", target_logits, "C + 1")
    odds = log_odds(target_logits[:, -1], target_logits[:, :-1])
    losses = F.binary_cross_entropy_with_logits(odds, torch.full_like(odds, t), reduction="none")
    return _reduction.statistics("mean", losses)


class UnknownClassBinaryCrossEntropy(AdditiveMetric):
    r"""OSBP's loss for open-set adaptation: the classifier minimises it, the feature extractor maximises it.

    The target has classes that the source lacks. The classifier has one more output, "unknown", and learns to give it
    the probability `t` for every target sample. The feature extractor, with a gradient reversal, moves that probability
    away from `t`: towards 0 for samples like the source's, towards 1 for others. Put the reversal between features and
    classifier, for the target batch; do not subtract the loss.

    The formula is that of :func:`adaption.functional.unknown_class_binary_cross_entropy`. `compute` is exact over the
    epoch.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, c + 1)`, the unknown class last

    Output: scalar, at least the entropy of `t`.

    Args:
        t: the boundary between known and unknown, in :math:`[0, 1]`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor, and a `t` that is not a number.
        ValueError: as :func:`adaption.functional.unknown_class_binary_cross_entropy`.

    References:
        K. Saito, S. Yamamoto, Y. Ushiku, T. Harada: Open Set Domain Adaptation by Backpropagation. ECCV 2018.
        https://arxiv.org/abs/1804.10427

    Example:
        >>> import torch
        >>> from adaption import UnknownClassBinaryCrossEntropy
        >>> from adaption.functional import gradient_reversal
        >>> osbp, classifier = UnknownClassBinaryCrossEntropy(), torch.nn.Linear(8, 5 + 1)
        >>> features = torch.randn(4, 8, requires_grad=True)
        >>> osbp(classifier(gradient_reversal(features))).backward()
    """

    higher_is_better = None  # of a game, neither: the features raise what the classifier lowers

    def __init__(self, t: float = 0.5, **kwargs: Any) -> None:
        _checks.number("t", t, at_least=0, at_most=1)
        super().__init__(**kwargs)
        self.t = t
        self._keep_sums("target_loss", "num_target")

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The entropy of `t`."""
        return float(torch.special.entr(torch.tensor([self.t, 1 - self.t], dtype=torch.float64)).sum())

    def update(self, target_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        return _statistics(target_logits, self.t)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value("mean", *statistics)
