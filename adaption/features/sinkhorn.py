"""Sinkhorn divergence: the cost of moving the samples of one domain to those of the other."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._global_batch import BatchMeanMetric
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption._states import sum_dtype
from adaption._transport import Transport, pull, scale, solve, squared_distances
from adaption.features.mmd import check_pair, normalised


@full_precision
def sinkhorn_divergence(
    source_features: Tensor,
    target_features: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    regularization: float = 0.05,
    max_iters: int = 100,
) -> Tensor:
    r"""Cost of the regularised optimal transport between source and target features, without its bias.

    .. math::
        S = \mathrm{OT}(s, t) - \tfrac12 \mathrm{OT}(s, s) - \tfrac12 \mathrm{OT}(t, t), \qquad
        \mathrm{OT}(s, t) = \min_\pi \sum_{ij} \pi_{ij} |s_i - t_j|^2 + \varepsilon \, \mathrm{KL}(\pi \,|\, a b^\top)

    over all plans :math:`\pi` whose rows sum to the weights `a` of the source samples and whose columns sum to the
    weights `b` of the target samples, by default :math:`1 / n` and :math:`1 / m`. The regularisation
    :math:`\varepsilon` is `regularization` times the mean of the squared distances between the domains, in all three
    terms; it is held constant in the differentiation, and where the mean is 0 it counts as 1.

    Equal batches give exactly 0, one sample each gives :math:`|s - t|^2`. For :math:`\varepsilon \to 0` the value is
    that of optimal transport, the squared Wasserstein distance; for :math:`\varepsilon \to \infty` it is the squared
    distance of the means.

    Each term is computed by Sinkhorn's iteration in float64 and in the log domain, in the memory of all pairs of
    samples. Gradients come from the plans: the iteration is not differentiated, because at the optimum small changes of
    the plan do not change the cost.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, `target_weights`: the same with `m`
        - output: scalar, at least 0 once the iteration has converged; it grows with the square of the features

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        source_weights: weights of the source samples, normalised to sum 1 inside.
        target_weights: the same for the target samples.
        regularization: :math:`\varepsilon` in units of the mean cost between the domains.
        max_iters: maximum number of steps. On the CPU the iteration stops earlier at convergence; elsewhere all steps
            are taken, because convergence is not checked.

    Raises:
        TypeError: for anything but floating-point tensors, a number and an integer.
        ValueError: for empty batches, wrong ranks, differing widths or devices, weights that are negative or sum to 0,
            a regularisation that is not above 0, and `max_iters` below 1.

    References:
        A. Genevay, G. Peyré, M. Cuturi: Learning Generative Models with Sinkhorn Divergences. AISTATS 2018.
        https://arxiv.org/abs/1706.00292

        J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré: Interpolating between Optimal Transport and
        MMD using Sinkhorn Divergences. AISTATS 2019. https://arxiv.org/abs/1810.08278

    Example:
        Each target sample lies 1 away from a source sample, and these are so far from each other that the plan moves
        every sample by 1.

        >>> import torch
        >>> from adaption.functional import sinkhorn_divergence
        >>> sinkhorn_divergence(torch.tensor([[0.0], [9.0]]), torch.tensor([[10.0], [1.0]]))
        tensor(1.)
    """
    check_settings(regularization, max_iters)
    check_pair(source_features, target_features)
    weights = [
        normalised("source_weights", source_weights, source_features),
        normalised("target_weights", target_weights, target_features),
    ]
    return _divergence([source_features, target_features, *weights], [regularization, float(max_iters)])


def check_settings(regularization: float, max_iters: int) -> None:
    """Check the settings of the iteration."""
    _checks.positive("regularization", regularization)
    _checks.count("max_iters", max_iters)


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    regularization, max_iters = options
    wide = sum_dtype(tensors[0].device)
    source, target, a, b = (tensor.to(wide) for tensor in tensors)
    a, b = a / a.sum(), b / b.sum()
    centre = (a @ source + b @ target) / 2  # squares of features far from 0 would round
    domains = ((source - centre, a), (target - centre, b))
    pairs = [(domains[0], domains[1]), (domains[0], domains[0]), (domains[1], domains[1])]
    costs = [squared_distances(x, y) for (x, _), (y, _) in pairs]
    epsilon = regularization * scale(costs[0], domains[0][1], domains[1][1])
    problems = [Transport(cost / epsilon, p, q) for cost, ((_, p), (_, q)) in zip(costs, pairs, strict=True)]
    solve(problems, int(max_iters))
    across, *within = problems
    value = epsilon * (across.dual() - within[0].dual() / 2 - within[1].dual() / 2)
    results = [value]
    if any(needed[:2]):
        plan = across.plan()
        for turned, own, need in ((plan, 0, needed[0]), (plan.T, 1, needed[1])):
            if need:
                x, y, back = domains[own][0], domains[1 - own][0], within[own].plan()
                kinds = [part.to(tensors[own].dtype) for part in (turned, (back + back.T) / 2, x, y)]
                results.append(pull(kinds[0], kinds[2], kinds[3]) - pull(kinds[1], kinds[2], kinds[2]))
    # of the weights: what a sample adds to the cost, by its potentials
    if needed[2]:
        results.append(epsilon * (across.f - (within[0].f + within[0].g) / 2))
    if needed[3]:
        results.append(epsilon * (across.g - (within[1].f + within[1].g) / 2))
    asked = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
    return [value.to(tensors[0].dtype), *(found.to(like) for found, like in zip(results[1:], asked, strict=True))]


_divergence = ClosedForm("sinkhorn_divergence", _evaluate)


class SinkhornDivergenceLoss(BatchMeanMetric):
    r"""Sinkhorn divergence between source and target features; minimising it moves one domain onto the other.

    The formula is that of :func:`adaption.functional.sinkhorn_divergence`. There is no adversary: the feature extractor
    minimises the value together with the task loss. It measures the distance of the domains even where they do not
    overlap, in units of squared features.

    `compute` returns the mean of the batch values.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, optional; `target_weights`: the same with `m`

    Output: scalar, at least 0 up to rounding.

    Args:
        regularization: the regularisation in units of the mean squared distance between the domains.
        max_iters: maximum number of steps of Sinkhorn's iteration.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, a number and an integer.
        ValueError: as :func:`adaption.functional.sinkhorn_divergence`.

    References:
        A. Genevay, G. Peyré, M. Cuturi: Learning Generative Models with Sinkhorn Divergences. AISTATS 2018.
        https://arxiv.org/abs/1706.00292

        J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré: Interpolating between Optimal Transport and
        MMD using Sinkhorn Divergences. AISTATS 2019. https://arxiv.org/abs/1810.08278

    Example:
        >>> import torch
        >>> from adaption import SinkhornDivergenceLoss
        >>> sinkhorn = SinkhornDivergenceLoss()
        >>> source = torch.tensor([[0.0], [9.0]], requires_grad=True)
        >>> loss = sinkhorn(source, torch.tensor([[10.0], [1.0]]))
        >>> loss.backward()
        >>> loss.detach(), source.grad  # each sample pulls its half of the weight
        (tensor(1.), tensor([[-1.],
                [-1.]]))
    """

    plot_lower_bound = 0.0

    def __init__(
        self,
        *,
        regularization: float = 0.05,
        max_iters: int = 100,
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        check_settings(regularization, max_iters)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.regularization = regularization
        self.max_iters = max_iters

    def update(
        self,
        source_features: Tensor,
        target_features: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, target_features, source_weights, target_weights))

    def _statistics(
        self,
        source_features: Tensor,
        target_features: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Statistics:
        batch = self._global_batch(
            source_features=source_features,
            target_features=target_features,
            source_weights=source_weights,
            target_weights=target_weights,
        )
        value = sinkhorn_divergence(*batch, regularization=self.regularization, max_iters=self.max_iters)
        return value, 1
