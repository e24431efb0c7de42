"""Domain accuracy and the proxy A-distance: how well a discriminator tells the domains apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption._metric import AdditiveMetric, Statistics
from adaption.adversarial import _discriminator


class DomainAccuracy(AdditiveMetric):
    r"""Balanced accuracy of a domain discriminator: the mean of its accuracies on source and target.

    .. math::
        a = \frac{a_s + a_t}2, \qquad a_s = \frac1n \sum_i [z^s_i \le 0], \qquad a_t = \frac1m \sum_j [z^t_j > 0]

    with the domain logits :math:`z^s` of `n` source and :math:`z^t` of `m` target samples, positive for "target". It is
    0.5 at chance, whatever the sizes of the domains, and 1 for a discriminator that is never wrong. Values below 0.5
    occur by chance on held-out samples, and in adversarial training after the features have changed.

    It depends on the discriminator as well as on the domains: a weak one finds no difference, and on its training
    samples it finds too large a difference. Use samples that it was not trained on.

    The standard error, from the same four counts, assumes independent samples:

    .. math:: \operatorname{se}(a) = \frac12 \sqrt{\frac{a_s (1 - a_s)}n + \frac{a_t (1 - a_t)}m}

    The value has no gradient, and `compute` is exact over batches and ranks.

    Inputs of `update` and `forward`:
        - `source_domain_logits`: :math:`(n, 1)` or :math:`(n,)`, or :math:`(n, 1, d_1, ..)` for dense outputs, where
          each position counts as a sample, and the standard error is too small if positions depend on each other
        - `target_domain_logits`: the same with `m`; `n` and `m` may differ

    Output: scalar in :math:`[0, 1]`. NaN among the logits gives NaN.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches and more than one logit per sample.

    References:
        D. Lopez-Paz, M. Oquab: Revisiting Classifier Two-Sample Tests. ICLR 2017. https://arxiv.org/abs/1610.06545

    Example:
        Two of four source samples and both target samples are classified correctly.

        >>> import torch
        >>> from adaption import DomainAccuracy
        >>> accuracy = DomainAccuracy()
        >>> accuracy.update(torch.tensor([-1.0, -2.0, 1.0, 3.0]), torch.tensor([2.0, 1.0]))
        >>> accuracy.compute(), accuracy.standard_error  # sqrt(0.25 / 4) / 2
        (tensor(0.7500, dtype=torch.float64), tensor(0.1250, dtype=torch.float64))
    """

    is_differentiable = False
    higher_is_better = None  # of a distance it is not said which is wanted
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    num_source_right: Tensor
    num_source: Tensor
    num_target_right: Tensor
    num_target: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep_sums("num_source_right", "num_source", "num_target_right", "num_target")

    @property
    def standard_error(self) -> Tensor:
        """The standard error of the epoch value, over all ranks as `compute`; NaN before the first batch."""
        return self._of_all_ranks(self._standard_error)

    def update(self, source_domain_logits: Tensor, target_domain_logits: Tensor) -> None:
        """Add a batch of either domain to the counts."""
        self._accumulate(self._statistics(source_domain_logits, target_domain_logits))

    def _statistics(self, source_domain_logits: Tensor, target_domain_logits: Tensor) -> Statistics:
        source = _discriminator.domain_logits("source_domain_logits", source_domain_logits)
        target = _discriminator.domain_logits("target_domain_logits", target_domain_logits)
        dtype = self.num_source.dtype
        return (
            _told(source, source <= 0, dtype).sum(),
            source.numel(),
            _told(target, target > 0, dtype).sum(),
            target.numel(),
        )

    def _value(self, *statistics: Any) -> Tensor:
        source, target = _rates(*statistics)
        return (source + target) / 2

    def _standard_error(self) -> Tensor:
        source, target = _rates(self.num_source_right, self.num_source, self.num_target_right, self.num_target)
        variance = source * (1 - source) / self.num_source + target * (1 - target) / self.num_target
        return variance.sqrt() / 2


def _told(logits: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where a domain is recognised, NaN for NaN, which a comparison would hide."""
    return torch.where(logits.isnan(), torch.nan, right.to(dtype))


def _rates(source_right: Tensor, num_source: Any, target_right: Tensor, num_target: Any) -> tuple[Tensor, Tensor]:
    return source_right / num_source, target_right / num_target


class ProxyADistance(DomainAccuracy):
    r"""Proxy A-distance: the balanced accuracy of a domain discriminator on a scale from 0, no difference, to 2.

    .. math:: A = 2 (1 - 2 \epsilon) = 2 (2 a - 1), \qquad \operatorname{se}(A) = 4 \operatorname{se}(a)

    with the balanced accuracy `a` of :class:`DomainAccuracy`, and its error :math:`\epsilon = 1 - a`. It is 2 where the
    discriminator is never wrong. The paper trains a classifier for it and tests it on samples that it has not seen; the
    result is a lower bound of the distance by the best classifier of its kind. Without a difference the value is
    negative half of the time, by chance. It is not clipped at 0, because the mean over several runs would then be too
    large.

    The value has no gradient, and `compute` is exact over batches and ranks.

    Inputs of `update` and `forward`:
        - `source_domain_logits`: :math:`(n, 1)`, :math:`(n,)` or :math:`(n, 1, d_1, ..)`, positive for "target"
        - `target_domain_logits`: the same with `m`; `n` and `m` may differ

    Output: scalar in :math:`[-2, 2]`. NaN among the logits gives NaN.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches and more than one logit per sample.

    References:
        S. Ben-David, J. Blitzer, K. Crammer, F. Pereira: Analysis of Representations for Domain Adaptation. NIPS 2006.
        https://papers.nips.cc/paper/2983-analysis-of-representations-for-domain-adaptation

    Example:
        >>> import torch
        >>> from adaption import ProxyADistance
        >>> distance = ProxyADistance()
        >>> distance.update(torch.tensor([-1.0, -2.0, 1.0, 3.0]), torch.tensor([2.0, 1.0]))
        >>> distance.compute(), distance.standard_error
        (tensor(1., dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """

    plot_lower_bound = -2.0
    plot_upper_bound = 2.0

    def _value(self, *statistics: Any) -> Tensor:
        return 4 * super()._value(*statistics) - 2

    def _standard_error(self) -> Tensor:
        return 4 * super()._standard_error()
