"""Maximum mean discrepancy: the distance between the mean embeddings of two domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._global_batch import GlobalBatchMetric
from adaption._host import readable
from adaption._kernels import Bandwidth, gaussians, pairwise_bandwidth, quadratic_form, usable
from adaption._metric import Statistics
from adaption._precision import full_precision
from adaption.features import _random_features

ESTIMATORS = ("biased", "unbiased", "linear")


@full_precision
def maximum_mean_discrepancy(
    source_features: Tensor,
    target_features: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    num_kernels: int = 5,
    bandwidth: Bandwidth = "median",
    estimator: str = "biased",
) -> Tensor:
    r"""Squared distance between the mean embeddings of source and target features in a Gaussian kernel space.

    .. math::
        \mathrm{MMD}^2 = \frac1{n^2} \sum_{i,j} k(s_i, s_j) + \frac1{m^2} \sum_{i,j} k(t_i, t_j)
                         - \frac2{nm} \sum_{i,j} k(s_i, t_j), \qquad
        k(x, y) = \frac1K \sum_{i=0}^{K-1} \exp\Bigl(-2^{i - \lfloor K/2 \rfloor} \frac{|x - y|^2}{b}\Bigr)

    with `n` source samples :math:`s`, `m` target samples :math:`t`, `K` kernels, and the bandwidth `b`, by default the
    median of all squared distances between different samples of the two batches. A bandwidth that comes from the data
    is part of the differentiation, so the loss does not change when all features grow by a factor.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, `target_weights`: the same with `m`
        - output: scalar

    The biased estimate lies in :math:`[0, 2]` and is 0 for equal batches, but its mean under equal distributions is
    above 0, by about :math:`(1/n + 1/m)(1 - \mathbb{E} k)`. The unbiased and the linear estimate have mean 0 there, and
    so are negative half of the time, which does no harm to training.

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.
        source_weights: weights of the source samples, normalised to sum 1 inside. Only with ``estimator="biased"``.
            They do not affect the bandwidth.
        target_weights: the same for the target samples.
        num_kernels: number `K` of Gaussians, at most 100, whose scales double from one to the next.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance. Where the median is 0 but
            not all distances are, the mean replaces it.
        estimator: ``"biased"``; ``"unbiased"``: without the diagonals of the two within-domain sums; ``"linear"``: the
            mean of :math:`k(s_1, s_2) + k(t_1, t_2) - k(s_1, t_2) - k(s_2, t_1)` over disjoint pairs of consecutive
            samples, in :math:`O(n)`, with the bandwidth from the distances in it. It needs `n = m` and drops an odd
            last sample.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, wrong ranks, differing widths or devices, too few samples for the estimator,
            weights that are negative or sum to 0, and unknown options.

    References:
        A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola: A Kernel Two-Sample Test. JMLR 2012.
        https://jmlr.org/papers/v13/gretton12a.html

        M. Long, Y. Cao, J. Wang, M. Jordan: Learning Transferable Features with Deep Adaptation Networks. ICML 2015.
        https://arxiv.org/abs/1502.02791

    Example:
        One sample each at any distance: :math:`2 - 2 k` with :math:`|x - y|^2 = b`, so :math:`k = e^{-1}`.

        >>> import torch
        >>> from adaption.functional import maximum_mean_discrepancy
        >>> maximum_mean_discrepancy(torch.tensor([[0.0]]), torch.tensor([[3.0]]), num_kernels=1)
        tensor(1.2642)
    """
    check_settings(num_kernels, bandwidth, estimator)
    check_pair(source_features, target_features)
    check_unweighted(estimator, source_weights, target_weights)
    if estimator == "linear":
        return _linear(source_features, target_features, num_kernels, bandwidth)
    stacked = torch.cat([source_features, target_features])
    weights = [
        normalised("source_weights", source_weights, source_features),
        normalised("target_weights", target_weights, target_features),
    ]
    return estimate([stacked], weights, [num_kernels], [bandwidth], estimator)


def estimate(
    layers: list[Tensor],
    weights: list[Tensor],
    num_kernels: Sequence[int],
    bandwidths: Sequence[Bandwidth],
    estimator: str,
) -> Tensor:
    """The biased or unbiased estimate from the stacked rows of both domains, for one or more layers.

    With `K` the kernel matrix and w the weights, those of the target negative, the biased estimate is ``w' K w``. The
    unbiased one drops the diagonals, where ``k(x, x) = 1``: the mean over i != j is ``q + (q - 1) / (n - 1)`` with
    ``q`` the mean over all i, j, which is one more quadratic form per domain.
    """
    source, target = weights
    signed = torch.cat([source, -target])
    if estimator == "biased":
        return quadratic_form(layers, signed[:, None], num_kernels, bandwidths)
    n, m = len(source), len(target)
    _at_least_two(n, m, "unbiased")
    rows = torch.zeros_like(signed)
    within_source = torch.cat([source / (n - 1) ** 0.5, rows[n:]])
    within_target = torch.cat([rows[:n], target / (m - 1) ** 0.5])
    columns = torch.stack([signed, within_source, within_target], dim=1)
    return quadratic_form(layers, columns, num_kernels, bandwidths) - 1 / (n - 1) - 1 / (m - 1)


def normalised(name: str, weights: Tensor | None, samples: Tensor) -> Tensor:
    """Weights of `samples` that sum to 1, by default equal."""
    if weights is None:
        return samples.new_full((len(samples),), 1 / len(samples))
    _checks.weights(name, weights, samples)
    largest = weights.detach().amax()
    if readable(largest) and bool(largest == 0):
        msg = f"`{name}` must have a positive sum, but all weights are 0. Leave the batch out instead."
        raise ValueError(msg)
    weights = weights / largest  # or their sum could overflow
    return (weights / weights.sum()).flatten().to(samples.dtype)


def _linear(source: Tensor, target: Tensor, num_kernels: int, bandwidth: Bandwidth) -> Tensor:
    _checks.same_size("source_features", source, "target_features", target, "the linear estimate")
    _at_least_two(len(source), len(target), "linear")
    even = len(source) // 2 * 2
    s1, s2, t1, t2 = (rows[first:even:2].double() for rows in (source, target) for first in (0, 1))
    differences = torch.stack([s1 - s2, t1 - t2, s1 - t2, s2 - t1])  # (4, n // 2, d)
    size = differences.detach().abs().amax()  # their squares could leave the range of float64
    size = torch.where(size == 0, 1, size)
    distances = (differences / size).square().sum(-1)
    if isinstance(bandwidth, str):
        scale = usable(distances, distances.median() if bandwidth == "median" else distances.mean())
    else:
        scale = bandwidth / size.square()
    signs = distances.new_tensor([1.0, 1.0, -1.0, -1.0])
    return (signs @ gaussians(distances, scale, num_kernels).mean(1)).to(source.dtype)


def _at_least_two(n: int, m: int, estimator: str) -> None:
    if min(n, m) < 2:
        msg = (
            f"`source_features` and `target_features` must have at least 2 samples each for the {estimator} estimate, "
            f'but have {n} and {m}. Choose `estimator="biased"` or larger batches.'
        )
        raise ValueError(msg)


def check_settings(
    num_kernels: int, bandwidth: Bandwidth, estimator: str, estimators: Sequence[str] = ESTIMATORS
) -> None:
    """The settings that MMD and JMMD share."""
    _checks.count("num_kernels", num_kernels, at_most=100)  # their scales double and must stay finite
    if isinstance(bandwidth, str):
        _checks.option("bandwidth", bandwidth, ("median", "mean"))
    else:
        _checks.number("bandwidth", bandwidth, above=0)
    _checks.option("estimator", estimator, estimators)


def check_unweighted(estimator: str, source_weights: Tensor | None, target_weights: Tensor | None) -> None:
    """Only the biased estimate has a weighted form."""
    for name, weights in (("source_weights", source_weights), ("target_weights", target_weights)):
        if weights is not None and estimator != "biased":
            msg = (
                f"`{name}` must be None for the {estimator} estimate, which has no weighted form, but got weights. "
                'Choose `estimator="biased"` or drop the weights.'
            )
            raise ValueError(msg)


@full_precision
def median_bandwidth(source_features: Tensor, target_features: Tensor) -> Tensor:
    r"""Median of the squared Euclidean distances between all different samples of both batches.

    .. math:: b = \operatorname{median}_{i < j} |x_i - x_j|^2, \qquad x = (s_1, .., s_n, t_1, .., t_m)

    With an even number of distances the lower middle one is taken, as in :func:`torch.median`. Where it is 0 but not
    all distances are, the mean replaces it; where all are 0 the bandwidth is 1. Its gradient is that of the one
    distance, or of the mean.

    Shapes:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`
        - output: scalar

    Args:
        source_features: features of the source batch.
        target_features: features of the target batch, of the same layer.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, wrong ranks, differing widths or devices.

    References:
        A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola: A Kernel Two-Sample Test. JMLR 2012, section 8.
        https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> import torch
        >>> from adaption.functional import median_bandwidth
        >>> median_bandwidth(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]]))  # of 1, 9 and 4
        tensor(4.)
    """
    check_pair(source_features, target_features)
    return pairwise_bandwidth(torch.cat([source_features, target_features]), "median")


def check_pair(source_features: Tensor, target_features: Tensor) -> None:
    """Two batches of feature vectors of one layer."""
    _checks.matrix("source_features", source_features)
    _checks.matrix("target_features", target_features)
    _checks.same_layer("source_features", source_features, "target_features", target_features)


class MaximumMeanDiscrepancyLoss(GlobalBatchMetric):
    r"""Maximum mean discrepancy between source and target features; minimising it aligns the two domains.

    The value is the squared distance :math:`\mathbb{E} k(x, x') + \mathbb{E} k(y, y') - 2 \mathbb{E} k(x, y)` with a
    mean of Gaussian kernels `k`, as in :func:`adaption.functional.maximum_mean_discrepancy`. There is no adversary: the
    feature extractor minimises the value together with the task loss.

    `compute` returns the mean of the batch values, each weighted by its number of samples `n + m` (constant memory; the
    block estimator of Zaremba, Gretton and Blaschko: B-tests, NeurIPS 2013, https://arxiv.org/abs/1307.1954). The
    biased estimate is too high by a bias that falls as the batch grows, so compare epochs of equal batch size only.
    With ``pooled=True`` the features of the epoch are kept and `compute` is the exact value over all of them. With
    ``pooled="random_features"`` it approximates that value in the memory of a few sums: kernels are means over `D / 2`
    random frequencies, drawn with a fixed seed, the same in every metric and on every rank. The error falls as
    :math:`1 / \sqrt D`; `approximation_error` estimates it. The time of a batch is linear in its samples, and `forward`
    uses the same random features.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, optional; `target_weights`: the same with `m`

    Output: scalar in :math:`[0, 2]`; the unbiased and linear estimates may be slightly negative.

    Args:
        num_kernels: number of Gaussian kernels, at most 100, whose scales double from one to the next.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance.
        estimator: ``"biased"``, ``"unbiased"`` or ``"linear"``.
        pooled: whether `compute` is the value over all samples of the epoch: False, True, or ``"random_features"`` for
            an approximation in constant memory, which needs a number as bandwidth, the biased or unbiased estimate, and
            no weights.
        num_random_features: `D`, an even number of at least four for each kernel; used only with random features.
        gather_distributed: whether the batches of all ranks count as one batch, for the value and for the gradient that
            DDP averages; see :doc:`/distributed`.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.maximum_mean_discrepancy`.

    References:
        A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola: A Kernel Two-Sample Test. JMLR 2012.
        https://jmlr.org/papers/v13/gretton12a.html

        M. Long, Y. Cao, J. Wang, M. Jordan: Learning Transferable Features with Deep Adaptation Networks. ICML 2015.
        https://arxiv.org/abs/1502.02791

        A. Rahimi, B. Recht: Random Features for Large-Scale Kernel Machines. NIPS 2007.
        https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines

    Example:
        >>> import torch
        >>> from adaption import MaximumMeanDiscrepancyLoss
        >>> mmd = MaximumMeanDiscrepancyLoss(num_kernels=5)
        >>> source = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
        >>> loss = mmd(source, torch.tensor([[3.0, 0.0], [4.0, 0.0], [3.0, 1.0]]))
        >>> loss.backward()
        >>> loss.detach(), mmd.compute()
        (tensor(1.1649), tensor(1.1649, dtype=torch.float64))
    """

    def __init__(
        self,
        num_kernels: int = 5,
        *,
        bandwidth: Bandwidth = "median",
        estimator: str = "biased",
        pooled: bool | str = False,
        num_random_features: int = 1024,
        gather_distributed: bool = False,
        **kwargs: Any,
    ) -> None:
        check_settings(num_kernels, bandwidth, estimator)
        _random_features.check(pooled, num_random_features, num_kernels, bandwidth, estimator)
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self.num_kernels = num_kernels
        self.bandwidth = bandwidth
        self.estimator = estimator
        self.pooled = pooled
        self.num_random_features = num_random_features
        if isinstance(pooled, str):
            self._keep_vectors("source_sums", "target_sums", length=num_random_features)
            self._keep_sums("num_source", "num_target")
        elif pooled:
            self._keep_samples("source_features", "target_features", "source_weights", "target_weights")
        else:
            self._keep_sums("weighted_values", "num_samples")

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override] # depends on the settings
        """The biased estimate is at least 0, the others may be negative."""
        return 0.0 if self.estimator == "biased" else None

    @property
    def approximation_error(self) -> Tensor:
        """The standard error of the epoch value over the random features, over all ranks as `compute`.

        It is 0 without random features, and NaN before the first batch.
        """
        if not isinstance(self.pooled, str):
            return 0 * self.compute()
        names = self._statistic_names
        return self._of_all_ranks(lambda: self._approximation(*(getattr(self, name) for name in names))[1])

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
        source_features, target_features, source_weights, target_weights = self._global_batch(
            source_features=source_features,
            target_features=target_features,
            source_weights=source_weights,
            target_weights=target_weights,
        )
        if isinstance(self.pooled, str):
            check_pair(source_features, target_features)
            _random_features.check_unweighted(source_weights, target_weights)
            if self.estimator == "unbiased":
                _at_least_two(len(source_features), len(target_features), "unbiased")
            number, bandwidth = self.num_random_features, float(self.bandwidth)
            source_sums, target_sums = (
                _random_features.feature_sums(rows, number, self.num_kernels, bandwidth)
                for rows in (source_features, target_features)
            )
            return source_sums, target_sums, len(source_features), len(target_features)
        if self.pooled:
            check_pair(source_features, target_features)
            check_unweighted(self.estimator, source_weights, target_weights)
            weights = (
                _checks.weights_or_ones("source_weights", source_weights, source_features),
                _checks.weights_or_ones("target_weights", target_weights, target_features),
            )
            return source_features, target_features, *weights
        value = self._discrepancy(source_features, target_features, source_weights, target_weights)
        number = len(source_features) + len(target_features)
        return value * number, number

    def _value(self, *statistics: Tensor) -> Tensor:
        if isinstance(self.pooled, str):
            return self._approximation(*statistics)[0]
        if self.pooled:
            return self._discrepancy(*(statistics if self.estimator == "biased" else statistics[:2]))
        total, number = statistics
        return total / number

    def _discrepancy(self, *batch: Any) -> Tensor:
        return maximum_mean_discrepancy(
            *batch, num_kernels=self.num_kernels, bandwidth=self.bandwidth, estimator=self.estimator
        )

    def _approximation(
        self, source_sums: Tensor, target_sums: Tensor, num_source: Tensor, num_target: Tensor
    ) -> tuple[Tensor, Tensor]:
        sums = source_sums, target_sums, num_source, num_target
        return _random_features.discrepancy(*sums, self.num_kernels, unbiased=self.estimator == "unbiased")
