"""A two-sample test with the maximum mean discrepancy: the distance of two domains, and its significance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaption import _checks
from adaption._kernels import Bandwidth, off_diagonal_sums
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.distance import _quantiles
from adaption.features.mmd import check_pair, check_settings

_SEED = 0  # of the permutations
# Values of labelings that are equal differ by the rounding of their sums: by so many units, relative to the spread that
# they would have if no row of the kernel matrix were like another.
_ROUNDING = 1000


class MaximumMeanDiscrepancyTest(AdditiveMetric):
    r"""Unbiased MMD between source and target features, with z-score, p-value and confidence interval.

    The value `v` of a batch is the unbiased estimate of :func:`adaption.functional.maximum_mean_discrepancy`, whose
    mean is 0 where the domains are equal, at any batch size. If they are, the labels "source" and "target" are
    exchangeable, and `v` is a random one of the values of all labelings of the same `N = n + m` samples. Their mean is
    0 for every kernel and bandwidth that does not depend on the labels, and their variance is

    .. math::
        s^2 = \frac{2 A}{N (N - 3)} \sum_{i \ne j} \tilde k_{ij}^2, \qquad
        A = \frac1{n (n - 1)} + \frac1{m (m - 1)} + \frac2{n m}, \qquad
        \tilde k_{ij} = k_{ij} - \frac{r_i + r_j}{N - 2} + \frac{\sum_l r_l}{(N - 1) (N - 2)}

    with the kernel matrix `k` without its diagonal and the sums :math:`r` of its rows: exact, without sampling
    permutations. The batches of an epoch, on all ranks, are summed with the weights `g = n + m`:

    .. math::
        \mathrm{mmd} = \frac{\sum g v}{\sum g}, \qquad z = \frac{\sum g v}{\sqrt{\sum g^2 s^2}}, \qquad
        p = 1 - \Phi(z)

    with the normal distribution :math:`\Phi`; :math:`z = 0` and :math:`p = 1/2` where all `s` are 0. ``low`` and
    ``high`` bound the mean of `v` with the given confidence, from the spread of the values of `B` batches by Student's
    distribution with `B - 1` degrees of freedom; they are infinite for a single batch. The distribution of `v` is
    skewed to the right, so the p-value of one or two batches is somewhat too small.

    With ``pooled=True`` the features of the epoch are kept and tested as one large sample: `v` and `s` are those of all
    features, which detects smaller differences than many batches do. The p-value is that of a permutation test,
    :math:`(1 + h) / (1 + P)`, where `h` of `P` random labelings have a value of at least `v`, valid for any number of
    samples; the labelings come from a separate generator with a fixed seed. The interval is
    :math:`v \pm z' \sqrt{4 (\operatorname{var} a / n + \operatorname{var} b / m)}` with the normal quantile `z'`,
    :math:`a_i` the mean of :math:`k(s_i, s')` over the other source samples minus that of :math:`k(s_i, t)` over the
    target samples, and `b` likewise. `forward` then also draws labelings for its batch, so call `update`.

    It is not a loss to train with. The p-value is valid for a frozen network and samples that it was not fitted to; for
    training batches it only describes.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, `target_features`: :math:`(m, d)`; `n` and `m` may differ

    Output: a dict of the scalars ``mmd``, ``z``, ``p_value``, ``low`` and ``high``, in float64.

    Args:
        num_kernels: number of Gaussian kernels, at most 100, whose scales double from one to the next.
        bandwidth: ``"median"``, ``"mean"`` or a positive number in units of squared distance. With a number, values are
            comparable across batch sizes, epochs and models; the other two measure each batch on its own scale.
        confidence: the confidence level of the interval, above 0 and below 1.
        pooled: whether all samples of the epoch are tested together.
        num_permutations: `P`, the number of random labelings with ``pooled=True``.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and settings of a wrong type.
        ValueError: for fewer than 2 samples in a domain, wrong ranks, differing widths or devices, and settings out of
            their bounds.

    References:
        A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola: A Kernel Two-Sample Test. JMLR 2012.
        https://jmlr.org/papers/v13/gretton12a.html

        W. Zaremba, A. Gretton, M. Blaschko: B-tests: Low Variance Kernel Two-Sample Tests. NeurIPS 2013.
        https://arxiv.org/abs/1307.1954

        H. Song, H. Chen: Generalized Kernel Two-Sample Tests. Biometrika 2023. https://arxiv.org/abs/2011.06127

    Example:
        Two samples per domain, pairwise equal: two of the six labelings have the value :math:`2 - 2 e^{-1}`, and four
        the value :math:`e^{-1} - 1`, with the variance :math:`2 (1 - e^{-1})^2`.

        >>> import torch
        >>> from adaption import MaximumMeanDiscrepancyTest
        >>> test = MaximumMeanDiscrepancyTest(num_kernels=1, bandwidth=1.0)
        >>> test.update(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]))
        >>> {name: round(float(value), 4) for name, value in test.compute().items()}
        {'mmd': 1.2642, 'z': 1.4142, 'p_value': 0.0786, 'low': -inf, 'high': inf}
    """

    is_differentiable = False
    higher_is_better = None  # of a distance it is not said which is wanted
    _scalars = ("mmd", "z", "p_value", "low", "high")

    def __init__(
        self,
        num_kernels: int = 5,
        *,
        bandwidth: Bandwidth = "median",
        confidence: float = 0.95,
        pooled: bool = False,
        num_permutations: int = 999,
        **kwargs: Any,
    ) -> None:
        check_settings(num_kernels, bandwidth, "unbiased")
        _checks.number("confidence", confidence, above=0, at_most=1 - 1e-9)
        _checks.flag("pooled", pooled)
        _checks.count("num_permutations", num_permutations)
        super().__init__(**kwargs)
        self.num_kernels = num_kernels
        self.bandwidth = bandwidth
        self.confidence = confidence
        self.pooled = pooled
        self.num_permutations = num_permutations
        if pooled:
            self._keep_samples("source_features", "target_features")
        else:
            self._keep_sums("weighted_values", "num_samples", "squared_errors")
            self._keep_sums("squared_sizes", "twice_weighted_values", "twice_weighted_squares", "num_batches")

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add a batch to the test."""
        self._accumulate(self._statistics(source_features, target_features))

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override] # of several scalars
        """Return the test over all batches since the last `reset` and all ranks; NaN before the first batch."""
        return super().compute()  # type: ignore[return-value]

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        check_pair(source_features, target_features)
        _check_sizes(source_features, target_features)
        if self.pooled:
            return source_features, target_features
        value, variance, _ = _moments(source_features, target_features, self.num_kernels, self.bandwidth)
        size = len(source_features) + len(target_features)
        weight = size * size
        return size * value, size, weight * variance, weight, weight * value, weight * value * value, 1

    def _value(self, *statistics: Any) -> dict[str, Tensor]:
        if self.pooled:
            quantile = _quantiles.normal(self.confidence)
            source, target = statistics
            return _permuted(source, target, self.num_kernels, self.bandwidth, self.num_permutations, quantile)
        values, size, variance, weight, weighted, squares, batches = statistics
        mmd = values / size
        z = _z_score(mmd, variance / size / size)
        around = (squares - 2 * mmd * weighted + mmd * mmd * weight).clamp(min=0)  # 0 may round below
        return _scalars(mmd, z, torch.special.ndtr(-z), self._reach(around / size / size, int(batches)))

    def _reach(self, variance: Tensor, batches: int) -> Tensor:
        """Half of the width of the interval; `variance` is that of the mean, up to the divisor."""
        if batches < 2:
            return torch.full_like(variance, torch.inf)
        return _quantiles.student(self.confidence, batches - 1) * (variance * batches / (batches - 1)).sqrt()


def _check_sizes(source: Tensor, target: Tensor) -> None:
    if min(len(source), len(target)) < 2:
        msg = (
            "`source_features` and `target_features` must have at least 2 samples each, but have "
            f"{len(source)} and {len(target)}. One sample has no other of its domain to compare: drop the batch."
        )
        raise ValueError(msg)


def _scalars(mmd: Tensor, z: Tensor, p_value: Tensor, reach: Tensor) -> dict[str, Tensor]:
    return {"mmd": mmd, "z": z, "p_value": p_value, "low": mmd - reach, "high": mmd + reach}


def _z_score(value: Tensor, variance: Tensor) -> Tensor:
    """The z-score: 0 if nothing varies, NaN for NaN."""
    return torch.where(variance == 0, 0 * value, value / variance.sqrt())


def _moments(*arguments: Any) -> tuple[Tensor, Tensor, Any]:
    """The moments below, outside of a compiled step: the tiles and the bandwidth are computed on the host."""
    # no decorator: at import it would bring the compiler
    call = torch.compiler.disable(_moments_on_the_host) if torch.compiler.is_compiling() else _moments_on_the_host
    found: tuple[Tensor, Tensor, Any] = call(*arguments)
    return found


@full_precision
def _moments_on_the_host(
    source: Tensor, target: Tensor, num_kernels: int, bandwidth: Bandwidth, labelings: Tensor | None = None
) -> tuple[Tensor, Tensor, Any]:
    """The unbiased estimate, its variance over all labelings, row sums, forms, and a bound of the rounding error.

    With the sums R0, R1 and R2 of the entries, of their squares and of the squares of the row sums, the sum of the
    squares of the doubly centred entries is ``R1 - 2 R2 / (N - 2) + R0^2 / ((N - 1) (N - 2))``.
    """
    n, m = len(source), len(target)
    total = n + m
    domains = torch.zeros((total, 2), dtype=source.dtype, device=source.device)
    domains[:n, 0] = domains[n:, 1] = 1
    rows, squares, forms = off_diagonal_sums(
        torch.cat([source, target]), domains, num_kernels, bandwidth, labelings=labelings
    )
    sums = rows.sum(1)
    value = _unbiased(rows[:n, 0].sum(), rows[n:, 1].sum(), rows[:n, 1].sum(), n, m)
    centred = squares - 2 * sums.square().sum() / (total - 2) + sums.sum().square() / ((total - 1) * (total - 2))
    unit = torch.finfo(source.dtype).eps
    # what is left of the squares by rounding alone is nothing
    centred = torch.where(centred <= 100 * unit * squares, 0 * centred, centred)
    factor = (1 / (n * (n - 1)) + 1 / (m * (m - 1)) + 2 / (n * m)) * 2 / (total * (total - 3))
    return value, factor * centred, (rows, forms, _ROUNDING * unit * (factor * squares).sqrt())


def _unbiased(within_source: Tensor, within_target: Tensor, across: Tensor, n: int, m: int) -> Tensor:
    return within_source / (n * (n - 1)) + within_target / (m * (m - 1)) - across * (2 / (n * m))


@full_precision
def _permuted(
    source: Tensor,
    target: Tensor,
    num_kernels: int,
    bandwidth: Bandwidth,
    num_permutations: int,
    quantile: float,
) -> dict[str, Tensor]:
    """The test of all samples at once, by random labelings."""
    n, m = len(source), len(target)
    labelings = _labelings(n, m, num_permutations).to(source.device)
    value, variance, (rows, within_source, rounding) = _moments(source, target, num_kernels, bandwidth, labelings)
    sums = rows.sum(1)
    of_source = torch.stack([sums.where(labels, 0).sum() for labels in labelings.T])  # what the source has with all
    within_target = sums.sum() - 2 * of_source + within_source
    values = _unbiased(within_source, within_target, of_source - within_source, n, m)
    hits = (values[1:] >= values[0] - rounding).sum()
    p_value = (1 + hits + 0 * value) / (1 + num_permutations)  # a comparison would swallow NaN
    a = rows[:n, 0] / (n - 1) - rows[:n, 1] / m
    b = rows[n:, 1] / (m - 1) - rows[n:, 0] / n
    reach = 2 * quantile * (a.var() / n + b.var() / m).sqrt()
    return _scalars(value, _z_score(value, variance), p_value, reach)


def _labelings(n: int, m: int, number: int) -> Tensor:
    """Which samples count as source, in columns: the true labeling, then `number` random ones."""
    generator = torch.Generator().manual_seed(_SEED)
    labels = torch.zeros((number + 1, n + m), dtype=torch.bool)
    labels[0, :n] = True
    for row in labels[1:]:
        row[torch.randperm(n + m, generator=generator)[:n]] = True
    return labels.T
