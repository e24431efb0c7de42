"""CDAN: a discriminator sees features and predictions together; the features learn to confuse it class by class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adaption import _checks, _reduction
from adaption._host import readable
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.adversarial._discriminator import (
    Discriminator,
    answer,
    check_discriminator,
    domain_logits,
    domain_losses,
    through,
)
from adaption.adversarial._entropy import entropy_terms
from adaption.layers.gradient_reversal import GradientReversalLayer, WarmStartGradientReversalLayer
from adaption.layers.maps import MultiLinearMap, RandomizedMultiLinearMap

# They do nothing but multiply the gradient.
_FACTORS = (GradientReversalLayer, WarmStartGradientReversalLayer)


@full_precision
def conditional_domain_adversarial_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross entropy of a discriminator of source (0) and target (1), as a weighted mean over both domains.

    .. math::
        L = -\frac{\sum_i w^s_i \log(1 - \sigma(z^s_i)) + \sum_j w^t_j \log \sigma(z^t_j)}{\sum_i w^s_i + \sum_j w^t_j}

    with the domain logits `z` of `n` source and `m` target samples, their sigmoid :math:`\sigma`, and weights `w`. In
    CDAN+E these are :math:`1 + e^{-H}` with the entropy `H` of the class predictions: samples that are easy to transfer
    count more. Without weights the mean is taken over each domain separately, as in
    :func:`adaption.functional.domain_adversarial_loss`.

    Shapes:
        - `source_logits`: :math:`(n, 1)`, :math:`(n,)` or :math:`(n, 1, d_1, ..)`; `target_logits`: the same with `m`;
          for the mean the numbers of places may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`; `target_weights`: the same with `m`
        - output: scalar; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        source_logits: the discriminator's logits for the source samples.
        target_logits: its logits for the target samples.
        source_weights: weights of the source samples, normalised over both domains inside. If only one domain has
            weights, those of the other are 1.
        target_weights: the same for the target samples.
        reduction: ``"mean"``; ``"sum"``: `n` times the mean; ``"none"``: one value for source sample i and target
            sample i, :math:`n (w^s_i \ell^s_i + w^t_i \ell^t_i) / \sum w`, so that its mean is the mean and its sum
            the sum. The last two need `n = m`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.domain_adversarial_loss`, and for weights that are all 0.

    References:
        M. Long, Z. Cao, J. Wang, M. Jordan: Conditional Adversarial Domain Adaptation. NeurIPS 2018.
        https://arxiv.org/abs/1705.10667

    Example:
        >>> import torch
        >>> from adaption.functional import conditional_domain_adversarial_loss
        >>> conditional_domain_adversarial_loss(torch.zeros(3, 1), torch.zeros(5, 1), torch.rand(3), torch.rand(5))
        tensor(0.6931)
    """
    logits = domain_logits("source_logits", source_logits), domain_logits("target_logits", target_logits)
    statistics = _statistics(*logits, source_weights, target_weights, reduction)
    if source_weights is None and target_weights is None:
        return _reduction.value(reduction, *statistics)
    if readable(statistics[1]) and not bool(statistics[1].any()):
        msg = "`source_weights` and `target_weights` must have a positive sum, but all are 0. Leave the batch out."
        raise ValueError(msg)
    return _weighted_value(reduction, *statistics)


@full_precision
def _statistics(
    source_logits: Tensor,
    target_logits: Tensor,
    source_weights: Tensor | None,
    target_weights: Tensor | None,
    reduction: str,
) -> Statistics:
    source, target = domain_losses(source_logits, target_logits, reduction)
    if source_weights is None and target_weights is None:
        return _reduction.statistics(reduction, 0.5 * source, 0.5 * target)
    w_s = _reduction.spread("source_weights", source_weights, source)
    w_t = _reduction.spread("target_weights", target_weights, target)
    if reduction == "none":
        return w_s * source + w_t * target, w_s + w_t
    return (w_s * source).sum() + (w_t * target).sum(), w_s.sum() + w_t.sum(), source.numel()


def _weighted_value(reduction: str, *statistics: Tensor) -> Tensor:
    if reduction == "none":
        losses, weights = statistics
        return losses / weights.mean()
    loss, weight, number = statistics
    return loss / weight * number if reduction == "sum" else loss / weight


@full_precision
def _entropy_weights(logits: Tensor) -> Tensor:
    """Weights from 2 for a certain prediction down to 1 for a uniform one over infinitely many classes."""
    return 1 + (-entropy_terms(logits.detach()).sum(1)).exp()


class ConditionalDomainAdversarialLoss(AdditiveMetric):
    r"""Conditional domain-adversarial loss: the discriminator minimises it, the feature extractor maximises it.

    The discriminator sees the outer product of the class probabilities `g` and the features `f`, and so learns where
    source and target differ *within a class*, which DANN cannot. A gradient reversal after the map reverses the sign,
    so that one ``(task + loss).backward()`` trains both. The probabilities are held constant: no gradient goes through
    them.

    The formula is that of :func:`adaption.functional.conditional_domain_adversarial_loss`, on the logits
    :math:`z = D(T(f, g))` with :class:`adaption.layers.MultiLinearMap` for `T`, or, where `C F` inputs are too many,
    :class:`adaption.layers.RandomizedMultiLinearMap`. Read the value as that of
    :class:`adaption.DomainAdversarialLoss`: it starts at :math:`\log 2 = 0.693` and returns to it as the domains become
    alike. With `entropy_conditioning` and unequal batches it returns to the entropy of the target's share of the
    weights, which is smaller.

    The discriminator is part of the metric: give its parameters to the optimizer (``metric.parameters()``). A copy of
    the metric, as in a MetricTracker, has a separate discriminator that is not trained: let both share one. `compute`
    is exact over the epoch.

    Inputs of `update` and `forward`:
        - `source_logits`: :math:`(n, C)`, of the classifier; `target_logits`: :math:`(m, C)`; `n` and `m` may differ
        - `source_features`: :math:`(n, F)`; `target_features`: :math:`(m, F)`

    Output: scalar, at least 0; with ``reduction="none"`` one value per pair.

    Args:
        domain_disc: a Module or another callable to logits of shape ``(N, 1)`` or ``(N,)``, from `C F` columns, or with
            `randomized` from `randomized_dim`.
        entropy_conditioning: whether to weight each sample by :math:`1 + e^{-H}`, with the entropy `H` of its
            prediction, so that uncertain ones count less (CDAN+E). The mean then runs over both domains together.
        randomized: whether to project the outer product onto `randomized_dim` random directions.
        num_classes: the `C` of the logits. Needed with `randomized`; otherwise checked if given.
        features_dim: the `F` of the features, likewise.
        randomized_dim: number of random directions; the paper takes 1024.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; see the function. ``"none"`` keeps every value of the epoch.
        grl: the gradient reversal, by default ``GradientReversalLayer(1.0)``. For a schedule, pass a
            :class:`adaption.layers.WarmStartGradientReversalLayer` with ``auto_step=True``, or call its `step`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and a discriminator or `grl` that is not callable.
        ValueError: for empty batches, fewer than two classes, probabilities instead of logits, different numbers of
            logits and features, widths that differ from the settings, the other domain or the discriminator,
            `randomized` without `num_classes` and `features_dim`, and unequal batches with ``"sum"`` or ``"none"``.

    References:
        M. Long, Z. Cao, J. Wang, M. Jordan: Conditional Adversarial Domain Adaptation. NeurIPS 2018.
        https://arxiv.org/abs/1705.10667

    Example:
        One feature, two classes, and a discriminator that uses class 1 only: only samples of this class get a gradient.

        >>> import torch
        >>> from adaption import ConditionalDomainAdversarialLoss
        >>> cdan = ConditionalDomainAdversarialLoss(lambda joint: joint[:, 1])
        >>> logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]])  # a sample of class 0, one of class 1
        >>> source_features = torch.tensor([[-1.0], [-1.0]], requires_grad=True)
        >>> loss = cdan(logits, source_features, logits, torch.tensor([[1.0], [1.0]]))
        >>> loss.backward()
        >>> loss.detach(), source_features.grad.flatten().abs()
        (tensor(0.5032), tensor([0.0000, 0.0672]))
    """

    higher_is_better = None  # of a game, neither: near 0 the discriminator has won
    plot_lower_bound = 0.0

    def __init__(
        self,
        domain_disc: Discriminator,
        entropy_conditioning: bool = False,  # noqa: FBT001, FBT002 - the reference's position
        randomized: bool = False,  # noqa: FBT001, FBT002 - the same
        num_classes: int | None = None,
        features_dim: int | None = None,
        randomized_dim: int = 1024,
        reduction: str = "mean",
        grl: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        check_discriminator("domain_disc", domain_disc)
        _checks.flag("entropy_conditioning", entropy_conditioning)
        _checks.flag("randomized", randomized)
        for name, width in (("num_classes", num_classes), ("features_dim", features_dim)):
            if width is not None:
                _checks.count(name, width)
        _checks.count("randomized_dim", randomized_dim)
        _reduction.check(reduction)
        _checks.reversal("grl", grl)
        super().__init__(**kwargs)
        self.domain_disc = domain_disc
        self.entropy_conditioning = entropy_conditioning
        self.randomized = randomized
        self.num_classes = num_classes
        self.features_dim = features_dim
        self.randomized_dim = randomized_dim
        self.reduction = reduction
        self.grl = GradientReversalLayer(1.0) if grl is None else grl
        self.joint_map = _random_map(features_dim, num_classes, randomized_dim) if randomized else MultiLinearMap()
        if reduction == "none":
            self._keep_samples("losses", *(["weights"] if entropy_conditioning else []))
        elif entropy_conditioning:
            self._keep_sums("weighted_loss", "total_weight", "num_source")
        else:
            self._keep_sums("source_loss", "num_source", "target_loss", "num_target")

    def update(
        self, source_logits: Tensor, source_features: Tensor, target_logits: Tensor, target_features: Tensor
    ) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_logits, source_features, target_logits, target_features))

    def _statistics(
        self, source_logits: Tensor, source_features: Tensor, target_logits: Tensor, target_features: Tensor
    ) -> Statistics:
        self._check("source", source_logits, source_features)
        self._check("target", target_logits, target_features)
        _checks.same_layer("source_logits", source_logits, "target_logits", target_logits)
        _checks.same_layer("source_features", source_features, "target_features", target_features)
        if self.reduction != "mean":
            why = f'reduction="{self.reduction}"'
            _checks.same_size("source_features", source_features, "target_features", target_features, why)
        self._check_discriminator(source_logits.shape[1], source_features.shape[1])
        answers = self._answers(
            torch.cat([source_logits, target_logits]), torch.cat([source_features, target_features])
        )
        source, target = answers[: len(source_logits)], answers[len(source_logits) :]
        if not self.entropy_conditioning:
            return _statistics(source, target, None, None, self.reduction)
        weights = _entropy_weights(source_logits), _entropy_weights(target_logits)
        return _statistics(source, target, *weights, self.reduction)

    def _answers(self, logits: Tensor, features: Tensor) -> Tensor:
        """The discriminator's logits for both domains, which pass as one batch: see `ask`."""
        if type(self.grl) in _FACTORS:  # the map is linear in the features, and C times as wide
            joint = _joint(self.joint_map, logits, self.grl(features))
        else:
            joint = through(self.grl, _joint(self.joint_map, logits, features))
        return answer("domain_disc", self.domain_disc, joint)

    def _check(self, domain: str, logits: Tensor, features: Tensor) -> None:
        _checks.flat_logits(f"{domain}_logits", logits)
        _checks.matrix(f"{domain}_features", features)
        _checks.same_batch(f"{domain}_logits", logits, f"{domain}_features", features)
        repair = "Pass the logits first, then the features, or set it to the width that comes."
        if self.num_classes is not None:
            _checks.columns(f"{domain}_logits", logits, self.num_classes, "num_classes", repair)
        if self.features_dim is not None:
            _checks.columns(f"{domain}_features", features, self.features_dim, "features_dim", repair)

    def _check_discriminator(self, num_classes: int, features_dim: int) -> None:
        width = self.randomized_dim if self.randomized else num_classes * features_dim
        expected = _checks.input_width(self.domain_disc)
        if expected is not None and expected != width:
            why = "`randomized_dim`" if self.randomized else f"{num_classes} classes times {features_dim} features"
            msg = (
                f"`domain_disc` must take the {width} columns of the map ({why}), but takes {expected}. "
                f"Build it with `in_feature={width}`, or check the number of classes in the logits."
            )
            raise ValueError(msg)

    def _value(self, *statistics: Tensor) -> Tensor:
        return (_weighted_value if self.entropy_conditioning else _reduction.value)(self.reduction, *statistics)


def _random_map(features_dim: int | None, num_classes: int | None, randomized_dim: int) -> nn.Module:
    if num_classes is None or features_dim is None:
        msg = (
            f"`num_classes` and `features_dim` must be given with `randomized=True`, but got {num_classes} and "
            f"{features_dim}. Pass the widths of the logits and of the features: the random matrices need them."
        )
        raise ValueError(msg)
    return RandomizedMultiLinearMap(features_dim, num_classes, randomized_dim)


@full_precision
def _joint(joint_map: nn.Module, logits: Tensor, features: Tensor) -> Tensor:
    # detached: the gradient would let the classifier change its predictions to please or to fool the discriminator
    joint: Tensor = joint_map(features, logits.detach().softmax(1))
    return joint
