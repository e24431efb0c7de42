"""Estimates of MMD against the populations they estimate: their means, their bias, and their variances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from property.populations import Normals, normals
from property.problems import generators
from torch import Tensor

from adaption import MaximumMeanDiscrepancyLoss
from adaption.functional import maximum_mean_discrepancy

DRAWS = 2000
EQUAL = Normals(torch.zeros(2, 3).double(), torch.ones(2, 3).double(), 3, 4.0)
APART = Normals(torch.tensor([[0.0, 0, 0], [1, 0, 0]]).double(), torch.ones(2, 3).double(), 3, 4.0)


def estimates(populations: Normals, draws: int, n: int, m: int, generator: torch.Generator, **options: Any) -> Tensor:
    """As many estimates, each from samples of its own."""
    settings = {"num_kernels": populations.num_kernels, "bandwidth": populations.bandwidth, **options}
    values = [maximum_mean_discrepancy(*populations.draw(n, m, generator), **settings) for _ in range(draws)]
    return torch.stack(values)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2012)


def standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))


def assert_variance(values: Tensor, expected: float) -> None:
    """The sample variance within 5 of its own standard errors, which follow from the fourth moment."""
    fourth = (values - values.mean()).pow(4).mean()
    error = math.sqrt((fourth - values.var().square()) / len(values))
    assert abs(values.var().item() - expected) < 5 * error
    assert error < 0.1 * expected, "too few draws to tell"


@given(normals(), generators, st.integers(2, 9), st.integers(2, 9), st.sampled_from(["biased", "unbiased", "linear"]))
def test_estimates_are_those_of_the_population(
    populations: Normals, generator: torch.Generator, n: int, m: int, estimator: str
) -> None:
    """The mean of 64 estimates within 6 of its standard deviations, which are known, not estimated."""
    m = n if estimator == "linear" else m
    mean = estimates(populations, 64, n, m, generator, estimator=estimator).mean().item()
    expected = populations.mmd() + (populations.bias(n, m) if estimator == "biased" else 0)
    variance = populations.variance(n, m, estimator)
    assert abs(mean - expected) < 6 * math.sqrt(variance / 64)


@pytest.mark.parametrize("bandwidth", ["median", "mean", 4.0])
@pytest.mark.parametrize("estimator", ["unbiased", "linear"])
@pytest.mark.parametrize(("n", "m"), [(8, 8), (5, 12)])
def test_unbiased_estimates_are_0_on_average_under_equal_distributions(
    n: int, m: int, estimator: str, bandwidth: str | float
) -> None:
    """Also where the samples choose the bandwidth: it does not know which of them are the source's."""
    m = n if estimator == "linear" else m
    values = estimates(EQUAL, DRAWS, n, m, seeded(), estimator=estimator, bandwidth=bandwidth)
    assert abs(values.mean().item()) < 4 * standard_error(values)


@pytest.mark.parametrize("populations", [EQUAL, APART], ids=["equal", "apart"])
@pytest.mark.parametrize(("n", "m"), [(8, 8), (5, 12)])
def test_biased_estimate_is_too_large_by_the_known_amount(populations: Normals, n: int, m: int) -> None:
    values = estimates(populations, DRAWS, n, m, seeded())
    excess = values.mean().item() - populations.mmd()
    assert abs(excess - populations.bias(n, m)) < 4 * standard_error(values)
    assert excess > 20 * standard_error(values)


@pytest.mark.parametrize("populations", [EQUAL, APART], ids=["equal", "apart"])
@pytest.mark.parametrize(("n", "m", "estimator"), [(6, 6, "unbiased"), (4, 11, "unbiased"), (3, 7, "biased")])
def test_variance_of_an_estimate(populations: Normals, n: int, m: int, estimator: str) -> None:
    values = estimates(populations, 3 * DRAWS, n, m, seeded(), estimator=estimator)
    assert_variance(values, populations.variance(n, m, estimator))


@pytest.mark.parametrize("populations", [EQUAL, APART], ids=["equal", "apart"])
@pytest.mark.parametrize("n", [2, 9, 32])
def test_variance_of_the_linear_estimate_falls_with_its_pairs(populations: Normals, n: int) -> None:
    values = estimates(populations, 2 * DRAWS, n, n, seeded(), estimator="linear")
    assert_variance(values, populations.variance(n, n, "linear"))


@pytest.mark.parametrize("blocks", [2, 8])
def test_variance_of_an_epoch_falls_with_its_blocks(blocks: int) -> None:
    """The epoch value is the mean over independent blocks: Zaremba, Gretton and Blaschko 2013, section 3."""
    generator, n, epochs = seeded(), 6, []
    for _ in range(DRAWS):
        metric = MaximumMeanDiscrepancyLoss(APART.num_kernels, bandwidth=APART.bandwidth, estimator="unbiased")
        for _ in range(blocks):
            metric.update(*APART.draw(n, n, generator))
        epochs.append(metric.compute())
    values = torch.stack(epochs)
    assert_variance(values, APART.variance(n, n, "unbiased") / blocks)
    assert abs(values.mean().item() - APART.mmd()) < 4 * standard_error(values)
