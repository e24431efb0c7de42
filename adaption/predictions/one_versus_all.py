"""OVANet: a binary classifier for each class, trained on the source and made certain on the target."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from adaption import _checks, _reduction
from adaption._host import readable
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.predictions._entropy import total_entropy


def one_versus_all(open_logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross entropy of the classifier of each sample's class, plus that of the hardest other class.

    .. math::
        L = -\frac1n \sum_{i=1}^n \Bigl( \log p_{i y_i} + \min_{k \ne y_i} \log (1 - p_{ik}) \Bigr), \qquad
        p_{ik} = \frac{\exp z_{i1k}}{\exp z_{i0k} + \exp z_{i1k}}

    with the pair of logits `z` that each of `C` classifiers gives each of `n` labelled samples: index 0 of the second
    dimension says "not of this class", index 1 "of this class". Of all other classes only the one with the largest
    probability for the sample is trained. If there are several, they share the gradient.

    Shapes:
        - `open_logits`: :math:`(n, 2, C)`, `labels`: :math:`(n,)` or :math:`(n, 1)`, integers
        - output: scalar, at least 0; :math:`2 \log 2` where all pairs are equal

    Args:
        open_logits: the logits of the classifiers of all classes for the source samples. A linear layer with `2 C`
            outputs gives them by ``.view(-1, 2, C)``.
        labels: the classes of the samples, from 0 to `C - 1`.

    Raises:
        TypeError: for anything but floating-point logits and integer labels.
        ValueError: for an empty batch, a shape other than :math:`(n, 2, C)`, fewer than two classes, probabilities,
            labels that are not classes, and another number of labels than of samples.

    References:
        K. Saito, K. Saenko: OVANet: One-vs-All Network for Universal Domain Adaptation. ICCV 2021.
        https://arxiv.org/abs/2104.03344

    Example:
        The sample belongs to class 0; of the two others class 2 is the harder one.

        >>> import torch
        >>> from adaption.functional import one_versus_all
        >>> open_logits = torch.tensor([[[0.0, 9.0, 0.0], [2.0, 0.0, 1.0]]])
        >>> one_versus_all(open_logits, torch.tensor([0]))  # log(1 + exp(-2)) + log(1 + exp(1))
        tensor(1.4402)
    """
    return _reduction.value("mean", *_hardest(open_logits, labels))


def open_set_entropy(open_logits: Tensor) -> Tensor:
    r"""Mean entropy, in nats, of the predictions of the classifier of each class.

    .. math::
        L = -\frac{1}{m C} \sum_{i=1}^m \sum_{k=1}^C p_{ik} \log p_{ik} + (1 - p_{ik}) \log (1 - p_{ik}), \qquad
        p_{ik} = \frac{\exp z_{i1k}}{\exp z_{i0k} + \exp z_{i1k}}

    with the pair of logits `z` of each of `C` classes for each of `m` target samples, as in :func:`one_versus_all`.

    Shapes:
        - `open_logits`: :math:`(m, 2, C)`
        - output: scalar in :math:`[0, \log 2]`

    Args:
        open_logits: the logits of the classifiers of all classes for the target samples.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty batch, a shape other than :math:`(m, 2, C)`, fewer than two classes, and probabilities.

    References:
        K. Saito, K. Saenko: OVANet: One-vs-All Network for Universal Domain Adaptation. ICCV 2021.
        https://arxiv.org/abs/2104.03344

    Example:
        >>> import torch
        >>> from adaption.functional import open_set_entropy
        >>> open_set_entropy(torch.tensor([[[0.0, 0.0], [0.0, 200.0]]]))  # log 2 of the first class, 0 of the second
        tensor(0.3466)
    """
    return _reduction.value("mean", *_entropies(open_logits))


def _check(open_logits: object) -> None:
    _checks.tensor("open_logits", open_logits)
    open_logits = cast("Tensor", open_logits)
    if open_logits.ndim != 3 or open_logits.shape[1] != 2:
        msg = (
            "`open_logits` must have shape (N, 2, C), a pair of logits for each class, but got shape "
            f"{_checks.shape(open_logits)}. Turn 2 C outputs of a layer into pairs with `.view(len(outputs), 2, -1)`."
        )
        raise ValueError(msg)
    if open_logits.shape[2] < 2:
        msg = (
            f"`open_logits` must hold pairs for at least 2 classes, but got shape {_checks.shape(open_logits)}. "
            "Give each class of the source a pair of outputs."
        )
        raise ValueError(msg)
    _checks.not_probabilities("open_logits", open_logits)


@full_precision
def _hardest(open_logits: Tensor, labels: Tensor) -> Statistics:
    _check(open_logits)
    number = open_logits.shape[2]
    _checks.labels("labels", labels, number)
    _checks.same_batch("open_logits", open_logits, "labels", labels)
    odds = open_logits[:, 1] - open_logits[:, 0]
    places = labels.view(-1, 1).to(torch.int64, copy=True)  # which autograd keeps: not the caller's memory
    if readable(labels):
        known = odds.gather(1, places)
    else:  # labels that cannot be read are not checked: one that is not a class gives NaN
        inside = places.clamp(0, number - 1)
        known = torch.where(places == inside, odds.gather(1, inside), math.nan)
        places = inside
    hardest = odds.scatter(1, places, -math.inf).amax(1, keepdim=True)
    losses = F.softplus(torch.cat([-known, hardest]), threshold=40)  # beyond, it is the identity in float64 too
    return losses.sum(), len(labels)


@full_precision
def _entropies(open_logits: Tensor) -> Statistics:
    _check(open_logits)
    return total_entropy(open_logits)[0], open_logits.numel() // 2


class OneVersusAllLoss(AdditiveMetric):
    r"""OVANet's loss on the source: a classifier for each class learns the boundary of the class.

    Beside the usual classifier there is a pair of outputs for each class: not of this class, or of this class. Each
    sample is a positive one for the pair of its class, and a negative one for the other class with the largest
    probability for it. So the boundary of each class lies before its nearest neighbours, and samples between the
    classes belong to none of them, such as the unknown samples of the target. The network minimises it together with
    the task loss. For a target sample the usual classifier then predicts a class, and the pair of that class whether
    the sample is known.

    The formula is that of :func:`adaption.functional.one_versus_all`. `compute` is exact over the epoch.

    Inputs of `update` and `forward`:
        - `open_logits`: :math:`(n, 2, C)`, index 1 of the second dimension for "of this class", before softmax
        - `labels`: :math:`(n,)` or :math:`(n, 1)`, integers

    Output: scalar, at least 0.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point logits and integer labels.
        ValueError: as :func:`adaption.functional.one_versus_all`.

    References:
        K. Saito, K. Saenko: OVANet: One-vs-All Network for Universal Domain Adaptation. ICCV 2021.
        https://arxiv.org/abs/2104.03344

    Example:
        >>> import torch
        >>> from adaption import OneVersusAllLoss
        >>> one_versus_all, open_classifier = OneVersusAllLoss(), torch.nn.Linear(8, 2 * 5)
        >>> features, labels = torch.randn(4, 8), torch.tensor([0, 3, 1, 4])
        >>> one_versus_all(open_classifier(features).view(4, 2, 5), labels).backward()
    """

    plot_lower_bound = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep_sums("source_loss", "num_source")

    def update(self, open_logits: Tensor, labels: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(open_logits, labels))

    def _statistics(self, open_logits: Tensor, labels: Tensor) -> Statistics:
        return _hardest(open_logits, labels)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value("mean", *statistics)


class OpenSetEntropyLoss(AdditiveMetric):
    r"""OVANet's loss on the target: the classifier of each class becomes certain about each sample.

    It adapts the classifiers of :class:`OneVersusAllLoss` to the target: samples near a class move towards it, all
    others away. The network minimises it together with both losses on the source, with a small weight.

    The formula is that of :func:`adaption.functional.open_set_entropy`. `compute` is exact over the epoch.

    Inputs of `update` and `forward`:
        - `open_logits`: :math:`(m, 2, C)`, of target samples, before softmax

    Output: scalar in :math:`[0, \log 2]`.

    Args:
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: as :func:`adaption.functional.open_set_entropy`.

    References:
        K. Saito, K. Saenko: OVANet: One-vs-All Network for Universal Domain Adaptation. ICCV 2021.
        https://arxiv.org/abs/2104.03344

    Example:
        >>> import torch
        >>> from adaption import OpenSetEntropyLoss
        >>> entropy = OpenSetEntropyLoss()
        >>> entropy(torch.zeros(3, 2, 5)), entropy(200 * torch.eye(2).view(1, 2, 2))  # log 2, and certain
        (tensor(0.6931), tensor(0.))
    """

    plot_lower_bound = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep_sums("entropy", "num_pairs")

    def update(self, open_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(open_logits))

    def _statistics(self, open_logits: Tensor) -> Statistics:
        return _entropies(open_logits)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value("mean", *statistics)
