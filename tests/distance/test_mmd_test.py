"""The two-sample test: exact moments, and rejections as often as it says."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from cases import features, flat, refuses
from scipy import stats
from torch import Tensor
from torchmetrics import MetricCollection

from adaption import MaximumMeanDiscrepancyLoss, MaximumMeanDiscrepancyTest
from adaption.distance import _quantiles
from adaption.functional import maximum_mean_discrepancy

BANDWIDTHS = pytest.mark.parametrize("bandwidth", ["median", "mean", 3.0])


def two(n: int, m: int, shift: float = 0.0, seed: int = 0, width: int = 16) -> tuple[Tensor, Tensor]:
    """Normal samples; the target is shifted in one column."""
    draw = torch.Generator().manual_seed(seed)
    source, target = torch.randn(n, width, generator=draw), torch.randn(m, width, generator=draw)
    target[:, 0] += shift
    return source, target


def labelings(rows: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    """The rows parted into `n` and the rest, in all ways."""
    every = range(len(rows))
    return [(rows[list(own)], rows[[i for i in every if i not in own]]) for own in itertools.combinations(every, n)]


@BANDWIDTHS
@pytest.mark.parametrize("sizes", [(4, 3), (2, 2), (2, 6), (5, 4)])
@pytest.mark.parametrize("num_kernels", [1, 5, 8])
def test_mean_and_variance_are_those_over_all_labelings(
    bandwidth: Any, sizes: tuple[int, int], num_kernels: int
) -> None:
    source, target = (rows.double() for rows in features(*sizes))
    values = torch.stack(
        [
            maximum_mean_discrepancy(*parted, num_kernels=num_kernels, bandwidth=bandwidth, estimator="unbiased")
            for parted in labelings(torch.cat([source, target]), len(source))
        ]
    )
    found = MaximumMeanDiscrepancyTest(num_kernels, bandwidth=bandwidth)(source, target)
    spread = values.square().mean().sqrt()
    assert abs(values.mean()) < 1e-12  # which makes the second moment the variance
    torch.testing.assert_close(found["mmd"] / found["z"], spread, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["mmd"], values[0], rtol=1e-12, atol=1e-12)


def test_the_p_value_of_a_pooled_test_is_the_share_of_labelings() -> None:
    source, target = (rows.double() for rows in features(4, 3))
    values = [
        maximum_mean_discrepancy(*parted, estimator="unbiased") for parted in labelings(torch.cat([source, target]), 4)
    ]
    share = float(torch.stack([value >= values[0] - 1e-12 for value in values]).double().mean())
    test = MaximumMeanDiscrepancyTest(pooled=True, num_permutations=4999)
    test.update(source[:2], target[:2])
    with pytest.raises(ValueError, match="at least 2 samples"):
        test.update(source[2:], target[2:])
    test = MaximumMeanDiscrepancyTest(pooled=True, num_permutations=4999)
    assert float(test(source, target)["p_value"]) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 5000))


def test_equal_labelings_are_ties_whatever_the_rounding() -> None:
    """Of two pairs a third of all labelings is the own one, or that with the names of the domains exchanged."""
    draw = torch.Generator().manual_seed(1)
    centres = torch.randn(2, 1, 256, generator=draw)
    source, target = centres + torch.randn(2, 2, 256, generator=draw)
    p_value = float(MaximumMeanDiscrepancyTest(pooled=True)(source, target)["p_value"])
    assert p_value == pytest.approx(1 / 3, abs=0.06)


def rejections(tests: list[dict[str, Tensor]]) -> int:
    return sum(float(test["p_value"]) <= 0.05 for test in tests)


def within(count: int, of: int, probability: float) -> bool:
    """Whether a count is one of those that make up 99.9 % of a binomial distribution."""
    low, high = stats.binom.interval(0.999, of, probability)
    return bool(low <= count <= high)


def repeated(
    batches: int, sizes: tuple[int, int], times: int, shift: float = 0.0, **settings: Any
) -> tuple[list[dict[str, Tensor]], list[list[float]]]:
    """The test, and the values of its batches, of independent epochs."""
    tests, values = [], []
    for repetition in range(times):
        test = MaximumMeanDiscrepancyTest(**settings)
        seed = 1000 * repetition
        values.append([float(test(*two(*sizes, shift=shift, seed=seed + batch))["mmd"]) for batch in range(batches)])
        tests.append(test.compute())
    return tests, values


@pytest.mark.parametrize(("batches", "sizes"), [(5, (32, 32)), (20, (32, 32)), (50, (32, 32)), (20, (32, 12))], ids=str)
def test_it_rejects_equal_domains_as_often_as_it_says(batches: int, sizes: tuple[int, int]) -> None:
    tests, _ = repeated(batches, sizes, times=150)
    assert within(rejections(tests), 150, 0.05)
    covered = sum(float(test["low"]) <= 0 <= float(test["high"]) for test in tests)
    assert within(covered, 150, 0.95)


def test_a_pooled_test_rejects_equal_domains_as_often_as_it_says() -> None:
    tests = [
        MaximumMeanDiscrepancyTest(pooled=True, num_permutations=99)(*two(20, 12, seed=seed)) for seed in range(300)
    ]
    assert within(rejections(tests), 300, 0.05)


@pytest.mark.parametrize("batches", [5, 20])
def test_it_finds_a_shift_as_often_as_the_test_of_the_batches_values(batches: int) -> None:
    """A block test (Zaremba et al. 2013) estimates the variance from the values; here it is known."""
    tests, values = repeated(batches, (32, 32), times=60, shift=0.4)
    found = rejections(tests)
    others = sum(bool(stats.ttest_1samp(own, 0, alternative="greater").pvalue <= 0.05) for own in values)
    assert found >= others
    assert found > 0.1 * 60  # and not for having found nothing


def test_one_large_sample_finds_what_many_batches_do_not() -> None:
    batches = [two(32, 32, shift=0.4, seed=seed) for seed in range(10)]
    pooled, apart = MaximumMeanDiscrepancyTest(pooled=True), MaximumMeanDiscrepancyTest()
    for batch in batches:
        pooled.update(*batch)
        apart.update(*batch)
    assert float(pooled.compute()["z"]) > 2 * float(apart.compute()["z"])
    assert float(pooled.compute()["p_value"]) == 1 / 1000
    assert float(pooled.compute()["low"]) > 0


@BANDWIDTHS
def test_the_distance_is_that_of_the_unbiased_loss(bandwidth: Any) -> None:
    loss = MaximumMeanDiscrepancyLoss(3, bandwidth=bandwidth, estimator="unbiased")
    test = MaximumMeanDiscrepancyTest(3, bandwidth=bandwidth)
    for n, m in [(40, 30), (400, 300), (2, 9)]:  # one tile, several, few rows
        batch = features(n, m)
        torch.testing.assert_close(test(*batch)["mmd"], loss(*batch).double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(test.compute()["mmd"], loss.compute(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bandwidth", ["median", 3e3])
def test_single_precision_is_enough(bandwidth: Any) -> None:
    """Sums of entries around 0 round little, also where a wide kernel makes all of them nearly 1."""
    source, target = two(500, 400, shift=0.3)
    single = MaximumMeanDiscrepancyTest(1, bandwidth=bandwidth)(source, target)
    double = MaximumMeanDiscrepancyTest(1, bandwidth=bandwidth)(source.double(), target.double())
    spread = double["mmd"] / double["z"]
    assert abs(single["mmd"] - double["mmd"]) < 1e-4 * spread
    torch.testing.assert_close(single["mmd"] / single["z"], spread, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pooled", [False, True])
def test_what_every_labeling_has_alike_is_no_evidence(dtype: torch.dtype, pooled: bool) -> None:
    """One sample lies far from all others, which are equal: nothing changes with the domain that has it."""
    source, target = torch.zeros(9, 3, dtype=dtype), torch.zeros(7, 3, dtype=dtype)
    target[2] = 7.3
    found = MaximumMeanDiscrepancyTest(pooled=pooled)(source, target)
    assert abs(float(found["mmd"])) < 1e-6
    assert float(found["z"]) == 0
    assert float(found["p_value"]) == (1 if pooled else 0.5)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_kernel_that_sees_nothing_finds_nothing(pooled: bool, dtype: torch.dtype) -> None:
    """A bandwidth far beyond all distances makes every entry 1, and one far below makes every entry 0."""
    source, target = (rows.to(dtype) for rows in two(8, 6, shift=1.0))
    for bandwidth in (1e30, 1e-30):
        found = MaximumMeanDiscrepancyTest(bandwidth=bandwidth, pooled=pooled)(source, target)
        assert float(found["mmd"]) == float(found["z"]) == 0
        assert float(found["p_value"]) == (1 if pooled else 0.5)


def test_labelings_are_drawn_by_a_generator_of_its_own() -> None:
    batch = two(20, 20, shift=0.5)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(MaximumMeanDiscrepancyTest(pooled=True)(*batch))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


def test_a_collection_takes_its_scalars_apart() -> None:
    batch = two(20, 20)
    metrics = MetricCollection({"test": MaximumMeanDiscrepancyTest(), "mmd_loss": MaximumMeanDiscrepancyLoss()})
    names = {"mmd", "z", "p_value", "low", "high", "mmd_loss"}
    assert set(metrics(*batch)) == set(metrics.compute()) == names
    both = MetricCollection(
        {"one": MaximumMeanDiscrepancyTest(), "other": MaximumMeanDiscrepancyTest(bandwidth="mean")}, prefix="val_"
    )
    both.update(*batch)
    found = both.compute()
    assert len(found) == 10
    assert found["val_one_mmd"] != found["val_other_mmd"]
    assert all(value.ndim == 0 for value in found.values())


@pytest.mark.parametrize("pooled", [False, True])
def test_what_is_kept_moves_with_the_metric(pooled: bool) -> None:
    test = MaximumMeanDiscrepancyTest(pooled=pooled)
    found = test(*two(6, 5))
    assert list(found) == list(test.compute()) == ["mmd", "z", "p_value", "low", "high"]
    before = test.compute()
    test.to(torch.bfloat16)
    assert test.compute() == before
    assert flat(test.compute()).dtype == torch.float64
    test.to("meta").to_empty(device="cpu")
    assert test._computed is None
    assert test._forward_cache is None


def test_an_interval_needs_two_batches() -> None:
    test = MaximumMeanDiscrepancyTest(confidence=0.9)
    for seed, bounded in enumerate([False, True, True]):
        test.update(*two(10, 8, seed=seed))
        found = test.compute()
        assert bool(found["low"].isfinite()) == bool(found["high"].isfinite()) == bounded
    values = [MaximumMeanDiscrepancyTest()(*two(10, 8, seed=seed))["mmd"] for seed in range(3)]
    expected = stats.t.interval(0.9, 2, *(float(x) for x in (sum(values) / 3, torch.stack(values).std() / 3**0.5)))
    assert (float(found["low"]), float(found["high"])) == pytest.approx(expected)


def test_equal_batches_have_an_interval_of_no_width() -> None:
    test = MaximumMeanDiscrepancyTest()
    for _ in range(3):
        found = test(*two(10, 8))
    assert float(test.compute()["high"] - test.compute()["low"]) == pytest.approx(0, abs=1e-7)
    assert float(test.compute()["mmd"]) == pytest.approx(float(found["mmd"]))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 199, 200, 201, 5000])
@pytest.mark.parametrize("confidence", [1e-3, 0.5, 0.95, 0.999])
def test_quantiles_are_students(freedom: int, confidence: float) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    assert _quantiles.student(confidence, freedom) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("sizes", [(1, 4), (4, 1), (1, 1)])
def test_a_domain_of_one_sample_is_refused(pooled: bool, sizes: tuple[int, int]) -> None:
    test = MaximumMeanDiscrepancyTest(pooled=pooled)
    test.update(*features(3, 2))
    refuses(test, "`source_features` and `target_features` must have at least 2 samples each", *features(*sizes))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"confidence": 0.0}, ValueError, "`confidence` must be a finite number above 0"),
        ({"confidence": 1.0}, ValueError, "`confidence` must be a finite number"),
        ({"confidence": "95 %"}, TypeError, "`confidence` must be a number"),
        ({"num_permutations": 0}, ValueError, "`num_permutations` must be at least 1"),
        ({"num_permutations": 9.0}, TypeError, "`num_permutations` must be an integer"),
        ({"pooled": "yes"}, TypeError, "`pooled` must be True or False"),
        ({"num_kernels": 0}, ValueError, "`num_kernels` must be at least 1"),
        ({"bandwidth": "silverman"}, ValueError, "`bandwidth` must be one of"),
        ({"bandwidth": 0.0}, ValueError, "`bandwidth` must be a finite number above 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        MaximumMeanDiscrepancyTest(**settings)
