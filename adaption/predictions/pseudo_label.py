"""Pseudo labels: a network learns from confident predictions on the target."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from adaption import _checks, _reduction
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision

_WEIGHTINGS = ("mask", "share")


def pseudo_label_loss(
    logits: Tensor,
    teacher_logits: Tensor | None = None,
    *,
    threshold: float = 0.95,
    weighting: str = "mask",
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy with the confident labels of a teacher, or of the network itself.

    .. math::
        L = \frac1n \sum_{i=1}^n c_i \, \ell_i, \qquad
        \ell_i = -\log \mathrm{softmax}(z_i)_{y_i}, \qquad
        y_i = \arg\max_k q_{ik}, \qquad c_i = [\max_k q_{ik} \ge \tau]

    with the logits `z` of `n` samples, or of all positions of dense predictions, the teacher's probabilities `q`, and
    the threshold :math:`\tau`. The mean runs over all samples, and unconfident ones count 0: a few confident samples
    have a small effect. With ``weighting="share"`` all samples learn their label, and their mean is multiplied by the
    share of confident ones,

    .. math:: L = \Bigl( \frac1n \sum_i c_i \Bigr) \Bigl( \frac1n \sum_i \ell_i \Bigr).

    Labels and confidence are held constant in the differentiation. Where no sample is confident, value and gradient
    are 0.

    Shapes:
        - `logits`, `teacher_logits`: :math:`(n, C)` or :math:`(n, C, d_1, ..)`
        - output: scalar, at least 0; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        logits: the network's output, before softmax; for strongly augmented samples if there is a teacher.
        teacher_logits: the logits for the labels of the same samples: of the network on weakly augmented samples, or of
            an :class:`adaption.layers.EmaTeacher`. By default `logits`.
        threshold: :math:`\tau`, in :math:`[0, 1]`; a sample at the threshold is confident.
        weighting: ``"mask"`` as in FixMatch, or ``"share"`` as in DAFormer.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: for anything but floating-point tensors, and a threshold that is not a number.
        ValueError: for an empty tensor, one without a class dimension, fewer than two classes, probabilities, logits
            whose shapes or devices differ, a threshold outside 0 to 1, and unknown options.

    References:
        K. Sohn, D. Berthelot, C.-L. Li, et al.: FixMatch: Simplifying Semi-Supervised Learning with Consistency and
        Confidence. NeurIPS 2020. https://arxiv.org/abs/2001.07685

        L. Hoyer, D. Dai, L. Van Gool: DAFormer: Improving Network Architectures and Training Strategies for
        Domain-Adaptive Semantic Segmentation. CVPR 2022. https://arxiv.org/abs/2111.14887

    Example:
        The teacher is confident on the first sample only, and the mean runs over both.

        >>> import torch
        >>> from adaption.functional import pseudo_label_loss
        >>> student, teacher = torch.zeros(2, 2), torch.tensor([[9.0, 0.0], [0.1, 0.0]])
        >>> pseudo_label_loss(student, teacher)  # log 2 / 2
        tensor(0.3466)
    """
    return _value(weighting, reduction, *_statistics(logits, teacher_logits, threshold, weighting, reduction))


def _check_settings(threshold: float, weighting: str, reduction: str) -> None:
    _checks.number("threshold", threshold, at_least=0, at_most=1)
    _checks.option("weighting", weighting, _WEIGHTINGS)
    _reduction.check(reduction)


@full_precision
def _statistics(
    logits: Tensor, teacher_logits: Tensor | None, threshold: float, weighting: str, reduction: str
) -> Statistics:
    """The losses, or their sum, the number of confident samples, and the number of all."""
    _check_settings(threshold, weighting, reduction)
    _checks.logits("logits", logits)
    if teacher_logits is not None:
        _checks.logits("teacher_logits", teacher_logits)
        _checks.same_shape("logits", logits, "teacher_logits", teacher_logits)
    teacher = (logits if teacher_logits is None else teacher_logits).detach()
    confidence, labels = teacher.softmax(1).max(1)
    confident = (confidence >= threshold) + 0 * confidence  # a comparison alone would swallow NaN
    losses = F.cross_entropy(logits, labels, reduction="none")
    if weighting == "mask":
        losses = losses * confident
    elif reduction == "none":
        losses = losses * confident.mean()
    return losses if reduction == "none" else losses.sum(), confident.sum(), losses.numel()


def _value(weighting: str, reduction: str, losses: Any, num_confident: Any, num_samples: Any) -> Tensor:
    value: Tensor = losses
    if reduction != "none" and weighting == "share":
        value = value * (num_confident / num_samples)
    return _reduction.value(reduction, value, num_samples)


class PseudoLabelLoss(AdditiveMetric):
    r"""Pseudo-label loss: the network learns its own or its teacher's confident predictions on the target.

    There is no adversary: the network minimises it together with the task loss on the source. Usually there are two
    views of the same target samples: labels come from the weakly augmented one, or from a teacher, and the network
    learns them on the strongly augmented one. Wrong labels are learned too, so watch `confident_share`: a share that
    jumps to 1 in the first epochs is a collapse more often than a success.

    The formula is that of :func:`adaption.functional.pseudo_label_loss`. `compute` is exact over the epoch: the share
    of ``weighting="share"`` is that of all samples, except with ``reduction="none"``, where it is the batch's.

    Inputs of `update` and `forward`:
        - `logits`: :math:`(n, C)` or :math:`(n, C, d_1, ..)`, before softmax
        - `teacher_logits`: of the same shape, optional; by default `logits`

    Output: scalar, at least 0; with ``reduction="none"`` one value per sample or position.

    Args:
        threshold: :math:`\tau`; a sample whose largest probability is at least this is confident.
        weighting: ``"mask"``, confident samples alone, or ``"share"``, all samples times the share of confident ones.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. ``"none"`` keeps every value of the epoch.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and a threshold that is not a number.
        ValueError: as :func:`adaption.functional.pseudo_label_loss`.

    References:
        K. Sohn, D. Berthelot, C.-L. Li, et al.: FixMatch: Simplifying Semi-Supervised Learning with Consistency and
        Confidence. NeurIPS 2020. https://arxiv.org/abs/2001.07685

        L. Hoyer, D. Dai, L. Van Gool: DAFormer: Improving Network Architectures and Training Strategies for
        Domain-Adaptive Semantic Segmentation. CVPR 2022. https://arxiv.org/abs/2111.14887

    Example:
        >>> import torch
        >>> from adaption import PseudoLabelLoss
        >>> pseudo_label = PseudoLabelLoss(threshold=0.9)
        >>> student, teacher = torch.zeros(2, 2), torch.tensor([[9.0, 0.0], [0.1, 0.0]])
        >>> pseudo_label(student, teacher)
        tensor(0.3466)
        >>> pseudo_label.confident_share
        tensor(0.5000, dtype=torch.float64)
    """

    plot_lower_bound = 0.0

    num_confident: Tensor
    num_samples: Tensor

    def __init__(
        self, threshold: float = 0.95, *, weighting: str = "mask", reduction: str = "mean", **kwargs: Any
    ) -> None:
        _check_settings(threshold, weighting, reduction)
        super().__init__(**kwargs)
        self.threshold = threshold
        self.weighting = weighting
        self.reduction = reduction
        (self._keep_samples if reduction == "none" else self._keep_sums)("losses")
        self._keep_sums("num_confident", "num_samples")

    @property
    def confident_share(self) -> Tensor:
        """The share of confident samples in the epoch, over all ranks as `compute`; NaN before the first batch."""
        return self._of_all_ranks(lambda: self.num_confident / self.num_samples)

    def update(self, logits: Tensor, teacher_logits: Tensor | None = None) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(logits, teacher_logits))

    def _statistics(self, logits: Tensor, teacher_logits: Tensor | None = None) -> Statistics:
        return _statistics(logits, teacher_logits, self.threshold, self.weighting, self.reduction)

    def _value(self, *statistics: Any) -> Tensor:
        return _value(self.weighting, self.reduction, *statistics)
