"""ADVENT: a discriminator sees entropy maps; the segmentation network learns to be as certain as on the source."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from adaption import _checks, _reduction
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.adversarial._discriminator import (
    Discriminator,
    answer,
    check_discriminator,
    check_label,
    cross_entropy,
)
from adaption.adversarial._entropy import entropy_terms


@full_precision
def entropy_map(logits: Tensor) -> Tensor:
    r"""Share of each class in the normalised entropy of a prediction; the sum is 1 for a uniform prediction.

    .. math:: I_{n,c} = -\frac{p_{n,c} \log_2 p_{n,c}}{\log_2 C}, \qquad p = \mathrm{softmax}(z)

    with the logits `z` of `C` classes, at every position. The sum over the classes is the normalised entropy. It is
    computed from log-probabilities: certain predictions give exactly 0, and logits of any size give finite values and
    gradients.

    Shapes:
        - `logits`: :math:`(N, C)` or :math:`(N, C, H, W)`, at least two classes; output: the same, in :math:`[0, 1]`

    Args:
        logits: the network's output, before softmax.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty tensor, one without a class dimension, fewer than two classes, and probabilities.

    References:
        T.-H. Vu, H. Jain, M. Bucher, M. Cord, P. Pérez: ADVENT: Adversarial Entropy Minimization for Domain Adaptation
        in Semantic Segmentation. CVPR 2019. https://arxiv.org/abs/1811.12833

    Example:
        >>> import torch
        >>> from adaption.functional import entropy_map
        >>> entropy_map(torch.tensor([[0.0, 0.0], [0.0, 200.0]]))
        tensor([[0.5000, 0.5000],
                [0.0000, 0.0000]])
    """
    _checks.logits("logits", logits)
    return entropy_terms(logits) / math.log(logits.shape[1])


class DomainAdversarialEntropyLoss(AdditiveMetric):
    r"""Domain-adversarial entropy loss: discriminator and segmentation network minimise it in turns.

    The discriminator sees the entropy map of a prediction and minimises the loss with true labels, on detached logits
    of both domains. Then the network minimises the loss of its target logits with the inverted label, ``"source"``:
    its target predictions become as certain as those on the source, in the same places.

    .. math::
        L = \frac1P \sum_{i=1}^P \log(1 + e^{\pm z_i}), \qquad z = D(I(\text{logits}))

    with the entropy map `I` of :func:`adaption.functional.entropy_map`, the discriminator's logits `z` at all `P`
    places of the batch, and `+` for label ``"source"`` (0), `-` for ``"target"`` (1). The value of a discriminator that
    cannot tell the domains apart is :math:`\log 2 = 0.693`.

    In training mode it is the discriminator's turn. In evaluation mode, after ``eval()``, it is the network's: the
    discriminator's parameters are held constant and get no gradient. ``requires_grad`` of a parameter is never changed.
    A discriminator whose parameters have a special class, such as shards of FSDP2, or that is a function or compiled by
    TorchScript, gets gradients in both turns: clear them before the discriminator's turn. Use one metric for each turn,
    or `compute` mixes them.

    Inputs of `update` and `forward`:
        - `logits`: :math:`(N, C, H, W)`, of the samples of one domain, before softmax
        - `domain_label`: ``"source"`` or ``"target"``

    Output: scalar, at least 0.

    Args:
        domain_disc: a Module or another callable from entropy maps :math:`(N, C, H, W)` to logits of shape
            :math:`(N, 1, h, w)`, such as :class:`adaption.layers.SegmentationDiscriminator`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor, and a discriminator that is not callable.
        ValueError: for an unknown label, a discriminator that gives more than one logit per place, and as
            :func:`adaption.functional.entropy_map`.

    References:
        T.-H. Vu, H. Jain, M. Bucher, M. Cord, P. Pérez: ADVENT: Adversarial Entropy Minimization for Domain Adaptation
        in Semantic Segmentation. CVPR 2019. https://arxiv.org/abs/1811.12833

    Example:
        >>> import torch
        >>> from adaption import DomainAdversarialEntropyLoss
        >>> from adaption.layers import SegmentationDiscriminator
        >>> advent = DomainAdversarialEntropyLoss(SegmentationDiscriminator(num_classes=3, ndf=4))
        >>> target_logits = torch.randn(2, 3, 64, 64, requires_grad=True)
        >>> loss = advent.eval()(target_logits, "source")
        >>> loss.backward()
        >>> target_logits.grad.shape, next(advent.parameters()).grad
        (torch.Size([2, 3, 64, 64]), None)
    """

    higher_is_better = None  # of a game, neither: near 0 the discriminator has won
    plot_lower_bound = 0.0

    def __init__(self, domain_disc: Discriminator, **kwargs: Any) -> None:
        check_discriminator("domain_disc", domain_disc)
        super().__init__(**kwargs)
        self.domain_disc = domain_disc
        self._keep_sums("loss", "num_places")

    def update(self, logits: Tensor, domain_label: str = "source") -> None:
        """Add a batch of one domain to the epoch value."""
        self._accumulate(self._statistics(logits, domain_label))

    def _statistics(self, logits: Tensor, domain_label: str = "source") -> Statistics:
        check_label(domain_label)
        maps = entropy_map(logits)
        return _statistics(answer("domain_disc", self.domain_disc, maps, fixed=not self.training), domain_label)

    def _value(self, *statistics: Tensor) -> Tensor:
        return _reduction.value("mean", *statistics)


@full_precision
def _statistics(domain_logits: Tensor, domain_label: str) -> Statistics:
    return _reduction.statistics("mean", cross_entropy(domain_logits, domain_label))
