"""Importance-weighted validation and DEV: the risk on the target, estimated from labelled samples of the source."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._host import readable
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.adversarial import _discriminator


@full_precision
def density_ratio(domain_logits: Tensor, num_source: int, num_target: int) -> Tensor:
    r"""Density ratio of target to source for each sample, from the logits of a domain discriminator.

    .. math:: w(x) = \frac{p_t(x)}{p_s(x)} = \frac{n_s}{n_t} \exp z(x)

    A discriminator that was trained on :math:`n_s` source samples with label 0 and :math:`n_t` target samples with
    label 1 gives, if it is optimal, the logit :math:`z = \log \frac{n_t p_t}{n_s p_s}`. The discriminator of
    :class:`adaption.DomainAdversarialLoss` works; so does a logistic regression on the features.

    Shapes:
        - `domain_logits`: :math:`(N, 1)` or :math:`(N,)`; output: :math:`(N,)`, positive

    Above a logit of 88 a ratio overflows float32 and is infinite, which the scores refuse.

    Args:
        domain_logits: the discriminator's logits for the samples, positive for "target".
        num_source: number of source samples on which the discriminator was trained, in total or in each step.
        num_target: the same for the target.

    Raises:
        TypeError: for anything but a floating-point tensor and integers.
        ValueError: for an empty batch, more than one logit per sample, and numbers below 1.

    References:
        M. Sugiyama, M. Krauledat, K.-R. Müller: Covariate Shift Adaptation by Importance Weighted Cross Validation.
        JMLR 2007. https://jmlr.org/papers/v8/sugiyama07a.html

    Example:
        >>> import torch
        >>> from adaption.functional import density_ratio
        >>> density_ratio(torch.tensor([[0.0], [1.0]]), num_source=200, num_target=100)
        tensor([2.0000, 5.4366])
    """
    _checks.count("num_source", num_source)
    _checks.count("num_target", num_target)
    logits = _discriminator.domain_logits("domain_logits", domain_logits)
    if logits.ndim > 1:
        msg = (
            f"`domain_logits` must have shape (N, 1) or (N,), but got shape {_checks.shape(domain_logits)}. Average "
            "dense logits over the positions of a sample first, e.g. with `.flatten(1).mean(1)`."
        )
        raise ValueError(msg)
    return (logits + math.log(num_source / num_target)).exp()


def _weighted(losses: Tensor, weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Losses and weights of samples, checked, as two vectors in the precision of the sums."""
    _checks.tensor("losses", losses)
    if losses.ndim == 0 or losses.shape not in (losses.shape[:1], (len(losses), 1)):
        msg = (
            f"`losses` must hold one loss per sample, shape (N,) or (N, 1), but got shape {_checks.shape(losses)}. "
            'Compute them with `reduction="none"`.'
        )
        raise ValueError(msg)
    _checks.weights("weights", weights, losses)
    losses, weights = losses.flatten().to(dtype), weights.flatten().to(dtype)
    if readable(weights):
        _check_largest(weights)
    return losses, weights


def _check_largest(weights: Tensor) -> None:
    largest = weights.amax().item()  # NaN if one of them is
    if not math.isfinite(largest):
        msg = (
            f"`weights` must be finite, but the largest is {largest}. Look for logits beyond the range of `exp`: take "
            "a discriminator that is less certain, or clamp its logits."
        )
        raise ValueError(msg)
    if largest == 0:
        msg = (
            "`weights` must have a positive sum, but all weights are 0. Take a discriminator that is less certain, or "
            "larger batches."
        )
        raise ValueError(msg)


class ImportanceWeightedValidation(AdditiveMetric):
    r"""Estimate of the risk on the target from losses of labelled source samples: the smaller, the better the model.

    .. math:: \mathrm{IWV} = \frac1n \sum_i w_i \ell_i

    with the losses :math:`\ell_i` of `n` validation samples of the source, which were not used in training, and their
    density ratios :math:`w_i`, such as those of :func:`adaption.functional.density_ratio`. Its expected value is the
    risk on the target if source and target differ only in the distribution of the inputs (covariate shift), and if the
    ratios are right. The value has no gradient, and `compute` is exact over batches and ranks.

    Inputs of `update` and `forward`:
        - `losses`: :math:`(n,)` or :math:`(n, 1)`, of source samples
        - `weights`: :math:`(n,)` or :math:`(n, 1)`, not negative, finite, with a positive sum

    Output: scalar, in the units of the losses.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for an empty batch, other shapes, and weights that are negative, not finite or all 0.

    References:
        M. Sugiyama, M. Krauledat, K.-R. Müller: Covariate Shift Adaptation by Importance Weighted Cross Validation.
        JMLR 2007. https://jmlr.org/papers/v8/sugiyama07a.html

    Example:
        >>> import torch
        >>> from adaption import ImportanceWeightedValidation
        >>> risk = ImportanceWeightedValidation()
        >>> risk.update(torch.tensor([1.0, 2.0]), weights=torch.tensor([0.5, 1.5]))
        >>> risk.compute()  # (0.5 + 3) / 2
        tensor(1.7500, dtype=torch.float64)
    """

    is_differentiable = False

    num_samples: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep_sums("weighted_losses", "num_samples")

    def update(self, losses: Tensor, weights: Tensor) -> None:
        """Add labelled source samples to the estimate."""
        self._accumulate(self._statistics(losses, weights))

    def _statistics(self, losses: Tensor, weights: Tensor) -> Statistics:
        losses, weights = _weighted(losses, weights, self.num_samples.dtype)
        return (weights * losses).sum(), len(losses)

    def _value(self, *statistics: Tensor) -> Tensor:
        weighted_losses, number = statistics
        return weighted_losses / number


class DeepEmbeddedValidation(AdditiveMetric):
    r"""DEV: importance-weighted validation with a control variate, which reduces the variance.

    .. math::
        \mathrm{DEV} = \frac1n \sum_i w_i \ell_i + \eta \Bigl(\frac1n \sum_i w_i - 1\Bigr), \qquad
        \eta = -\frac{\operatorname{cov}(w \ell, w)}{\operatorname{var} w}

    with losses :math:`\ell_i` and density ratios :math:`w_i` of `n` validation samples of the source, as in
    :class:`ImportanceWeightedValidation`. The mean of a density ratio is 1; where the sample mean differs, the estimate
    is corrected by the covariance of losses and weights. It may be negative. Where the weights do not differ,
    :math:`\operatorname{var} w` being at most :math:`10^{-12}` of the mean of :math:`w^2`, and for a single sample,
    :math:`\eta` is 0.

    The weights should come from a discriminator on the features of the model under test ("deep embedded"), so that
    every model has different weights. The value has no gradient, and `compute` is exact over batches and ranks, from
    five sums.

    Inputs of `update` and `forward`:
        - `losses`: :math:`(n,)` or :math:`(n, 1)`, of source samples
        - `weights`: :math:`(n,)` or :math:`(n, 1)`, not negative, finite, with a positive sum

    Output: scalar, in the units of the losses; the smaller, the better the model.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for an empty batch, other shapes, and weights that are negative, not finite or all 0.

    References:
        K. You, X. Wang, M. Long, M. Jordan: Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation.
        ICML 2019. https://proceedings.mlr.press/v97/you19a.html

    Example:
        All losses are 2, and so is the risk, whatever the weights.

        >>> import torch
        >>> from adaption import DeepEmbeddedValidation
        >>> risk = DeepEmbeddedValidation()
        >>> risk.update(torch.tensor([2.0, 2.0, 2.0]), weights=torch.tensor([0.5, 1.5, 2.5]))
        >>> risk.compute()
        tensor(2., dtype=torch.float64)
    """

    is_differentiable = False

    num_samples: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        names = ("weights", "squared_weights", "weighted_losses", "twice_weighted_losses")
        self._keep_sums(*(f"sum_of_{name}" for name in names), "num_samples")

    def update(self, losses: Tensor, weights: Tensor) -> None:
        """Add labelled source samples to the estimate."""
        self._accumulate(self._statistics(losses, weights))

    def _statistics(self, losses: Tensor, weights: Tensor) -> Statistics:
        losses, weights = _weighted(losses, weights, self.num_samples.dtype)
        weighted = weights * losses
        return weights.sum(), weights.square().sum(), weighted.sum(), (weights * weighted).sum(), len(losses)

    def _value(self, *statistics: Tensor) -> Tensor:
        weight, square, risk, product = (total / statistics[-1] for total in statistics[:-1])  # means
        covariance, variance = product - weight * risk, square - weight.square()
        slope = torch.where(variance <= 1e-12 * square, 0, -covariance / variance)  # the divisor of both cancels
        return risk + slope * (weight - 1)
