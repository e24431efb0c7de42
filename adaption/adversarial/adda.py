"""ADDA: discriminator and target encoder are trained in turns, with opposite labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adaption import _reduction
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.adversarial._discriminator import check_label, cross_entropy, domain_logits


def adversarial_discriminative_loss(domain_logits: Tensor, domain_label: str = "source") -> Tensor:
    r"""Mean binary cross entropy of one batch of domain logits with the label of one domain.

    .. math::
        L_{\text{source}} = -\frac1N \sum_i \log(1 - \sigma(z_i)), \qquad
        L_{\text{target}} = -\frac1N \sum_i \log \sigma(z_i)

    with the domain logits `z` and their sigmoid :math:`\sigma`. The discriminator minimises it with the true label of
    each batch. The target encoder minimises it with the inverted label: its gradient is strongest where the
    discriminator is sure, while that of a reversed loss vanishes there.

    Shapes:
        - `domain_logits`: :math:`(N, 1)`, :math:`(N,)` or :math:`(N, 1, H, W)`; output: scalar

    Args:
        domain_logits: the discriminator's logits for the samples.
        domain_label: ``"source"`` (0) or ``"target"`` (1).

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty batch, more than one logit per sample and an unknown label.

    References:
        E. Tzeng, J. Hoffman, K. Saenko, T. Darrell: Adversarial Discriminative Domain Adaptation. CVPR 2017.
        https://arxiv.org/abs/1702.05464

    Example:
        >>> import torch
        >>> from adaption.functional import adversarial_discriminative_loss
        >>> logits = torch.tensor([[2.0], [2.0]])  # these look like target samples
        >>> adversarial_discriminative_loss(logits, "source"), adversarial_discriminative_loss(logits, "target")
        (tensor(2.1269), tensor(0.1269))
    """
    return _reduction.value("mean", *_statistics(domain_logits, domain_label))


@full_precision
def _statistics(logits: Tensor, domain_label: str) -> Statistics:
    check_label(domain_label)
    return _reduction.statistics("mean", cross_entropy(domain_logits("domain_logits", logits), domain_label))


class AdversarialDiscriminativeLoss(AdditiveMetric):
    r"""Adversarial discriminative loss: discriminator and target encoder each minimise it, with opposite labels.

    There is no gradient reversal here. The discriminator minimises the loss with true labels, on detached features of
    both domains. Then the target encoder minimises the loss of its own features with the *inverted* label,
    ``"source"``: it learns to give features like those of the source encoder, which is fixed. This takes two optimizers
    and two steps.

    The formula is that of :func:`adaption.functional.adversarial_discriminative_loss`. For the discriminator,
    :math:`\log 2 = 0.693` means that it cannot tell the domains apart. For the encoder, a value far above means that it
    does not yet fool the discriminator. Use one metric for each: `compute` is the mean over all samples seen, and would
    mix them.

    Inputs of `update` and `forward`:
        - `domain_logits`: :math:`(N, 1)`, :math:`(N,)` or :math:`(N, 1, H, W)`, of the samples of one domain
        - `domain_label`: ``"source"`` or ``"target"``

    Output: scalar, at least 0.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: as :func:`adaption.functional.adversarial_discriminative_loss`.

    References:
        E. Tzeng, J. Hoffman, K. Saenko, T. Darrell: Adversarial Discriminative Domain Adaptation. CVPR 2017.
        https://arxiv.org/abs/1702.05464

    Example:
        >>> import torch
        >>> from adaption import AdversarialDiscriminativeLoss
        >>> adda = AdversarialDiscriminativeLoss()
        >>> source_logits, target_logits = torch.tensor([-2.0]), torch.tensor([2.0, 2.0, 0.0])
        >>> loss = adda(source_logits, "source") + adda(target_logits, "target")
        >>> adda.compute()
        tensor(0.2685, dtype=torch.float64)
    """

    higher_is_better = None  # of a game, neither: near 0 the discriminator has won
    plot_lower_bound = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep_sums("loss", "num_samples")

    def update(self, domain_logits: Tensor, domain_label: str = "source") -> None:
        """Add a batch of one domain to the epoch value."""
        self._accumulate(self._statistics(domain_logits, domain_label))

    def _statistics(self, domain_logits: Tensor, domain_label: str = "source") -> Statistics:
        return _statistics(domain_logits, domain_label)

    def _value(self, *statistics: Tensor) -> Tensor:
        return _reduction.value("mean", *statistics)
