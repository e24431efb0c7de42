"""Nuclear-norm maximisation: a large nuclear norm of the predictions makes them certain and diverse."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adaption._global_batch import GlobalBatchMetric
from adaption._metric import Statistics
from adaption._nuclear_norm import check_classes_of_before, gram_of_classes, norm_of_batch, norm_of_sums, predictions
from adaption._precision import full_precision


@full_precision
def nuclear_norm_maximization(target_logits: Tensor) -> Tensor:
    r"""Negative nuclear norm of the matrix of predictions, relative to its largest value.

    .. math::
        L = -\frac{\lVert P \rVert_*}{\sqrt{m C}} = -\frac{1}{\sqrt{m C}} \sum_j \sigma_j, \qquad
        P_i = \mathrm{softmax}(z_i)

    with the logits `z` of `C` classes for `m` target samples and the singular values :math:`\sigma` of `P`. Certain and
    balanced predictions give -1, one class for all samples :math:`-1 / \sqrt C`, uniform predictions :math:`-1 / C`.
    Divided by :math:`\sqrt{m C}`, it does not change if every sample occurs twice; with the paper's division by `m` it
    depends on the batch size.

    The gradient of the norm is :math:`U V^\top` from the singular vectors, finite where singular values coincide and,
    without the vectors of singular values below rounding error, where `P` has a lower rank. Both are computed from the
    eigenvalues of the smaller one of :math:`P^\top P` and :math:`P P^\top`, in float64.

    Shapes:
        - `target_logits`: :math:`(m, C)`; output: scalar in :math:`[-1, 0)`

    Args:
        target_logits: the classifier's logits for the target samples.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty tensor, a wrong rank, fewer than two classes, and probabilities.

    References:
        S. Cui, S. Wang, J. Zhuo, L. Li, Q. Huang, Q. Tian: Towards Discriminability and Diversity: Batch Nuclear-norm
        Maximization under Label Insufficient Situations. CVPR 2020. https://arxiv.org/abs/2003.12237

    Example:
        >>> import torch
        >>> from adaption.functional import nuclear_norm_maximization
        >>> nuclear_norm_maximization(200 * torch.eye(3)), nuclear_norm_maximization(torch.zeros(3, 4))
        (tensor(-1.), tensor(-0.2500))
    """
    return -norm_of_batch(predictions("target_logits", target_logits))


@full_precision
def _statistics(target_logits: Tensor) -> Statistics:
    """The Gram matrix of the classes, the number of samples, and the predictions for the value of the batch."""
    p = predictions("target_logits", target_logits)
    return gram_of_classes(p), len(p), p


class NuclearNormMaximizationLoss(GlobalBatchMetric):
    r"""Batch nuclear-norm maximisation (BNM): the network minimises it, which makes predictions certain and diverse.

    There is no adversary: classifier and features minimise it together with the task loss on the source; the sign is
    already reversed. Without training, it is a score of a network that needs no labels: -1 for certain and balanced
    predictions, :math:`-1 / \sqrt C` for one class for all.

    The formula is that of :func:`adaption.functional.nuclear_norm_maximization`. `compute` is the exact value of all
    samples of the epoch as one matrix, from the sum of the batches' :math:`P^\top P`, which takes :math:`C^2` numbers.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, C)`, before softmax

    Output: scalar in :math:`[-1, 0)`.

    Args:
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: as :func:`adaption.functional.nuclear_norm_maximization`, and where the number of classes differs
            from that of the batches before.

    References:
        S. Cui, S. Wang, J. Zhuo, L. Li, Q. Huang, Q. Tian: Towards Discriminability and Diversity: Batch Nuclear-norm
        Maximization under Label Insufficient Situations. CVPR 2020. https://arxiv.org/abs/2003.12237

    Example:
        Each batch has samples of one class only, the epoch is balanced.

        >>> import torch
        >>> from adaption import NuclearNormMaximizationLoss
        >>> nuclear_norm = NuclearNormMaximizationLoss()
        >>> nuclear_norm(torch.tensor([[200.0, 0.0]])), nuclear_norm(torch.tensor([[0.0, 200.0]]))
        (tensor(-0.7071), tensor(-0.7071))
        >>> nuclear_norm.compute()
        tensor(-1., dtype=torch.float64)
    """

    plot_lower_bound = -1.0
    plot_upper_bound = 0.0

    class_gram: Tensor

    def __init__(self, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self._keep_vectors("class_gram")  # row by row
        self._keep_sums("num_samples")

    def update(self, target_logits: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        (target_logits,) = self._global_batch(target_logits=target_logits)
        statistics = _statistics(target_logits)
        check_classes_of_before("target_logits", target_logits, self.class_gram)
        return statistics

    def _batch_value(self, *statistics: Any) -> Tensor:
        return -norm_of_batch(statistics[-1])

    def _value(self, *statistics: Any) -> Tensor:
        return -norm_of_sums(*statistics)
