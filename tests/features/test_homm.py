"""HoMM against moments written out entry by entry, closed forms, invariances, its relation to CORAL, and errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import HigherOrderMomentMatchingLoss
from adaption.functional import correlation_alignment, higher_order_moment_matching


def draw(n: int, m: int, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n, m))
    return source, target.exp()


def entry_by_entry(source: Tensor, target: Tensor, order: int) -> float:
    """The mean over all ways to choose as many features as the order says, repetitions included."""
    centred = [(x - x.mean(0)).T for x in (source, target)]
    ways = list(itertools.product(range(source.shape[1]), repeat=order))
    moments = [[x[list(way)].prod(0).mean().item() for way in ways] for x in centred]
    return math.fsum((one - other) ** 2 for one, other in zip(*moments, strict=True)) / len(ways)


@given(n=st.integers(1, 8), m=st.integers(1, 8), d=st.integers(1, 4), order=st.integers(2, 4))
def test_equals_the_paper(n: int, m: int, d: int, order: int) -> None:
    source, target = draw(n, m, d, seed=n + m)
    value = higher_order_moment_matching(source, target, order=order)
    assert value.item() == pytest.approx(entry_by_entry(source, target, order), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_three_features_whose_product_alone_differs(dtype: torch.dtype) -> None:
    """A parity: of 3^p moments those differ, by 2, in which each feature stands an odd number of times."""
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=dtype)
    odd = {2: 0, 3: 6, 4: 0, 5: 3 * 20}
    for order, number in odd.items():
        value = higher_order_moment_matching(signs, -signs, order=order)
        assert value.item() == pytest.approx(4 * number / 3**order, rel=1e-6, abs=1e-12)


@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 9))
def test_order_2_is_coral_with_covariances_over_n(n: int, m: int, d: int) -> None:
    """CORAL divides by one less, which larger features make up for."""
    source, target = draw(n, m, d, n * m)
    larger = source * math.sqrt((n - 1) / n), target * math.sqrt((m - 1) / m)
    coral = correlation_alignment(*larger)
    torch.testing.assert_close(higher_order_moment_matching(source, target, order=2), 4 * coral, rtol=1e-8, atol=1e-12)


@given(n=st.integers(1, 8), m=st.integers(1, 8), order=st.integers(2, 5), seed=st.integers(0, 1000))
def test_what_does_not_matter_and_what_a_scale_does(n: int, m: int, order: int, seed: int) -> None:
    source, target = draw(n, m, seed=seed)
    value = higher_order_moment_matching(source, target, order=order)
    for left, right in (
        (target, source),
        (source - 40, target + torch.tensor([1.0, -3.0, 20.0])),
        (-source, -target),
        (source.flip(0, 1), target.flip(1)),
        (source.repeat(3, 1), target.repeat(2, 1)),
    ):
        other = higher_order_moment_matching(left, right, order=order)
        torch.testing.assert_close(other, value, rtol=1e-7, atol=1e-9 * (1 + value.item()))
    scaled = higher_order_moment_matching(2 * source, 2 * target, order=order)
    torch.testing.assert_close(scaled, value * 4**order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_and_the_same_twice_are_0_apart(dtype: torch.dtype) -> None:
    source = draw(6, 1, 5)[0].to(dtype).requires_grad_()
    value = higher_order_moment_matching(source, source.detach().repeat(2, 1))
    value.backward()
    assert 0 <= value.item() < 1e-14
    assert source.grad is not None
    assert source.grad.abs().max() < torch.finfo(dtype).eps


@pytest.mark.parametrize("order", [2, 3, 5])
def test_one_sample_has_no_central_moments(order: int) -> None:
    source, target = draw(1, 1)
    source.requires_grad_()
    value = higher_order_moment_matching(source, target, order=order)
    value.backward()
    assert value.item() == 0
    assert source.grad is not None
    assert source.grad.eq(0).all()


def test_a_gap_that_float32_would_lose() -> None:
    """Domains that hardly differ, far from the origin: the value is that of the rounded features in float64."""
    generator = torch.Generator().manual_seed(1)
    source = 100 + torch.randn(32, 64, generator=generator)
    target = source + 1e-3 * torch.randn(32, 64, generator=generator)
    exact = higher_order_moment_matching(source.double(), target.double())
    assert higher_order_moment_matching(source, target).item() == pytest.approx(exact.item(), rel=1e-6)
    assert exact < 1e-6


def test_wide_features_overflow_no_power_of_the_width() -> None:
    source, target = (x.float() for x in draw(4, 5, 100_000))
    value = higher_order_moment_matching(source, target, order=60)
    assert value.isfinite()
    assert value > 0


def test_under_equal_distributions_it_is_the_noise_of_the_batches() -> None:
    """About (1/n + 1/m) times the mean of (|x|^2 / d)^p, as the docs say."""
    generator = torch.Generator().manual_seed(0)
    values, powers = [], []
    for _ in range(50):
        source, target = (torch.randn(size, 64, generator=generator) for size in (32, 48))
        values.append(higher_order_moment_matching(source, target))
        powers.append(source.square().mean(1).pow(3).mean())
    expected = torch.stack(powers).mean() * (1 / 32 + 1 / 48)
    assert torch.stack(values).mean().item() == pytest.approx(expected.item(), rel=0.15)


def test_epoch_value_is_the_mean_of_the_batches() -> None:
    metric = HigherOrderMomentMatchingLoss(4)
    values = [metric(*draw(n, 5, seed=n)) for n in (4, 6, 7)]
    torch.testing.assert_close(metric.compute(), torch.stack(values).mean())


def test_nan_gives_nan() -> None:
    source, target = draw(4, 5)
    source[1, 2] = math.nan
    source.requires_grad_()
    metric = HigherOrderMomentMatchingLoss()
    value = metric(source, target)
    value.backward()
    assert value.isnan()
    assert metric.compute().isnan()
    assert source.grad is not None
    assert source.grad.isnan().any()


@pytest.mark.parametrize(
    ("order", "error", "match"),
    [
        (1, ValueError, "`order` must be at least 2, but got 1"),
        (101, ValueError, "`order` must be at most 100, but got 101"),
        (3.0, TypeError, "`order` must be an integer"),
    ],
)
def test_orders_that_are_refused(order: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        HigherOrderMomentMatchingLoss(order)
    with pytest.raises(error, match=match):
        higher_order_moment_matching(*draw(2, 2), order=order)


def test_errors() -> None:
    metric, (source, target) = HigherOrderMomentMatchingLoss(), draw(4, 5)
    metric(source, target)
    refuses(metric, r"`target_features` must have as many columns as `source_features` \(3\)", source, target[:, :2])
    refuses(metric, "`target_features` must not be empty", source, target[:0])
