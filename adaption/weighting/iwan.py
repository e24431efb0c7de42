"""IWAN: source samples that look like target samples to a discriminator get large weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from adaption import _checks
from adaption._precision import full_precision
from adaption.adversarial._discriminator import Discriminator, answer, check_discriminator
from adaption.weighting._evaluation import evaluating
from adaption.weighting._partial import check_index, split_means


class ImportanceWeightModule(nn.Module):
    r"""Importance weights of source samples: how much each looks like the target.

    .. math:: w_i = \frac{\sigma(z_i)}{\frac1n \sum_j \sigma(z_j)}, \qquad z_i = D(f_i)

    with the logits `z` of a discriminator `D` of source (0) and target (1), so that :math:`\sigma(z)` is its
    probability of the target. Samples of classes that the target lacks are easy to recognise and get small weights. The
    weights have mean 1, even if the discriminator is so certain that every :math:`\sigma(z_i)` is 0 in floating point.

    This discriminator minimises its loss on detached features, without an adversary: train it with
    :class:`adaption.DomainAdversarialLoss` on ``features.detach()``. A second one is trained against the features, with
    the weights in its loss. The weights are computed without gradient, and with the discriminator in evaluation mode,
    so that its batch normalisation neither learns from source samples alone nor normalises by their statistics.

    Shapes:
        - `feature`: :math:`(n, F)`, of the source, as the discriminator takes it; weights: :math:`(n, 1)`

    Args:
        discriminator: a Module or another callable from features to logits of shape ``(N, 1)`` or ``(N,)``.
        partial_classes_index: the true classes of the target, for `get_partial_classes_weight` only.

    Raises:
        TypeError: for a discriminator that is not callable, features that are not a floating-point tensor, and labels
            that are not integers.
        ValueError: for an empty batch, a discriminator that gives more than one logit per sample, labels out of range,
            and `get_partial_classes_weight` without `partial_classes_index`.

    References:
        J. Zhang, Z. Ding, W. Li, P. Ogunbona: Importance Weighted Adversarial Nets for Partial Domain Adaptation.
        CVPR 2018. https://arxiv.org/abs/1803.09210

    Example:
        >>> import torch
        >>> from adaption import ImportanceWeightModule
        >>> importance = ImportanceWeightModule(lambda features: features.sum(1, keepdim=True))
        >>> importance.get_importance_weight(torch.tensor([[-500.0, -500.0], [-500.0, -501.0]]))
        tensor([[1.4621],
                [0.5379]])
    """

    def __init__(self, discriminator: Discriminator, partial_classes_index: Iterable[int] | None = None) -> None:
        check_discriminator("discriminator", discriminator)
        index = check_index(partial_classes_index)
        super().__init__()
        self.discriminator = discriminator
        self.partial_classes_index = index

    def get_importance_weight(self, feature: Tensor) -> Tensor:
        """Return the weights `(n, 1)` of source features, for ``source_weights`` of the adversarial loss."""
        _checks.batch("feature", feature)
        _checks.fits("feature", feature, "discriminator", self.discriminator)
        with evaluating(self.discriminator):
            logits = answer("discriminator", self.discriminator, feature.detach())
        if logits.ndim > 1:
            msg = (
                f"`discriminator` must give one logit per sample, shape (N, 1) or (N,), but got logits at each of "
                f"{tuple(logits.shape[1:])} places. Pool them inside of it."
            )
            raise ValueError(msg)
        return _normalised(logits).unsqueeze(1)

    def get_partial_classes_weight(self, weights: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean weights of samples of classes in `partial_classes_index`, and of all others.

        For diagnosis where the target's classes are known: the weights work if the first is well above the second.
        `weights` and `labels` have shape `(n,)` or `(n, 1)`. NaN where there are no such samples.
        """
        _checks.labels("labels", labels)
        _checks.weights("weights", weights, labels)
        return split_means(weights.flatten(), labels.flatten(), self.partial_classes_index)


@full_precision
def _normalised(logits: Tensor) -> Tensor:
    # a quotient of tiny sigmoids, taken in their logarithms, where none of them is lost
    return len(logits) * F.logsigmoid(logits).softmax(0)
