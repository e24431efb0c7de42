"""Contrastive domain discrepancy: aligns each class across the domains, and separates different classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption._global_batch import BatchMeanMetric
from adaption._kernels import Bandwidth, class_form
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption.conditional._classes import check_labels_of_both
from adaption.features.mmd import check_settings


@full_precision
def contrastive_domain_discrepancy(
    source_features: Tensor,
    source_labels: Tensor,
    target_features: Tensor,
    target_labels: Tensor,
    *,
    num_kernels: int = 5,
    bandwidth: Bandwidth = "median",
) -> Tensor:
    r"""Mean squared distance between equal classes of the two domains, minus that between different classes.

    .. math::
        \mathrm{CDD} = \frac1M \sum_c |\mu_c - \nu_c|^2 - \frac1{M (M - 1)} \sum_{c \ne c'} |\mu_c - \nu_{c'}|^2
            = 2 \operatorname*{mean}_{c \ne c'} \mu_c^\top \nu_{c'} - 2 \operatorname*{mean}_c \mu_c^\top \nu_c

    over the `M` classes that are in both batches, with the mean embeddings :math:`\mu_c` of the source samples and
    :math:`\nu_c` of the target samples of class `c`, in the kernel space of
    :func:`adaption.functional.maximum_mean_discrepancy`. The lengths :math:`|\mu_c|^2` and :math:`|\nu_c|^2` have the
    same weight in both sums and cancel, so only kernels between the domains count. With one class in common there is no
    second sum, and the value is the MMD of that class; with none, value and gradient are 0. A bandwidth that comes from
    the data is part of the differentiation, so the loss does not change when all features grow by a factor.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, `target_labels`: the same with `m`; integers
        - output: scalar in :math:`[-2, 2]`

    Args:
        source_features: features of the source batch.
        source_labels: classes of the source samples, any integers from 0 on.
        target_features: features of the target batch, of the same layer.
        target_labels: assigned classes of the target samples: their clusters, or the classes that a network predicts.
        num_kernels: number of Gaussians, at most 100, whose scales double from one to the next. They are averaged; the
            authors' code adds them up.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance, one for all samples; in
            the paper each pair of classes has its own.

    Raises:
        TypeError: for anything but floating-point features and integer labels.
        ValueError: for empty batches, wrong ranks, differing widths or devices, another number of labels than of
            samples, negative labels, and unknown options. On other devices than the CPU a negative label makes the
            value NaN.

    References:
        G. Kang, L. Jiang, Y. Yang, A. Hauptmann: Contrastive Adaptation Network for Unsupervised Domain Adaptation.
        CVPR 2019. https://arxiv.org/abs/1901.00976

    Example:
        Two classes at a distance of 1, each at the same point in both domains: :math:`2 e^{-1} - 2`.

        >>> import torch
        >>> from adaption.functional import contrastive_domain_discrepancy
        >>> features, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([4, 7])
        >>> contrastive_domain_discrepancy(features, labels, features, labels, num_kernels=1, bandwidth=1.0)
        tensor(-1.2642)
    """
    check_settings(num_kernels, bandwidth, "biased")
    check_labels_of_both(source_features, source_labels, target_features, target_labels)
    stacked = torch.cat([source_features, target_features])
    labels = torch.cat([source_labels.flatten(), target_labels.flatten()]).long()
    classes = torch.searchsorted(labels.sort().values, labels).to(stacked.dtype)  # labels may be too large for floats
    return class_form(stacked, classes, *_weights(labels, len(source_labels), stacked.dtype), num_kernels, bandwidth)


def _weights(labels: Tensor, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A column of the samples' shares of their class for each domain, and the weights of equal and unequal pairs."""
    source, target = _shares(labels[:n], labels[n:], dtype), _shares(labels[n:], labels[:n], dtype)
    number = source.sum().round()  # of the common classes, each of which has shares of sum 1
    own = torch.eye(2, dtype=dtype, device=source.device)
    across = 1 - own
    alike = (across + (number == 1) * own) / number.clamp(min=1)
    unlike = -across / (number * (number - 1)).clamp(min=1)
    weights = torch.block_diag(source[:, None], -target[:, None])
    refused = labels[:, None] < 0  # an error already, where labels are read
    return weights.masked_fill(refused, torch.nan), alike, unlike


def _shares(labels: Tensor, others: Tensor, dtype: torch.dtype) -> Tensor:
    """One over the number of samples of the same class; 0 if the other domain has none."""
    return (_occurrences(labels, others) > 0).to(dtype) / _occurrences(labels, labels)


def _occurrences(labels: Tensor, among: Tensor) -> Tensor:
    """How often each label is `among` others, without all pairs or a column for each class."""
    ordered = among.sort().values
    return torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)


class ContrastiveDomainDiscrepancyLoss(BatchMeanMetric):
    r"""Contrastive domain discrepancy (CDD, CAN); minimising it aligns equal classes and separates different ones.

    The formula is that of :func:`adaption.functional.contrastive_domain_discrepancy`. There is no adversary: the
    feature extractor minimises the value together with the task loss. The target has no labels, so they are estimated;
    the paper clusters the target's features, starting from the means of the source's classes, and repeats this
    regularly.

    `compute` returns the mean of the batch values, of which those without a common class are 0.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, `target_labels`: the same with `m`; integers

    Output: scalar in :math:`[-2, 2]`, below 0 where classes are nearer to the same class than to others.

    Args:
        num_kernels: number of Gaussian kernels, at most 100, whose scales double from one to the next.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point features and integer labels.
        ValueError: as :func:`adaption.functional.contrastive_domain_discrepancy`.

    References:
        G. Kang, L. Jiang, Y. Yang, A. Hauptmann: Contrastive Adaptation Network for Unsupervised Domain Adaptation.
        CVPR 2019. https://arxiv.org/abs/1901.00976

    Example:
        >>> import torch
        >>> from adaption import ContrastiveDomainDiscrepancyLoss
        >>> cdd = ContrastiveDomainDiscrepancyLoss(num_kernels=1, bandwidth=1.0)
        >>> features, labels = torch.tensor([[0.0], [1.0]], requires_grad=True), torch.tensor([0, 1])
        >>> loss = cdd(features, labels, features.detach(), labels)
        >>> loss.backward()
        >>> loss.detach(), cdd.compute()
        (tensor(-1.2642), tensor(-1.2642, dtype=torch.float64))
    """

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

    def update(
        self, source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_labels: Tensor
    ) -> None:
        """Add the value of a batch to the epoch."""
        self._accumulate(self._statistics(source_features, source_labels, target_features, target_labels))

    def _statistics(
        self, source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_labels: Tensor
    ) -> Statistics:
        batch = self._global_batch(
            source_features=source_features,
            source_labels=source_labels,
            target_features=target_features,
            target_labels=target_labels,
        )
        return contrastive_domain_discrepancy(*batch, num_kernels=self.num_kernels, bandwidth=self.bandwidth), 1
