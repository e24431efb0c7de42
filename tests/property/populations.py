"""Normal populations, whose mean Gaussian kernels have closed forms: so MMD's expectations and variances are known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

SOURCE, TARGET = 0, 1
# Numbers of samples: a pair of them is what a kernel compares.
Pair = tuple[int, int]


@dataclass(frozen=True)
class Normals:
    """A source and a target population with independent normal coordinates, and a kernel that looks at them.

    Args:
        means: of the coordinates, `(2, d)`, float64.
        deviations: their standard deviations, `(2, d)`.
        num_kernels: number of Gaussians in the kernel.
        bandwidth: a number.
    """

    means: Tensor
    deviations: Tensor
    num_kernels: int
    bandwidth: float

    def draw(self, n: int, m: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` source and `m` target samples."""
        width = self.means.shape[1]
        noise = [torch.randn(rows, width, generator=generator, dtype=torch.float64) for rows in (n, m)]
        source, target = (self.means[i] + self.deviations[i] * noise[i] for i in (SOURCE, TARGET))
        return source, target

    def expectation(self, domains: tuple[int, ...], *pairs: Pair) -> float:
        """The mean of k(x_a, x_b) k(x_c, x_d) .. over the pairs (a, b), (c, d), .., with x_i of population domains[i].

        For one coordinate of all samples, u ~ N(mu, V) with V diagonal, and a quadratic form u' M u,
        E exp(-u' M u) = det(1 + 2 V M)^(-1/2) exp(-mu' M (1 + 2 V M)^(-1) mu).
        """
        scales = [2.0 ** (i - self.num_kernels // 2) / self.bandwidth for i in range(self.num_kernels)]
        one = torch.eye(len(domains), dtype=torch.float64)
        rows = torch.tensor(domains)
        total = 0.0
        for chosen in itertools.product(scales, repeat=len(pairs)):
            differences = torch.stack([one[a] - one[b] for a, b in pairs])
            form = differences.T @ (torch.tensor(chosen, dtype=torch.float64)[:, None] * differences)
            product = torch.ones((), dtype=torch.float64)
            for mean, deviation in zip(self.means[rows].T, self.deviations[rows].T, strict=True):
                spread = one + 2 * deviation.square()[:, None] * form
                exponent = mean @ form @ torch.linalg.solve(spread, mean)
                product = product * (-exponent).exp() / torch.linalg.det(spread).sqrt()
            total += product.item()
        return total / float(len(scales) ** len(pairs))

    def covariance(self, domains: tuple[int, ...], left: Pair, right: Pair) -> float:
        """The covariance of two kernel values that may share samples."""
        means = self.expectation(domains, left) * self.expectation(domains, right)
        return self.expectation(domains, left, right) - means

    def mmd(self) -> float:
        """E k(s, s') + E k(t, t') - 2 E k(s, t)."""
        within = sum(self.expectation((domain, domain), (0, 1)) for domain in (SOURCE, TARGET))
        return within - 2 * self.expectation((SOURCE, TARGET), (0, 1))

    def bias(self, n: int, m: int) -> float:
        """What the diagonals add to the biased estimate: (1 - E k(s, s')) / n + (1 - E k(t, t')) / m.

        Of the n^2 entries of a within-domain block, n are k(s, s) = 1 instead of E k(s, s') in the mean.
        """
        sizes = {SOURCE: n, TARGET: m}
        return sum((1 - self.expectation((domain, domain), (0, 1))) / size for domain, size in sizes.items())

    def variance(self, n: int, m: int, estimator: str) -> float:
        """By Hoeffding's decomposition of the three U-statistics, which share samples two by two.

        The within-domain ones of the biased estimate are those of the unbiased one times (n - 1) / n, and a constant.
        """
        if estimator == "linear":
            return self._variance_of_linear(n)
        total = 0.0
        for domain, other, size in ((SOURCE, TARGET, n), (TARGET, SOURCE, m)):
            three = (domain, domain, domain)
            shared, same = self.covariance(three, (0, 1), (0, 2)), self.covariance(three, (0, 1), (0, 1))
            factor = (size - 1) / size if estimator == "biased" else 1
            total += factor**2 * (4 * (size - 2) * shared + 2 * same) / (size * (size - 1))
            total -= factor * 4 * 2 / size * self.covariance((domain, domain, other), (0, 1), (0, 2))
        one_source = self.covariance((SOURCE, TARGET, TARGET), (0, 1), (0, 2))
        one_target = self.covariance((SOURCE, SOURCE, TARGET), (0, 2), (1, 2))
        same = self.covariance((SOURCE, TARGET), (0, 1), (0, 1))
        return total + 4 * ((m - 1) * one_source + (n - 1) * one_target + same) / (n * m)

    def _variance_of_linear(self, n: int) -> float:
        """Gretton et al. 2012, theorem 15: that of h = k(s, s') + k(t, t') - k(s, t') - k(s', t), over n // 2 pairs."""
        domains = (SOURCE, SOURCE, TARGET, TARGET)
        terms = [(1, (0, 1)), (1, (2, 3)), (-1, (0, 3)), (-1, (1, 2))]
        every = itertools.product(terms, repeat=2)
        variance = sum(sign * other * self.covariance(domains, left, right) for (sign, left), (other, right) in every)
        return variance / (n // 2)


@st.composite
def normals(draw: st.DrawFn) -> Normals:
    """Populations that differ in location, in spread, in both or in nothing."""
    width = draw(st.integers(1, 3))
    numbers = st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=width, max_size=width)
    spreads = st.lists(st.sampled_from([0.25, 1.0, 2.0]), min_size=width, max_size=width)
    means, deviations = (
        torch.tensor([draw(values), draw(values)], dtype=torch.float64) for values in (numbers, spreads)
    )
    if draw(st.booleans()):
        means, deviations = means[:1].expand(2, -1), deviations[:1].expand(2, -1)
    return Normals(means, deviations, draw(st.integers(1, 3)), draw(st.sampled_from([0.5, 2.0, 8.0])))
