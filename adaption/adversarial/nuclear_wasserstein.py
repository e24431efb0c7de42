"""DALN: the classifier itself tells the domains apart, by the nuclear norm of its predictions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adaption import _checks
from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._nuclear_norm import check_classes_of_before, gram_of_classes, norm_of_batch, norm_of_sums, predictions
from adaption._precision import full_precision


@full_precision
def nuclear_wasserstein_discrepancy(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    r"""Nuclear norm of the target's predictions minus that of the source's, each relative to its largest value.

    .. math::
        L = \frac{\lVert P_t \rVert_*}{\sqrt{m C}} - \frac{\lVert P_s \rVert_*}{\sqrt{n C}}

    with the nuclear norm, the sum of the singular values, and the matrices `P` of the predictions (the softmax of the
    logits for `C` classes) for `n` source and `m` target samples. Certain and balanced predictions have a norm of 1,
    uniform ones of :math:`1 / C`. So the value is :math:`1 / C - 1` where the source is certain and balanced and the
    target uniform, 0 where both are alike, and at most :math:`1 - 1 / C`.

    The paper divides both norms by the batch size, the same for both. With the divisors here `n` and `m` may differ: a
    batch in which every sample occurs twice has the same value.

    Shapes:
        - `source_logits`: :math:`(n, C)`, `target_logits`: :math:`(m, C)`; `n` and `m` may differ
        - output: scalar in :math:`[1 / C - 1, 1 - 1 / C]`

    Args:
        source_logits: the classifier's logits for the source samples.
        target_logits: its logits for the target samples.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, wrong ranks, fewer than two classes, differing numbers of classes or devices, and
            probabilities.

    References:
        L. Chen, H. Chen, Z. Wei, X. Jin, X. Tan, Y. Jin, E. Chen: Reusing the Task-specific Classifier as a
        Discriminator: Discriminator-free Adversarial Domain Adaptation. CVPR 2022. https://arxiv.org/abs/2204.03838

    Example:
        The predictions are certain on the source, and uniform on the target.

        >>> import torch
        >>> from adaption.functional import nuclear_wasserstein_discrepancy
        >>> nuclear_wasserstein_discrepancy(200 * torch.eye(4), torch.zeros(6, 4))
        tensor(-0.7500)
    """
    source, target = _predictions(source_logits, target_logits)
    return norm_of_batch(target) - norm_of_batch(source)


def _predictions(source_logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
    source, target = predictions("source_logits", source_logits), predictions("target_logits", target_logits)
    _checks.same_layer("source_logits", source, "target_logits", target)
    return source, target


@full_precision
def _statistics(source_logits: Tensor, target_logits: Tensor) -> Statistics:
    """The Gram matrix of the classes and the number of samples for each domain, and the predictions of both."""
    source, target = _predictions(source_logits, target_logits)
    return gram_of_classes(source), len(source), gram_of_classes(target), len(target), source, target


class NuclearWassersteinDiscrepancyLoss(GlobalBatchMetric):
    r"""Nuclear-norm Wasserstein discrepancy (DALN): the classifier minimises it, the feature extractor maximises it.

    There is no discriminator. A classifier that is trained on the source makes certain and diverse predictions there,
    whose nuclear norm is large; on the target it is smaller. The classifier learns to widen this gap, and the features
    to close it, so that predictions on the target become as certain and diverse as on the source. Put a gradient
    reversal between features and classifier, for both batches: ``classifier(gradient_reversal(features))``. Do not
    subtract the loss.

    The formula is that of :func:`adaption.functional.nuclear_wasserstein_discrepancy`. `compute` is the exact value of
    all samples of the epoch as one batch, from the sums of the batches' :math:`P^\top P`, which take :math:`2 C^2`
    numbers.

    Inputs of `update` and `forward`:
        - `source_logits`: :math:`(n, C)`, `target_logits`: :math:`(m, C)`, before softmax; `n` and `m` may differ

    Output: scalar in :math:`[1 / C - 1, 1 - 1 / C]`.

    Args:
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.nuclear_wasserstein_discrepancy`, and where the number of classes
            differs from that of the batches before.

    References:
        L. Chen, H. Chen, Z. Wei, X. Jin, X. Tan, Y. Jin, E. Chen: Reusing the Task-specific Classifier as a
        Discriminator: Discriminator-free Adversarial Domain Adaptation. CVPR 2022. https://arxiv.org/abs/2204.03838

    Example:
        >>> import torch
        >>> from adaption import NuclearWassersteinDiscrepancyLoss
        >>> from adaption.functional import gradient_reversal
        >>> discrepancy, classifier = NuclearWassersteinDiscrepancyLoss(), torch.nn.Linear(8, 5)
        >>> source, target = torch.randn(6, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
        >>> discrepancy(classifier(gradient_reversal(source)), classifier(gradient_reversal(target))).backward()

        Two classes; certain on the source, uniform on the target:

        >>> discrepancy = NuclearWassersteinDiscrepancyLoss()
        >>> discrepancy(torch.tensor([[200.0, 0.0], [0.0, 200.0]]), torch.zeros(3, 2))
        tensor(-0.5000)
        >>> discrepancy.compute()
        tensor(-0.5000, dtype=torch.float64)
    """

    higher_is_better = None  # of a game, neither: the features raise what the classifier lowers
    plot_lower_bound = -1.0
    plot_upper_bound = 1.0

    source_gram: Tensor

    def __init__(self, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        for domain in ("source", "target"):
            self._keep_vectors(f"{domain}_gram")  # row by row
            self._keep_sums(f"num_{domain}")

    def update(self, source_logits: Tensor, target_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_logits, target_logits))

    def _statistics(self, source_logits: Tensor, target_logits: Tensor) -> Statistics:
        source_logits, target_logits = self._global_batch(source_logits=source_logits, target_logits=target_logits)
        statistics = _statistics(source_logits, target_logits)
        check_classes_of_before("source_logits", source_logits, self.source_gram)
        return statistics

    def _batch_value(self, *statistics: Any) -> Tensor:
        source, target = statistics[-2:]
        return norm_of_batch(target) - norm_of_batch(source)

    def _value(self, *statistics: Any) -> Tensor:
        source, target = statistics[:2], statistics[2:]
        return norm_of_sums(*target) - norm_of_sums(*source)
