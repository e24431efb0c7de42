"""DANN: a discriminator tells the domains apart; the features learn to confuse it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from adaption import _checks, _reduction
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.adversarial._discriminator import (
    Discriminator,
    ask,
    check_discriminator,
    domain_logits,
    domain_losses,
)
from adaption.layers.gradient_reversal import GradientReversalLayer


@full_precision
def domain_adversarial_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross entropy of a discriminator of source (0) and target (1), balanced over the domains.

    .. math::
        L = -\frac1{2n} \sum_i w^s_i \log(1 - \sigma(z^s_i)) - \frac1{2m} \sum_j w^t_j \log \sigma(z^t_j)

    with the logits `z` of `n` source and `m` target samples, their sigmoid :math:`\sigma`, and weights `w`, 1 by
    default. The mean is taken over each domain separately, so that unequal batches do not shift the balance. At logits
    0, when the domains cannot be told apart, the value is :math:`\log 2 = 0.693`. In dense tasks the means run over all
    places of all samples.

    Shapes:
        - `source_logits`: :math:`(n, 1)`, :math:`(n,)` or :math:`(n, 1, d_1, ..)`, one for each place of a dense task;
          `target_logits`: the same with `m`. For the mean the numbers of places may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`; `target_weights`: the same with `m`
        - output: scalar; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        source_logits: the discriminator's logits for the source samples.
        target_logits: its logits for the target samples.
        source_weights: weights of the source samples. They multiply the losses before the mean over `n` and are not
            normalised, as in PADA and IWAN.
        target_weights: the same for the target samples.
        reduction: ``"mean"``; ``"sum"``: half the sum over both domains; ``"none"``: half the sum of the losses of
            source sample i and target sample i, so that its mean is the mean and its sum the sum. The last two need
            `n = m`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, more than one logit per sample, weights that do not fit or are negative, unequal
            batches with ``"sum"`` or ``"none"``.

    References:
        Y. Ganin, V. Lempitsky: Unsupervised Domain Adaptation by Backpropagation. ICML 2015.
        https://arxiv.org/abs/1409.7495

    Example:
        >>> import torch
        >>> from adaption.functional import domain_adversarial_loss
        >>> domain_adversarial_loss(torch.zeros(3, 1), torch.zeros(5, 1))
        tensor(0.6931)
    """
    logits = domain_logits("source_logits", source_logits), domain_logits("target_logits", target_logits)
    return _reduction.value(reduction, *_statistics(*logits, source_weights, target_weights, reduction))


@full_precision
def _statistics(
    source_logits: Tensor,
    target_logits: Tensor,
    source_weights: Tensor | None,
    target_weights: Tensor | None,
    reduction: str,
) -> Statistics:
    source, target = domain_losses(source_logits, target_logits, reduction)
    source_losses = _reduction.weighted("source_weights", 0.5 * source, source_weights)
    target_losses = _reduction.weighted("target_weights", 0.5 * target, target_weights)
    return _reduction.statistics(reduction, source_losses, target_losses)


class DomainAdversarialLoss(AdditiveMetric):
    r"""Domain-adversarial loss: the discriminator minimises it, the feature extractor maximises it.

    The discriminator learns to give source features a negative and target features a positive logit. A gradient
    reversal between features and discriminator reverses the sign, so that one ``(task + loss).backward()`` trains both:
    the discriminator to tell the domains apart, the features to confuse it. Do not subtract the loss.

    .. math::
        L = -\frac1{2n} \sum_i w^s_i \log(1 - \sigma(z^s_i)) - \frac1{2m} \sum_j w^t_j \log \sigma(z^t_j)

    with the logits `z` that the discriminator gives to `n` source and `m` target samples, their sigmoid :math:`\sigma`,
    and weights `w`, 1 by default. The value starts at :math:`\log 2 = 0.693`, falls while the discriminator learns, and
    rises again as the domains become alike. A domain accuracy of 50 % (value 0.693) means that this discriminator finds
    no difference; 100 % (value near 0) that it recognises every sample, and that its gradient is nearly 0.

    A call gives the loss of the batch, with gradient, and adds the batch to the epoch; `update` only adds. `compute`
    gives the exact value over all batches and ranks since the last `reset`, with a separate mean for each domain. The
    discriminator is part of the metric: give its parameters to the optimizer (``metric.parameters()``). A copy of the
    metric, as in a MetricTracker, has a separate discriminator that is not trained: let both share one.

    Inputs of `update` and `forward`:
        - `source`: :math:`(n, d)`, or :math:`(n, ..)` as the discriminator takes it; `target`: the same with `m`; `n`
          and `m` may differ, and for the mean height and width too, unless the discriminator normalises over the batch
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, optional; `target_weights`: the same with `m`. They are not
          normalised: :class:`adaption.ImportanceWeightModule` gives some

    Output: scalar, at least 0; with ``reduction="none"`` one value per pair, :math:`(n,)` or :math:`(n, d_1, ..)`.

    Args:
        domain_disc: a Module or another callable from features to logits of shape ``(N, 1)``, ``(N,)`` or
            ``(N, 1, d1, ..)``, such as :class:`adaption.layers.DomainDiscriminator`.
        reduction: ``"mean"``; ``"sum"``: half the sum over both domains; ``"none"``: half the sum of the losses of
            source sample i and target sample i. The last two need `n = m`, and the last keeps every value of the epoch.
        grl: the gradient reversal, by default ``GradientReversalLayer(1.0)``. For a schedule, pass a
            :class:`adaption.layers.WarmStartGradientReversalLayer` with ``auto_step=True``, or call its `step`.
        kwargs: ``nan_strategy``, for a batch whose value is not finite: ``"disable"`` (the default, the epoch value
            becomes NaN), ``"error"``, or ``"warn"`` and ``"ignore"`` (the batch is left out of the epoch); and those of
            :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and a discriminator or `grl` that is not callable.
        ValueError: for empty batches, differing shapes of the samples, a discriminator that gives more than one logit,
            weights that do not fit or are negative, and unequal batches with ``"sum"`` or ``"none"``.

    References:
        Y. Ganin, V. Lempitsky: Unsupervised Domain Adaptation by Backpropagation. ICML 2015.
        https://arxiv.org/abs/1409.7495

    Example:
        >>> import torch
        >>> from adaption import DomainAdversarialLoss
        >>> from adaption.layers import DomainDiscriminator
        >>> _ = torch.manual_seed(0)
        >>> extractor, classifier = torch.nn.Linear(20, 8), torch.nn.Linear(8, 3)
        >>> dann = DomainAdversarialLoss(DomainDiscriminator(in_feature=8, hidden_size=16))
        >>> optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters(), *dann.parameters()])
        >>> for step in range(3):
        ...     source, labels, target = torch.randn(32, 20), torch.randint(3, (32,)), torch.randn(24, 20) + 1
        ...     source_features, target_features = extractor(source), extractor(target)
        ...     task = torch.nn.functional.cross_entropy(classifier(source_features), labels)
        ...     loss = task + dann(source_features, target_features)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> print(f"domain loss of the epoch: {dann.compute():.1f}")
        domain loss of the epoch: 0.7

        The discriminator may be any callable; here larger features are more like the target:

        >>> dann = DomainAdversarialLoss(lambda features: features.sum(1))
        >>> source = torch.tensor([[-1.0, -1.0]], requires_grad=True)
        >>> loss = dann(source, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        >>> loss.detach()
        tensor(0.2685)
        >>> loss.backward()
        >>> source.grad  # a descent step raises the logit of the source: it moves towards the target
        tensor([[-0.0596, -0.0596]])
    """

    higher_is_better = None  # of a game, neither: near 0 the discriminator has won
    plot_lower_bound = 0.0

    def __init__(
        self, domain_disc: Discriminator, reduction: str = "mean", grl: nn.Module | None = None, **kwargs: Any
    ) -> None:
        check_discriminator("domain_disc", domain_disc)
        _reduction.check(reduction)
        _checks.reversal("grl", grl)
        super().__init__(**kwargs)
        self.domain_disc = domain_disc
        self.reduction = reduction
        self.grl = GradientReversalLayer(1.0) if grl is None else grl
        if reduction == "none":
            self._keep_samples("values")
        else:
            self._keep_sums("source_loss", "num_source", "target_loss", "num_target")

    def update(
        self,
        source: Tensor,
        target: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source, target, source_weights, target_weights))

    def _statistics(
        self,
        source: Tensor,
        target: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Statistics:
        _checks.batch("source", source)
        _checks.batch("target", target)
        dense = source.ndim > 2 and self.reduction == "mean"  # each domain may then have its own number of places
        (_checks.same_rank if dense else _checks.same_layer)("source", source, "target", target)
        if self.reduction != "mean":
            _checks.same_size("source", source, "target", target, f'reduction="{self.reduction}"')
        # before anything of the discriminator or the schedule moves
        _checks.weights_or_none("source_weights", source_weights, source)
        _checks.weights_or_none("target_weights", target_weights, target)
        _checks.fits("source", source, "domain_disc", self.domain_disc)
        _checks.fits("target", target, "domain_disc", self.domain_disc)
        source_logits, target_logits = ask(self.domain_disc, self.grl, source, target)
        return _statistics(source_logits, target_logits, source_weights, target_weights, self.reduction)

    def _value(self, *statistics: Tensor) -> Tensor:
        return _reduction.value(self.reduction, *statistics)
