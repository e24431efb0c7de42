"""CMD against scipy's moments, closed forms, invariances, epochs far from the origin, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from adaption import CentralMomentDiscrepancyLoss
from adaption.features import cmd
from adaption.functional import central_moment_discrepancy


def draw(n: int, m: int, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.rand(size, d, generator=generator, dtype=torch.float64) for size in (n, m))
    return source, target**2


def by_scipy(source: Tensor, target: Tensor, order: int, width: float) -> float:
    first = math.dist(source.mean(0), target.mean(0)) / width
    further = [
        math.dist(*(stats.moment(x.numpy(), k) for x in (source, target))) / width**k for k in range(2, order + 1)
    ]
    return math.fsum([first, *further])


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 6), st.sampled_from([(0, 1), (-1.0, 1.0), (2.0, 2.5)]))
def test_equals_the_paper(n: int, m: int, order: int, bounds: tuple[float, float]) -> None:
    source, target = draw(n, m, seed=n)
    value = central_moment_discrepancy(source, target, num_moments=order, bounds=bounds)
    assert value.item() == pytest.approx(by_scipy(source, target, order, bounds[1] - bounds[0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_two_points_against_their_middle(dtype: torch.dtype) -> None:
    """Halves of the samples at both bounds: even moments 1/2^k in units of the bounds, odd ones 0."""
    source = torch.tensor([[-3.0], [1.0]], dtype=dtype).repeat(4, 1)
    value = central_moment_discrepancy(source, -torch.ones(3, 1, dtype=dtype), num_moments=6, bounds=(-3, 1))
    assert value.item() == pytest.approx(1 / 4 + 1 / 16 + 1 / 64)


def test_points_at_both_bounds() -> None:
    """The gradient is that of the distance of the means alone: each sample's share of the direction between them."""
    source = torch.zeros(4, 2, requires_grad=True)
    value = central_moment_discrepancy(source, torch.tensor([[3.0, 4.0]]), bounds=(0.0, 10.0))
    value.backward()
    assert value.item() == pytest.approx(0.5)
    torch.testing.assert_close(source.grad, torch.tensor([[-0.6, -0.8]]).expand(4, 2) / 40)


@given(n=st.integers(1, 8), m=st.integers(1, 8), seed=st.integers(0, 1000), move=st.sampled_from([-3.0, 100.0]))
def test_units_do_not_matter(n: int, m: int, seed: int, move: float) -> None:
    """Features and bounds in other units, and both domains moved; symmetric, and blind to how often samples repeat."""
    source, target = draw(n, m, seed=seed)
    value = central_moment_discrepancy(source, target)
    for left, right, bounds in (
        (4 * source + move, 4 * target + move, (move, 4 + move)),
        (-source, -target, (-1, 0)),
        (target, source, (0, 1)),
        (source.repeat(3, 1), target.repeat(2, 1), (0, 1)),
    ):
        other = central_moment_discrepancy(left, right, bounds=bounds)
        torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-9)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), order=st.integers(1, 6), seed=st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(sizes: list[int], order: int, seed: int) -> None:
    source, target = draw(sum(sizes), sum(sizes), seed=seed)
    metric = CentralMomentDiscrepancyLoss(order)
    for batch in zip(source.split(sizes), target.split(sizes[::-1]), strict=True):
        metric.update(*batch)
    expected = central_moment_discrepancy(source, target, num_moments=order)
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_the_fifth_moment_far_from_the_origin(offset: float) -> None:
    """Features of spread 1, of many batches; sums of fifth powers would lose all digits."""
    near, far = (CentralMomentDiscrepancyLoss(bounds=(-2.0, 2.0)) for _ in range(2))
    for seed in range(20):
        batch = [(x * 8).round() / 8 for x in draw(32, 24, 6, seed)]  # multiples of what float32 has at 1e6
        near.update(*(x.float() for x in batch))
        far.update(*((x + offset).float() for x in batch))
    torch.testing.assert_close(far.compute(), near.compute(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e6])
def test_powers_of_any_size_stay_finite(scale: float) -> None:
    source, target = (scale * x.float() for x in draw(6, 5))
    source.requires_grad_()
    central_moment_discrepancy(source, target).backward()
    assert source.grad is not None
    assert source.grad.isfinite().all()


def test_equal_and_bad_samples() -> None:
    source, _ = draw(4, 1)
    source.requires_grad_()
    value = central_moment_discrepancy(source, source.detach().clone())
    value.backward()
    assert value == 0
    assert source.grad is not None
    assert not source.grad.any()
    metric = CentralMomentDiscrepancyLoss()
    assert metric(source * math.nan, source).isnan()
    assert metric.compute().isnan()


def test_an_update_computes_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = CentralMomentDiscrepancyLoss()
    monkeypatch.setattr(cmd, "_discrepancy", None)
    metric.update(*draw(4, 4))
    assert metric.update_count == 1


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"num_moments": 0}, ValueError, "`num_moments` must be at least 1"),
        ({"num_moments": 2.0}, TypeError, "`num_moments` must be an integer"),
        ({"bounds": (1.0, 0.0)}, ValueError, "`bounds` must be in order"),
        ({"bounds": (1.0, 1.0)}, ValueError, "`bounds` must be in order"),
        ({"bounds": 1.0}, TypeError, "`bounds` must be two numbers"),
        ({"bounds": (0.0, 1.0, 2.0)}, ValueError, "`bounds` must be two numbers"),
        ({"bounds": (0.0, math.inf)}, ValueError, "`bounds` must be a finite number"),
        ({"bounds": ("0", 1.0)}, TypeError, "`bounds` must be a number"),
        ({"bounds": (0.0, 1e-40)}, ValueError, "must be at least"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        CentralMomentDiscrepancyLoss(**settings)
    with pytest.raises(error, match=match):
        central_moment_discrepancy(*draw(2, 2), **settings)


def test_errors() -> None:
    metric, (source, target) = CentralMomentDiscrepancyLoss(), draw(4, 5)
    metric(source, target)
    refuses(metric, "`source_features` must have as many columns as the batches before", source[:, :2], target[:, :2])
    refuses(metric, "`target_features` must not be empty", source, target[:0])
