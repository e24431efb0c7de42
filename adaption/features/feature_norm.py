"""Adaptive feature norm: increases the norms of the features of both domains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.features.mmd import check_pair


def adaptive_feature_norm(
    source_features: Tensor, target_features: Tensor, step: float = 1.0, *, radius: float | None = None
) -> Tensor:
    r"""Squared distance of the features' norms from slightly larger ones, or of their means from a radius.

    .. math::
        \mathrm{SAFN} = \frac1n \sum_i (|s_i| - |s_i|_0 - \Delta)^2
                         + \frac1m \sum_j (|t_j| - |t_j|_0 - \Delta)^2, \qquad
        \mathrm{HAFN} = \Bigl(\frac1n \sum_i |s_i| - R\Bigr)^2 + \Bigl(\frac1m \sum_j |t_j| - R\Bigr)^2

    with source features `s`, target features `t`, and the norm :math:`|\cdot|_0` that is held constant in the
    differentiation. Without a radius `R` it is the first, stepwise form. Its value is always :math:`2 \Delta^2`; only
    its gradient matters, :math:`-2 \Delta / n` along each feature, which increases all norms by the same step. With a
    radius it is the second form.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - output: scalar, at least 0

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        step: :math:`\Delta`, by which norms should grow.
        radius: `R`, the target of both mean norms; it replaces the step.

    Raises:
        TypeError: for anything but floating-point tensors and numbers.
        ValueError: for empty batches, wrong ranks, differing widths or devices, a step that is not above 0 and a
            negative radius.

    References:
        R. Xu, G. Li, J. Yang, L. Lin: Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised
        Domain Adaptation. ICCV 2019. https://arxiv.org/abs/1811.07456

    Example:
        >>> import torch
        >>> from adaption.functional import adaptive_feature_norm
        >>> source, target = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
        >>> adaptive_feature_norm(source, target), adaptive_feature_norm(source, target, radius=6.0)  # 2, and 1 + 16
        (tensor(2.), tensor(17.))
    """
    check_settings(step, radius)
    return _value(step, radius, *_statistics(source_features, target_features))


def check_settings(step: float, radius: float | None) -> None:
    """Check step and radius."""
    _checks.positive("step", step)
    if radius is not None:
        _checks.number("radius", radius, at_least=0)


@full_precision
def _statistics(source_features: Tensor, target_features: Tensor) -> Statistics:
    """The sums of the norms, and the numbers of samples."""
    check_pair(source_features, target_features)
    source, target = (torch.linalg.vector_norm(rows, dim=1) for rows in (source_features, target_features))
    return source.sum(), len(source), target.sum(), len(target)


def _value(step: float, radius: float | None, *statistics: Any) -> Tensor:
    source, n, target, m = statistics
    value: Tensor
    if radius is None:
        # the norms of a domain are as far from their step as their mean is: 0, whose slope remains
        both = source / n + target / m
        value = 2 * step * (step - (both - both.detach()))
    else:
        value = (source / n - radius).square() + (target / m - radius).square()
    return value


class AdaptiveFeatureNormLoss(AdditiveMetric):
    r"""Adaptive feature norm (AFN, SAFN; with a radius HAFN); minimising it increases the norms of the features.

    A network trained on the source gives target samples features of smaller norm. The formula is that of
    :func:`adaption.functional.adaptive_feature_norm`. There is no adversary: the feature extractor minimises the value,
    with a small weight, together with the task loss. No sample is compared with another, so the target may lack classes
    of the source.

    `compute` is exact over all samples of the epoch. Without a radius it is :math:`2 \Delta^2` for any features, so
    watch `mean_norms`: those of source and target should approach each other.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: scalar, at least 0.

    Args:
        step: :math:`\Delta`, by which norms should grow.
        radius: `R`, the target of both mean norms; it replaces the step.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors and numbers.
        ValueError: as :func:`adaption.functional.adaptive_feature_norm`.

    References:
        R. Xu, G. Li, J. Yang, L. Lin: Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised
        Domain Adaptation. ICCV 2019. https://arxiv.org/abs/1811.07456

    Example:
        >>> import torch
        >>> from adaption import AdaptiveFeatureNormLoss
        >>> feature_norm = AdaptiveFeatureNormLoss()
        >>> source = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> loss = feature_norm(source, torch.tensor([[0.0, 2.0]]))
        >>> loss.backward()
        >>> loss.detach(), source.grad
        (tensor(2.), tensor([[-1.2000, -1.6000]]))
        >>> feature_norm.mean_norms
        tensor([5., 2.], dtype=torch.float64)
    """

    plot_lower_bound = 0.0

    source_norms: Tensor
    num_source: Tensor
    target_norms: Tensor
    num_target: Tensor

    def __init__(self, step: float = 1.0, *, radius: float | None = None, **kwargs: Any) -> None:
        check_settings(step, radius)
        super().__init__(**kwargs)
        self.step = step
        self.radius = radius
        self._keep_sums("source_norms", "num_source", "target_norms", "num_target")

    @property
    def mean_norms(self) -> Tensor:
        """The mean norms of source and target in the epoch, over all ranks as `compute`; NaN before the first batch."""
        return self._of_all_ranks(
            lambda: torch.stack([self.source_norms / self.num_source, self.target_norms / self.num_target])
        )

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, target_features))

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        return _statistics(source_features, target_features)

    def _value(self, *statistics: Any) -> Tensor:
        return _value(self.step, self.radius, *statistics)
