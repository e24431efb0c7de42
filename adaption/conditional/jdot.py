"""Joint distribution optimal transport: a plan that transports features and labels to the target together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._global_batch import BatchMeanMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption._states import sum_dtype
from adaption._transport import Transport, pull, scale, solve, squared_distances
from adaption.conditional._classes import check_labels_and_logits, one_hot
from adaption.features import sinkhorn


@full_precision
def joint_distribution_optimal_transport(
    source_features: Tensor,
    source_labels: Tensor,
    target_features: Tensor,
    target_logits: Tensor,
    feature_weight: float = 0.01,
    label_weight: float = 1.0,
    *,
    regularization: float = 0.05,
    max_iters: int = 100,
    marginal_penalty: float | None = None,
) -> Tensor:
    r"""Cost of transporting labelled source samples to target samples with similar features and predictions.

    .. math::
        \mathrm{JDOT} = \sum_{ij} \pi_{ij} M_{ij}, \qquad
        M_{ij} = \alpha \, |s_i - t_j|^2 - \beta \log p_{j y_i}

    with the source features `s` and labels `y`, the target features `t`, the predictions
    :math:`p = \mathrm{softmax}(z)` of the logits `z`, and the weights :math:`\alpha` and :math:`\beta`. The plan
    :math:`\pi` is the one with the smallest :math:`\sum \pi M + \varepsilon \, \mathrm{KL}(\pi \,|\, a b^\top)` whose
    rows sum to :math:`a = 1 / n` and whose columns sum to :math:`b = 1 / m`. With a `marginal_penalty` :math:`\tau`
    these sums may differ, with a penalty:

    .. math::
        \min_\pi \sum_{ij} \pi_{ij} M_{ij} + \varepsilon \, \mathrm{KL}(\pi \,|\, a b^\top)
        + \tau \, \mathrm{KL}(\pi 1 \,|\, a) + \tau \, \mathrm{KL}(\pi^\top 1 \,|\, b)

    so that samples without a match need not be transported. Both :math:`\varepsilon` and :math:`\tau` are in units of
    the mean of `M`; where that is 0 it counts as 1. The plan is held constant in the differentiation: features of a
    pair move together, and predictions learn the labels that are transported to them.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers; `target_logits`: :math:`(m, C)`
        - output: scalar, at least 0

    Args:
        source_features: features of the source batch.
        source_labels: classes of the source samples, from 0 to `C - 1`.
        target_features: features of the target batch, of the same layer.
        target_logits: the classifier's logits for the target samples.
        feature_weight: :math:`\alpha`, of the squared distances.
        label_weight: :math:`\beta`, of the cross-entropies.
        regularization: :math:`\varepsilon` in units of the mean cost. As it goes to 0 the plan becomes that of the
            paper.
        max_iters: maximum number of steps of Sinkhorn's iteration. On the CPU it stops earlier at convergence.
        marginal_penalty: :math:`\tau` in units of the mean cost; None for rows and columns that sum to `a` and `b`.

    Raises:
        TypeError: for anything but floating-point features and logits, integer labels, and numbers.
        ValueError: for empty batches, wrong ranks, differing widths or devices, another number of labels or logits than
            of samples, labels that are not classes, probabilities instead of logits, and settings out of their bounds.
            On other devices than the CPU a label that is not a class makes the value NaN.

    References:
        B. B. Damodaran, B. Kellenberger, R. Flamary, D. Tuia, N. Courty: DeepJDOT: Deep Joint Distribution Optimal
        Transport for Unsupervised Domain Adaptation. ECCV 2018. https://arxiv.org/abs/1803.10081

        K. Fatras, T. Séjourné, N. Courty, R. Flamary: Unbalanced minibatch Optimal Transport; applications to Domain
        Adaptation. ICML 2021. https://arxiv.org/abs/2103.03606

    Example:
        One sample each: only one plan is possible, and the value is its cost.

        >>> import torch
        >>> from adaption.functional import joint_distribution_optimal_transport
        >>> source, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 4.0]])
        >>> joint_distribution_optimal_transport(source, torch.tensor([0]), target, torch.zeros(1, 2))  # 0.25 + log 2
        tensor(0.9431)
    """
    check_settings(feature_weight, label_weight, regularization, max_iters, marginal_penalty)
    check_labels_and_logits(source_features, source_labels, target_features, target_logits)
    own = one_hot(source_labels, target_logits.shape[1], source_features.dtype)
    softness = 1.0 if marginal_penalty is None else marginal_penalty / (marginal_penalty + regularization)
    options = [feature_weight, label_weight, regularization, softness, float(max_iters)]
    return _cost_of_the_plan([source_features, target_features, target_logits.log_softmax(1), own], options)


def check_settings(
    feature_weight: float, label_weight: float, regularization: float, max_iters: int, marginal_penalty: float | None
) -> None:
    """The settings of cost and plan."""
    _checks.number("feature_weight", feature_weight, at_least=0)
    _checks.number("label_weight", label_weight, at_least=0)
    sinkhorn.check_settings(regularization, max_iters)
    if marginal_penalty is not None:
        _checks.positive("marginal_penalty", marginal_penalty)


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    feature_weight, label_weight, regularization, softness, max_iters = options
    wide = sum_dtype(tensors[0].device)
    source, target, log_p, own = (tensor.to(wide) for tensor in tensors)
    centre = (source.mean(0) + target.mean(0)) / 2  # squares of features far from 0 would round
    x, y = source - centre, target - centre
    cost = squared_distances(x, y).mul_(feature_weight).addmm_(own, log_p.T, alpha=-label_weight)
    a, b = (torch.full_like(rows[:, 0], 1 / len(rows)) for rows in (x, y))
    problem = Transport(cost / (regularization * scale(cost, a, b)), a, b, softness)
    solve([problem], int(max_iters))
    plan = problem.plan()
    results = [(plan * cost).sum().to(tensors[0].dtype)]
    gradients = (
        lambda: feature_weight * pull(plan, x, y),
        lambda: feature_weight * pull(plan.T, y, x),
        lambda: -label_weight * (plan.T @ own),
        lambda: torch.zeros_like(own),
    )
    asked = zip(tensors, gradients, needed, strict=True)
    return results + [gradient().to(tensor.dtype) for tensor, gradient, need in asked if need]


_cost_of_the_plan = ClosedForm("joint_transport", _evaluate)


class JointDistributionOptimalTransportLoss(BatchMeanMetric):
    r"""Joint distribution optimal transport (JDOT, DeepJDOT, JUMBOT); minimising it aligns equal classes.

    The formula is that of :func:`adaption.functional.joint_distribution_optimal_transport`. There is no adversary:
    features and classifier minimise the value together with the task loss. With a `marginal_penalty` the plan is
    unbalanced (JUMBOT), and outliers of a batch need not be transported.

    `compute` returns the mean of the batch values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers; `target_logits`: :math:`(m, C)`, before softmax

    Output: scalar, at least 0.

    Args:
        feature_weight: weight of the squared distances of the features in the cost.
        label_weight: weight of the cross-entropies between labels and predictions.
        regularization: the entropy of the plan, in units of the mean cost.
        max_iters: maximum number of steps of Sinkhorn's iteration.
        marginal_penalty: the penalty for leaving samples out, in units of the mean cost; None if no sample may be left
            out.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point features and logits, integer labels, and numbers.
        ValueError: as :func:`adaption.functional.joint_distribution_optimal_transport`.

    References:
        B. B. Damodaran, B. Kellenberger, R. Flamary, D. Tuia, N. Courty: DeepJDOT: Deep Joint Distribution Optimal
        Transport for Unsupervised Domain Adaptation. ECCV 2018. https://arxiv.org/abs/1803.10081

        K. Fatras, T. Séjourné, N. Courty, R. Flamary: Unbalanced minibatch Optimal Transport; applications to Domain
        Adaptation. ICML 2021. https://arxiv.org/abs/2103.03606

    Example:
        >>> import torch
        >>> from adaption import JointDistributionOptimalTransportLoss
        >>> jdot = JointDistributionOptimalTransportLoss()
        >>> source, target = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[4.0, 4.0]])
        >>> loss = jdot(source, torch.tensor([0]), target, torch.zeros(1, 2))
        >>> loss.backward()
        >>> loss.detach(), jdot.compute()
        (tensor(0.9431), tensor(0.9431, dtype=torch.float64))
    """

    plot_lower_bound = 0.0

    def __init__(
        self,
        feature_weight: float = 0.01,
        label_weight: float = 1.0,
        *,
        regularization: float = 0.05,
        max_iters: int = 100,
        marginal_penalty: float | None = None,
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        check_settings(feature_weight, label_weight, regularization, max_iters, marginal_penalty)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.feature_weight = feature_weight
        self.label_weight = label_weight
        self.regularization = regularization
        self.max_iters = max_iters
        self.marginal_penalty = marginal_penalty

    def update(
        self, source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_logits: Tensor
    ) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, source_labels, target_features, target_logits))

    def _statistics(
        self, source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_logits: Tensor
    ) -> Statistics:
        features, labels, others, logits = self._global_batch(
            source_features=source_features,
            source_labels=source_labels,
            target_features=target_features,
            target_logits=target_logits,
        )
        value = joint_distribution_optimal_transport(
            features,
            labels,
            others,
            logits,
            self.feature_weight,
            self.label_weight,
            regularization=self.regularization,
            max_iters=self.max_iters,
            marginal_penalty=self.marginal_penalty,
        )
        return value, 1
