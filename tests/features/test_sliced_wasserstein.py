"""Sliced Wasserstein: closed forms, unequal sizes, the directions and their count, and errors."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import features, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, wasserstein_distance
from torch import Tensor

from adaption import SlicedWassersteinLoss
from adaption.functional import sliced_wasserstein


def normal(n: int, m: int, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(rows, d, generator=draw, dtype=torch.float64) for rows in (n, m))
    return source, target + 0.5


def directions_of(metric: SlicedWassersteinLoss, width: int = 3) -> Tensor:
    found: Tensor = metric.directions(width, metric.num_projections, torch.zeros(1, width))
    return found


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 100))
@settings(max_examples=25)
def test_in_one_dimension_it_is_the_distance_of_the_quantiles(n: int, m: int, seed: int) -> None:
    """Between 0 and 1 the square of a difference is bounded by the difference, and equal to it for 0 and 1."""
    source, target = normal(n, m, 1, seed)
    binary = (source > 0).double(), (target > 0).double()
    value = sliced_wasserstein(*binary, torch.ones(1, 1, dtype=torch.float64))
    assert value.item() == pytest.approx(wasserstein_distance(*(part.flatten().numpy() for part in binary)), abs=1e-12)


def test_a_batch_and_the_same_twice_are_0_apart() -> None:
    source, _ = normal(5, 1)
    for times in (2, 3):
        moved = source.clone().requires_grad_()
        value = sliced_wasserstein(moved, source.repeat(times, 1), torch.eye(3, dtype=torch.float64))
        value.backward()
        assert value.item() == 0
        assert moved.grad is not None
        assert moved.grad.abs().max() == 0


@pytest.mark.parametrize("n", [5, 9, 64, 129])
@pytest.mark.parametrize("d", [3, 257])
@pytest.mark.parametrize("k", [1, 2, 50])
def test_equal_batches_are_exactly_0_apart(n: int, d: int, k: int) -> None:
    """Also where products round."""
    batch = torch.randn(n, d)
    assert sliced_wasserstein(batch, batch.clone(), torch.randn(d, k)).item() == 0


def test_a_shift_gives_its_square_over_the_width_on_average() -> None:
    source, _ = normal(7, 1, 4)
    shift = torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64)
    metric = SlicedWassersteinLoss(20_000)
    assert metric(source, source + shift).item() == pytest.approx(shift.square().sum().item() / 4, rel=0.03)


def test_it_sees_only_relative_positions_and_squares_the_size() -> None:
    source, target = normal(6, 4)
    directions = torch.randn(3, 5, dtype=torch.float64)
    value = sliced_wasserstein(source, target, directions)
    for left, right in ((source.flip(0), target.roll(1, 0)), (source + 5, target + 5), (target, source)):
        torch.testing.assert_close(sliced_wasserstein(left, right, directions), value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sliced_wasserstein(3 * source, 3 * target, directions), 9 * value)
    torch.testing.assert_close(sliced_wasserstein(source, target, 2 * directions), 4 * value)  # taken as they are


def test_features_far_from_0_keep_the_digits_in_which_they_differ() -> None:
    source, target = (part.float() for part in normal(16, 12))
    directions = torch.eye(3)
    source, target = source + 1000, target + 1000
    exact = sliced_wasserstein(source.double(), target.double(), directions)
    torch.testing.assert_close(sliced_wasserstein(source, target, directions).double(), exact, rtol=1e-6, atol=0)


def test_directions_are_evenly_distributed() -> None:
    """Length 1, mean 0, no axis more than others, and no correlation from one draw to the next.

    In three dimensions each coordinate is uniform from -1 to 1 (Archimedes).
    """
    metric = SlicedWassersteinLoss(20_000)
    first, second = directions_of(metric), directions_of(metric)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(20_000))
    assert first.mean(1).abs().max() < 0.02
    for coordinate in first:
        assert kstest(coordinate.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    torch.testing.assert_close(first @ first.T / 20_000, torch.eye(3) / 3, rtol=0, atol=0.01)
    assert (first * second).sum(0).mean().abs() < 0.02
    assert (first[:, 1:] * first[:, :-1]).sum(0).mean().abs() < 0.02


def test_new_directions_in_training_and_always_the_same_in_evaluation() -> None:
    metric, batch = SlicedWassersteinLoss(4), features(4, 5)
    values = [metric(*batch).item() for _ in range(3)]
    assert len(set(values)) == 3
    metric.eval()
    assert len({metric(*batch).item() for _ in range(3)}) == 1
    assert metric.directions.draws == 3
    again = SlicedWassersteinLoss(4)
    assert [again(*batch).item() for _ in range(3)] == values


def test_a_resumed_run_goes_on_with_its_directions() -> None:
    metric, batch = SlicedWassersteinLoss(4), features(4, 5)
    metric(*batch)
    resumed = SlicedWassersteinLoss(4)
    resumed.load_state_dict(metric.state_dict())
    copied = copy.deepcopy(metric)
    value = metric(*batch)
    assert resumed(*batch) == copied(*batch) == value


def test_a_refused_batch_draws_nothing_and_no_generator_is_touched() -> None:
    metric, batch = SlicedWassersteinLoss(4, nan_strategy="error"), features(4, 5)
    before = torch.get_rng_state()
    metric(*batch)
    with pytest.raises(ValueError, match="not finite"):
        metric(batch[0], torch.full_like(batch[1], torch.nan))
    with pytest.raises(ValueError, match="as many columns"):
        metric(batch[0], batch[1][:, :2])
    assert metric.directions.draws == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_errors() -> None:
    metric, (source, target) = SlicedWassersteinLoss(), features(4, 5)
    metric(source, target)
    refuses(metric, r"`target_features` must have as many columns as `source_features` \(6\)", source, target[:, :3])
    with pytest.raises(ValueError, match=r"`projections` must have as many rows as the features have columns \(6\)"):
        sliced_wasserstein(source, target, torch.eye(5))
    with pytest.raises(ValueError, match="`num_projections` must be at least 1"):
        SlicedWassersteinLoss(0)
