"""RegDA: keypoint heads disagree by confusing joints, and the features make them agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from adaption import _checks, _reduction
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision

Generator = Callable[[Tensor], tuple[Tensor, Tensor]]
Criterion = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_MODES = ("min", "max")


@full_precision
def regression_disparity(
    output: Tensor,
    output_adv: Tensor,
    weight: Tensor | None = None,
    mode: str = "min",
    *,
    pseudo_label_generator: Generator,
    criterion: Criterion,
) -> Tensor:
    r"""Distance of the adversarial heatmaps to the main head's joint, or to its other joints.

    .. math:: D_{\min} = \ell(\tilde y, T(y), w), \qquad D_{\max} = \ell(\tilde y, F(y), w)

    with the heatmaps `y` of the main head, held constant in the differentiation, and :math:`\tilde y` of the
    adversarial head, a Gaussian :math:`T(y)` around the largest pixel of each heatmap ("ground truth"), the Gaussians
    :math:`F(y)` of all other joints of the same sample ("ground false"), the criterion :math:`\ell`, and weights `w`.

    Shapes:
        - `output`, `output_adv`: :math:`(n, k, H, W)` for `k` joints
        - `weight`: what the criterion takes, :math:`(n, k)`
        - output: that of the criterion

    Args:
        output: heatmaps of the main head.
        output_adv: heatmaps of the adversarial head for the same samples.
        weight: passed to the criterion, which handles weights and reduction.
        mode: ``"min"``: distance to the ground truth; ``"max"``: distance to the ground false. Minimising the latter
            makes the heads disagree, at places where a joint could plausibly be mistaken to be.
        pseudo_label_generator: from heatmaps to ground truth and ground false, such as
            :class:`adaption.layers.PseudoLabelGenerator2d`.
        criterion: called as ``criterion(output_adv, heatmap, weight)``, such as :class:`adaption.layers.JointsKLLoss`.

    Raises:
        TypeError: for anything but floating-point tensors, and a generator or criterion that cannot be called.
        ValueError: for empty batches, heads whose shapes differ, an unknown mode, and errors of generator and
            criterion.

    References:
        J. Jiang, Y. Ji, X. Wang, Y. Liu, J. Wang, M. Long: Regressive Domain Adaptation for Unsupervised Keypoint
        Detection. CVPR 2021. https://arxiv.org/abs/2103.06175

    Example:
        >>> import torch
        >>> from adaption.functional import regression_disparity
        >>> from adaption.layers import JointsKLLoss, PseudoLabelGenerator2d
        >>> settings = {"pseudo_label_generator": PseudoLabelGenerator2d(3, 16, 16), "criterion": JointsKLLoss()}
        >>> main, adversarial = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
        >>> regression_disparity(main, adversarial, mode="max", **settings) > 0
        tensor(True)
    """
    _check_modules(pseudo_label_generator, criterion)
    _checks.option("mode", mode, _MODES)
    _checks.batch("output", output)
    _checks.batch("output_adv", output_adv)
    _checks.same_shape("output", output, "output_adv", output_adv)
    labels = pseudo_label_generator(output.detach())
    if not isinstance(labels, (tuple, list)) or len(labels) != 2:
        msg = (
            "`pseudo_label_generator` must return a pair, ground truth and ground false, but returned "
            f"{type(labels).__name__}. Pass a generator such as PseudoLabelGenerator2d."
        )
        raise TypeError(msg)
    ground_truth, ground_false = labels
    value = criterion(output_adv, ground_truth if mode == "min" else ground_false, weight)
    _checks.tensor("criterion(..)", value)
    return value


def _check_modules(pseudo_label_generator: object, criterion: object) -> None:
    _checks.function("pseudo_label_generator", pseudo_label_generator)
    _checks.function("criterion", criterion)


class RegressionDisparity(AdditiveMetric):
    r"""Regression disparity of RegDA: every step minimises it, towards the heatmaps given by ``mode``.

    The adversarial head minimises the distance to the main head's joints on the source (``mode="min"``) and to wrong
    joints on the target (``mode="max"``); the features minimise the distance to the right joints on the target
    (``mode="min"``). All three steps minimise a positive value: the choice of heatmap replaces the reversal of the
    sign. Use a separate object for each of the three.

    The formula is that of :func:`adaption.functional.regression_disparity`. `compute` follows the criterion's
    ``reduction``: for ``"mean"``, also if it has no such attribute, the mean of the batch values, each weighted by its
    number of samples; for ``"sum"`` their sum; for ``"none"`` all values.

    Inputs of `update` and `forward`:
        - `output`, `output_adv`: :math:`(n, k, H, W)`, heatmaps of the main and the adversarial head for `k` joints
        - `weight`: what the criterion takes, :math:`(n, k)`, optional; `mode`: ``"min"`` or ``"max"``

    Output: that of the criterion.

    Args:
        pseudo_label_generator: from heatmaps to ground truth and ground false, such as
            :class:`adaption.layers.PseudoLabelGenerator2d`.
        criterion: called as ``criterion(output_adv, heatmap, weight)``, such as :class:`adaption.layers.JointsKLLoss`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and a generator or criterion that cannot be called.
        ValueError: as :func:`adaption.functional.regression_disparity`, and for a criterion that does not return a
            scalar although its ``reduction`` is not ``"none"``.

    References:
        J. Jiang, Y. Ji, X. Wang, Y. Liu, J. Wang, M. Long: Regressive Domain Adaptation for Unsupervised Keypoint
        Detection. CVPR 2021. https://arxiv.org/abs/2103.06175

    Example:
        >>> import torch
        >>> from adaption import RegressionDisparity
        >>> from adaption.layers import JointsKLLoss, PseudoLabelGenerator2d
        >>> disparity = RegressionDisparity(PseudoLabelGenerator2d(3, 16, 16), JointsKLLoss())
        >>> main, adversarial = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16, requires_grad=True)
        >>> disparity(main, adversarial, mode="max").backward()
        >>> disparity.compute() > 0
        tensor(True)
    """

    plot_lower_bound = 0.0

    def __init__(self, pseudo_label_generator: Generator, criterion: Criterion, **kwargs: Any) -> None:
        _check_modules(pseudo_label_generator, criterion)
        reduction = getattr(criterion, "reduction", "mean")
        _reduction.check(reduction)
        super().__init__(**kwargs)
        self.pseudo_label_generator = pseudo_label_generator
        self.criterion = criterion
        self.reduction = reduction
        if reduction == "none":
            self._keep_samples("values")
        else:
            self._keep_sums("disparity", "num_samples")

    def update(self, output: Tensor, output_adv: Tensor, weight: Tensor | None = None, mode: str = "min") -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(output, output_adv, weight, mode))

    def _statistics(
        self, output: Tensor, output_adv: Tensor, weight: Tensor | None = None, mode: str = "min"
    ) -> Statistics:
        modules: dict[str, Any] = {
            "pseudo_label_generator": self.pseudo_label_generator,
            "criterion": self.criterion,
        }
        value = regression_disparity(output, output_adv, weight, mode, **modules)
        if self.reduction == "none":
            return (value,)
        if value.ndim:
            msg = (
                '`criterion` must return a scalar unless its `reduction` is "none", but returned shape '
                f"{_checks.shape(value)}. Take the mean in it, or give it that attribute."
            )
            raise ValueError(msg)
        return value * (len(output) if self.reduction == "mean" else 1), len(output)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value(self.reduction, *statistics)
