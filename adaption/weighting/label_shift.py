"""Label shift: how much more frequent each class is in the target than in the source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption._spectrum import finite
from adaption._states import sum_dtype
from adaption.conditional._classes import one_hot

METHODS = ("bbse", "em")
# EM ends where no proportion changes by more than the first, and calls those below the second 0, which it only nears
_TOLERANCE, _NOTHING, _MOST_STEPS = 1e-13, 1e-10, 10_000


def label_shift_weights(
    source_logits: Tensor, source_labels: Tensor, target_logits: Tensor, *, method: str = "bbse"
) -> Tensor:
    r"""Ratio of the proportions of each class in target and source, from the predictions of one classifier.

    .. math:: w_k = \frac{p_t(y = k)}{p_s(y = k)}

    where the domains differ only in the frequency of the classes. ``"bbse"`` counts predicted classes. In the source,
    by true class, they give the confusion matrix; in the target they are a mixture of its columns:

    .. math:: C_{ik} = p_s(\hat y = i, y = k), \qquad \mu_i = p_t(\hat y = i), \qquad C w = \mu

    If `C` is singular, the least-squares solution nearest to :math:`w = 1` is used: classes that the classifier never
    tells apart keep the ratio that they have in the source. Negative weights are set to 0, and all are scaled so that
    the proportions of the source weighted by them sum to 1; if none is positive, all are 1. ``"em"`` uses the
    probabilities :math:`p = \mathrm{softmax}(z)`, and finds the proportions `q` that maximise the likelihood of the
    target's samples:

    .. math::
        q_k \leftarrow \frac1m \sum_j \frac{p_{jk} \, q_k / p_s(k)}{\sum_l p_{jl} \, q_l / p_s(l)}, \qquad
        w_k = \frac{q_k}{p_s(k)}

    until no proportion changes by more than :math:`10^{-13}`; those below :math:`10^{-10}` are 0. It is more accurate
    if the probabilities are calibrated, and less if not. Both give 0 to a class that the source lacks.

    Shapes:
        - `source_logits`: :math:`(n, C)`, `target_logits`: :math:`(m, C)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers
        - output: :math:`(C,)`, at least 0, in float64 where the device has it

    Args:
        source_logits: the classifier's logits for source samples that it was not trained on.
        source_labels: their classes, from 0 to `C - 1`.
        target_logits: its logits for target samples.
        method: ``"bbse"`` or ``"em"``, which uses only the labels of the source and the logits of the target.

    Raises:
        TypeError: for anything but floating-point logits and integer labels.
        ValueError: for empty batches, wrong ranks, another number of labels than of samples, of classes in the target
            than in the source, labels that are not classes, probabilities instead of logits, and other methods.

    References:
        Z. Lipton, Y.-X. Wang, A. Smola: Detecting and Correcting for Label Shift with Black Box Predictors. ICML 2018.
        https://arxiv.org/abs/1802.03916

        M. Saerens, P. Latinne, C. Decaestecker: Adjusting the Outputs of a Classifier to New a Priori Probabilities: A
        Simple Procedure. Neural Computation 2002. https://doi.org/10.1162/089976602753284446

    Example:
        In the source the classes are equally frequent; in the target the second is predicted three times as often.

        >>> import torch
        >>> from adaption.functional import label_shift_weights
        >>> named = 9 * torch.eye(2)
        >>> label_shift_weights(named, torch.tensor([0, 1]), named[[0, 1, 1, 1]])
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    _checks.option("method", method, METHODS)
    return _weights(method, *_statistics(method, source_logits, source_labels, target_logits))


@full_precision
def _statistics(method: str, source_logits: Tensor, source_labels: Tensor, target_logits: Tensor) -> Statistics:
    for name, logits in (("source_logits", source_logits), ("target_logits", target_logits)):
        _checks.flat_logits(name, logits)
    number = source_logits.shape[1]
    _checks.columns("target_logits", target_logits, number, "source_logits", "Take both from one classifier.")
    _checks.labels("source_labels", source_labels, number)
    _checks.same_batch("source_logits", source_logits, "source_labels", source_labels)
    wide = sum_dtype(source_logits.device)
    own = one_hot(source_labels, number, wide)
    if method == "em":
        return own.sum(0), target_logits.to(wide).softmax(1)
    return (_named(source_logits, wide).T @ own).flatten(), _named(target_logits, wide).sum(0)


def _named(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """A row for each sample, 1 at the predicted class, NaN where the logits are NaN."""
    unknown = logits.isnan().any(1, keepdim=True)
    return one_hot(logits.argmax(1), logits.shape[1], dtype).masked_fill(unknown, torch.nan)


def _weights(method: str, counts: Tensor, of_target: Tensor) -> Tensor:
    return _by_likelihood(counts, of_target) if method == "em" else _by_confusion(counts, of_target)


def _by_confusion(confusion: Tensor, named: Tensor) -> Tensor:
    """Weights from counts: predicted and true classes in the source, row by row, and predicted ones in the target."""
    joint = confusion.view(len(named), -1) / confusion.sum()
    proportions = joint.sum(0)
    # the distance from no shift: of many solutions the shortest
    moved = named / named.sum() - joint.sum(1)
    weights = 1 + torch.linalg.pinv(finite(joint)) @ moved
    present = proportions > 0
    weights = weights.clamp(min=0).where(present, 0) + 0 * (joint.sum() + moved.sum())
    total = proportions @ weights
    return torch.where(total == 0, present.to(total.dtype), weights / torch.where(total == 0, 1, total))


def _by_likelihood(counts: Tensor, probabilities: Tensor) -> Tensor:
    """Weights from the counts of the source's classes, and the probabilities of each target sample."""
    source = counts / counts.sum()
    inverse = torch.where(source > 0, 1 / torch.where(source > 0, source, 1), 0)
    odds = probabilities * inverse
    proportions = source
    for _ in range(_MOST_STEPS):
        before, joint = proportions, odds * proportions
        likelihood = joint.sum(1, keepdim=True)
        seen = likelihood != 0  # a sample only of classes that the source does not have says nothing
        shares = joint / torch.where(seen, likelihood, 1)
        proportions = shares.sum(0) / seen.sum().clamp(min=1)
        if not bool((proportions - before).abs().amax() > _TOLERANCE):
            break
    return torch.where(proportions <= _NOTHING, 0, proportions) * inverse


class LabelShiftWeights(AdditiveMetric):
    r"""Weights of the source's classes for a target with different class proportions (BBSE, EM).

    Losses that align the features of both domains cannot succeed where the class proportions differ: to make the
    domains alike, samples of one class would have to be matched with another. Weighted by their class, the source
    samples have the class proportions of the target:

    .. code-block:: python

        weights = shift.compute()
        loss = F.cross_entropy(logits, labels, weight=weights) + mmd(source, target, source_weights=weights[labels])

    The formula is that of :func:`adaption.functional.label_shift_weights`. `compute` is its value for all samples since
    the last `reset`, exact over batches and ranks: from :math:`C^2 + C` counts, or with ``"em"`` from the probabilities
    of all target samples. They have no gradient.

    Inputs of `update` and `forward`:
        - `source_logits`: :math:`(n, C)`, `target_logits`: :math:`(m, C)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers

    Output: :math:`(C,)`, at least 0; weighted by them, the proportions of the source sum to 1.

    Args:
        num_classes: `C`.
        method: ``"bbse"`` or ``"em"``.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point logits, integer labels, and an integer.
        ValueError: as :func:`adaption.functional.label_shift_weights`, and for logits of another number of classes.

    References:
        Z. Lipton, Y.-X. Wang, A. Smola: Detecting and Correcting for Label Shift with Black Box Predictors. ICML 2018.
        https://arxiv.org/abs/1802.03916

        M. Saerens, P. Latinne, C. Decaestecker: Adjusting the Outputs of a Classifier to New a Priori Probabilities: A
        Simple Procedure. Neural Computation 2002. https://doi.org/10.1162/089976602753284446

    Example:
        >>> import torch
        >>> from adaption import LabelShiftWeights
        >>> shift, named = LabelShiftWeights(num_classes=2), 9 * torch.eye(2)
        >>> shift.update(named, torch.tensor([0, 1]), named[[1, 1]])
        >>> shift.update(named, torch.tensor([0, 1]), named[[0, 1]])
        >>> shift.compute()
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    plot_lower_bound = 0.0

    def __init__(self, num_classes: int, *, method: str = "bbse", **kwargs: Any) -> None:
        _checks.count("num_classes", num_classes, at_least=2)
        _checks.option("method", method, METHODS)
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.method = method
        if method == "em":
            self._keep_vectors("class_counts", length=num_classes)
            self._keep_samples("target_probabilities")
        else:
            self._keep_vectors("confusion", length=num_classes**2)
            self._keep_vectors("named_in_target", length=num_classes)

    def update(self, source_logits: Tensor, source_labels: Tensor, target_logits: Tensor) -> None:
        """Count a batch."""
        self._accumulate(self._statistics(source_logits, source_labels, target_logits))

    def _statistics(self, source_logits: Tensor, source_labels: Tensor, target_logits: Tensor) -> Statistics:
        statistics = _statistics(self.method, source_logits, source_labels, target_logits)
        _checks.columns("source_logits", source_logits, self.num_classes, "num_classes", "Look for a typo.")
        return statistics

    def _value(self, *statistics: Tensor) -> Tensor:
        return _weights(self.method, *statistics)
