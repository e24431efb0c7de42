"""Local maximum mean discrepancy: the distance between the domains, class by class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption._global_batch import GlobalBatchMetric
from adaption._kernels import Bandwidth, quadratic_form
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption.conditional._classes import check_labels_and_logits, one_hot
from adaption.features.mmd import check_settings


@full_precision
def local_maximum_mean_discrepancy(
    source_features: Tensor,
    source_labels: Tensor,
    target_features: Tensor,
    target_logits: Tensor,
    *,
    num_kernels: int = 5,
    bandwidth: Bandwidth = "median",
) -> Tensor:
    r"""Mean over the classes of the squared distance between their mean embeddings in source and target.

    .. math::
        \mathrm{LMMD} = \frac1{|\mathcal C|} \sum_{c \in \mathcal C} \Bigl|
            \sum_i a_{ic} \, \varphi(s_i) - \sum_j b_{jc} \, \varphi(t_j) \Bigr|^2
            = \frac{\operatorname{tr} W^\top K W}{|\mathcal C|}, \qquad W = \binom{A}{-B}

    with the embedding :math:`\varphi` and the kernel matrix `K` of
    :func:`adaption.functional.maximum_mean_discrepancy`, over all `n + m` samples. A source sample counts for the class
    of its label, :math:`a_{ic} = 1 / n_c` for the :math:`n_c` samples of class `c`; a target sample counts for every
    class by its prediction, :math:`b_{jc} = p_{jc} / \sum_l p_{lc}`. The predictions :math:`p = \mathrm{softmax}(z)` of
    the logits `z` are held constant. :math:`\mathcal C` are the classes that a source sample has as its label and a
    target sample as its largest logit; where there are none, value and gradient are 0. A bandwidth that comes from the
    data is part of the differentiation, so the loss does not change when all features grow by a factor.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers; `target_logits`: :math:`(m, C)`
        - output: scalar in :math:`[0, 2]`

    Args:
        source_features: features of the source batch.
        source_labels: classes of the source samples, from 0 to `C - 1`.
        target_features: features of the target batch, of the same layer.
        target_logits: the classifier's logits for the target samples; it gets no gradient.
        num_kernels: number `K` of Gaussians, at most 100, whose scales double from one to the next. They are averaged;
            the authors' code adds them up.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance.

    Raises:
        TypeError: for anything but floating-point features and logits, and integer labels.
        ValueError: for empty batches, wrong ranks, differing widths or devices, another number of labels or logits than
            of samples, labels that are not classes, probabilities instead of logits, and unknown options. On other
            devices than the CPU a label that is not a class makes the value NaN.

    References:
        Y. Zhu, F. Zhuang, J. Wang, G. Ke, J. Chen, J. Bian, H. Xiong, Q. He: Deep Subdomain Adaptation Network for
        Image Classification. IEEE Transactions on Neural Networks and Learning Systems 2021.
        https://ieeexplore.ieee.org/document/9085896

    Example:
        Two classes, each at one point in each domain: the mean of :math:`2 - 2 k` at both distances.

        >>> import torch
        >>> from adaption.functional import local_maximum_mean_discrepancy
        >>> source, target = torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [9.0]])
        >>> logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
        >>> local_maximum_mean_discrepancy(source, torch.tensor([0, 1]), target, logits, num_kernels=1, bandwidth=1.0)
        tensor(0.6321)
    """
    check_settings(num_kernels, bandwidth, "biased")
    check_labels_and_logits(source_features, source_labels, target_features, target_logits)
    stacked = torch.cat([source_features, target_features])
    return quadratic_form([stacked], _weights(source_labels, target_logits, stacked), [num_kernels], [bandwidth])


def _weights(labels: Tensor, logits: Tensor, samples: Tensor) -> Tensor:
    """The weight of each sample for each class, negative for the target, scaled to average over the classes."""
    p = logits.detach().softmax(1).to(samples.dtype)
    own = one_hot(labels, p.shape[1], p.dtype)
    likely = one_hot(p.argmax(1), p.shape[1], p.dtype)
    common = (own.sum(0) > 0) & (likely.sum(0) > 0)
    weights = torch.cat([own / own.sum(0), -p / p.sum(0)]).where(common, 0)
    nothing = 0 * (own.sum() + p.sum())  # NaN if anything is, which a comparison would swallow
    return weights / common.sum().clamp(min=1).to(weights.dtype).sqrt() + nothing


class LocalMaximumMeanDiscrepancyLoss(GlobalBatchMetric):
    r"""Local maximum mean discrepancy (LMMD, DSAN); minimising it aligns equal classes.

    The formula is that of :func:`adaption.functional.local_maximum_mean_discrepancy`. There is no adversary: the
    feature extractor minimises the value together with the task loss. The classes of the target are those that the
    network predicts, so these must be mostly right: increase the weight from 0.

    `compute` returns the mean of the batch values, each weighted by its number of samples `n + m`.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers; `target_logits`: :math:`(m, C)`, before softmax

    Output: scalar in :math:`[0, 2]`; 0 also where no class is in both batches.

    Args:
        num_kernels: number of Gaussian kernels, at most 100, whose scales double from one to the next.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point features and logits, and integer labels.
        ValueError: as :func:`adaption.functional.local_maximum_mean_discrepancy`.

    References:
        Y. Zhu, F. Zhuang, J. Wang, G. Ke, J. Chen, J. Bian, H. Xiong, Q. He: Deep Subdomain Adaptation Network for
        Image Classification. IEEE Transactions on Neural Networks and Learning Systems 2021.
        https://ieeexplore.ieee.org/document/9085896

    Example:
        >>> import torch
        >>> from adaption import LocalMaximumMeanDiscrepancyLoss
        >>> lmmd = LocalMaximumMeanDiscrepancyLoss(num_kernels=1, bandwidth=1.0)
        >>> source, target = torch.tensor([[0.0], [9.0]], requires_grad=True), torch.tensor([[1.0], [9.0]])
        >>> loss = lmmd(source, torch.tensor([0, 1]), target, torch.tensor([[200.0, 0.0], [0.0, 200.0]]))
        >>> loss.backward()
        >>> loss.detach(), lmmd.compute()
        (tensor(0.6321), tensor(0.6321, dtype=torch.float64))
    """

    plot_lower_bound = 0.0

    def __init__(
        self,
        num_kernels: int = 5,
        *,
        bandwidth: Bandwidth = "median",
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        check_settings(num_kernels, bandwidth, "biased")
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.num_kernels = num_kernels
        self.bandwidth = bandwidth
        self._keep_sums("weighted_values", "num_samples")

    def update(
        self, source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_logits: Tensor
    ) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, source_labels, target_features, target_logits))

    def _statistics(
        self, source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_logits: Tensor
    ) -> Statistics:
        batch = self._global_batch(
            source_features=source_features,
            source_labels=source_labels,
            target_features=target_features,
            target_logits=target_logits,
        )
        value = local_maximum_mean_discrepancy(*batch, num_kernels=self.num_kernels, bandwidth=self.bandwidth)
        number = len(batch[0]) + len(batch[2])
        return value * number, number

    def _value(self, *statistics: Tensor) -> Tensor:
        total, number = statistics
        return total / number
