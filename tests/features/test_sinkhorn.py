"""Sinkhorn divergence: against plans of linear programming, closed forms, limits, hard problems, and errors."""

from __future__ import annotations

import pytest
import torch
from cases import features, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from adaption import SinkhornDivergenceLoss
from adaption._transport import Transport, scale, solve, squared_distances
from adaption.functional import sinkhorn_divergence


def normal(n: int, m: int, d: int = 3, seed: int = 0, shift: float = 0.5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(rows, d, generator=draw, dtype=torch.float64) for rows in (n, m))
    return source, target + shift


def assignment(source: Tensor, target: Tensor) -> float:
    """The least mean cost of giving each source sample a target sample of its own."""
    cost = (source[:, None] - target).square().sum(2).numpy()
    return float(cost[linear_sum_assignment(cost)].mean())


def test_little_regularisation_is_the_best_assignment() -> None:
    """Far below the gaps between costs, and still in range: e^(-cost / epsilon) itself would be 0 everywhere."""
    source, target = normal(6, 6, shift=2.0)
    value = sinkhorn_divergence(source, target, regularization=1e-3, max_iters=5000)
    assert value.item() == pytest.approx(assignment(source, target), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_much_regularisation_is_the_distance_of_the_means(dtype: torch.dtype) -> None:
    source, target = (part.to(dtype) for part in normal(7, 4))
    weights = torch.arange(1.0, 8).to(dtype)
    expected = ((weights @ source) / weights.sum() - target.mean(0)).square().sum()
    value = sinkhorn_divergence(source, target, weights, regularization=1e4)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)


@given(st.integers(1, 5), st.floats(0.01, 10), st.integers(0, 100))
@settings(max_examples=20)
def test_one_sample_each_is_the_squared_distance(d: int, regularization: float, seed: int) -> None:
    source, target = normal(1, 1, d, seed)
    metric = SinkhornDivergenceLoss(regularization=regularization, max_iters=3)
    moved = source.clone().requires_grad_()
    metric(moved, target).backward()
    assert metric.compute().item() == pytest.approx((source - target).square().sum().item(), rel=1e-9)
    torch.testing.assert_close(moved.grad, 2 * (source - target))


@given(st.integers(1, 12), st.sampled_from([0.01, 0.05, 1.0]), st.integers(1, 40), st.integers(0, 100))
@settings(max_examples=20)
def test_equal_batches_are_exactly_0_apart_however_few_the_steps(
    n: int, regularization: float, max_iters: int, seed: int
) -> None:
    source, _ = normal(n, 1, seed=seed)
    assert sinkhorn_divergence(source, source, regularization=regularization, max_iters=max_iters).item() == 0
    single = source.float()
    assert sinkhorn_divergence(single, single, regularization=regularization, max_iters=max_iters).item() == 0


def test_a_translation_costs_its_square_and_pulls_each_sample_alike() -> None:
    """The divergence of a sample and the same sample moved by s is |s|^2, at any regularisation."""
    source, _ = normal(9, 1)
    shift = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)
    moved = source.clone().requires_grad_()
    value = sinkhorn_divergence(moved, source + shift, regularization=0.5)
    value.backward()
    assert value.item() == pytest.approx(25)
    torch.testing.assert_close(moved.grad, (-2 / 9 * shift).expand(9, 3), rtol=1e-6, atol=1e-8)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 100))
@settings(max_examples=20)
def test_it_is_a_distance(n: int, m: int, seed: int) -> None:
    """At least 0, and of both sides alike."""
    source, target = normal(n, m, seed=seed)
    value = sinkhorn_divergence(source, target, regularization=1.0)
    assert value.item() >= -1e-12
    torch.testing.assert_close(sinkhorn_divergence(target, source, regularization=1.0), value, rtol=1e-6, atol=1e-9)


def test_repeats_are_weights_and_weights_of_0_are_absent() -> None:
    source, target = normal(4, 5)
    counts = torch.tensor([3, 1, 0, 2])
    weighted = sinkhorn_divergence(source, target, counts.double())
    repeated = sinkhorn_divergence(source.repeat_interleave(counts, 0), target)
    torch.testing.assert_close(weighted, repeated, rtol=1e-7, atol=1e-9)


def test_size_of_the_features_changes_the_unit_alone() -> None:
    source, target = normal(6, 5)
    value = sinkhorn_divergence(source, target)
    for size in (1e-6, 1e5):
        scaled = sinkhorn_divergence(size * source + 3 * size, size * target + 3 * size)
        torch.testing.assert_close(scaled, size**2 * value, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [1e3, 1e6, 1e9])
def test_a_far_outlier_is_no_overflow(far: float, dtype: torch.dtype) -> None:
    """Alone in its domain it makes up the value; where it counts nothing it changes nothing."""
    source, target = (part.to(dtype).requires_grad_() for part in normal(8, 8))
    away = target.detach().clone()
    away[0, 0] = far
    weights = torch.ones(8, dtype=dtype)
    value = sinkhorn_divergence(source, away)
    value.backward()
    assert source.grad is not None
    assert source.grad.isfinite().all()
    assert value.item() == pytest.approx(far**2 / 8 * (7 / 8 + 1 / 8), rel=0.2)
    weights[0] = 0
    spared = sinkhorn_divergence(source, away, None, weights)
    torch.testing.assert_close(spared, sinkhorn_divergence(source, target[1:]), rtol=1e-5, atol=1e-6)


def test_the_plan_has_the_weights_for_margins() -> None:
    source, target = normal(5, 7)
    a, b = (torch.rand(size, dtype=torch.float64) for size in (5, 7))
    a, b = a / a.sum(), b / b.sum()
    cost = squared_distances(source, target)
    problem = Transport(cost / scale(cost, a, b), a, b)
    solve([problem], 200)
    plan = problem.plan()
    torch.testing.assert_close(plan.sum(1), a)
    torch.testing.assert_close(plan.sum(0), b)
    entropic = (plan * cost / scale(cost, a, b)).sum() + (plan * (plan / a[:, None] / b).log()).sum()
    torch.testing.assert_close(problem.dual(), entropic)


def test_steps_end_where_nothing_changes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU; all problems take equally many."""
    taken: list[int] = []
    advance = Transport.advance

    def counted(self: Transport, steps: int) -> None:
        taken.append(steps)
        advance(self, steps)

    monkeypatch.setattr(Transport, "advance", counted)
    sinkhorn_divergence(*normal(5, 5), regularization=10.0)
    assert taken == [10] * 3  # ten steps of three problems
    taken.clear()
    sinkhorn_divergence(*normal(5, 5), max_iters=4)
    assert taken == [4] * 3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_nan(bad: float) -> None:
    source, target = features(4, 5)
    source[1, 2] = bad
    metric, moved = SinkhornDivergenceLoss(), source.requires_grad_()
    value = metric(moved, target)
    value.backward()
    assert value.isnan()
    assert metric.compute().isnan()


def test_weights_have_a_gradient_too() -> None:
    """Those of the formula are compared with in `test_gradients.py`."""
    source, target = normal(4, 5)
    weights = torch.rand(4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(sinkhorn_divergence(source, target, weights, regularization=1.0), weights)
    assert float(found @ weights.detach()) == pytest.approx(0, abs=1e-9)  # weights are relative


def test_errors() -> None:
    metric, (source, target) = SinkhornDivergenceLoss(), features(4, 5)
    metric(source, target)
    refuses(metric, r"`source_weights` must hold one weight per sample, shape \(4,\)", source, target, torch.rand(5))
    refuses(metric, "`target_weights` must not be negative", source, target, None, -torch.rand(5))
    refuses(metric, "`source_weights` must have a positive sum", source, target, torch.zeros(4))
    refuses(metric, r"`target_features` must have as many columns as `source_features` \(6\)", source, target[:, :3])
    for bad, match in ((0.0, "`regularization` must be a finite number above 0"), (1e-300, "at least 1.17549e-38")):
        with pytest.raises(ValueError, match=match):
            SinkhornDivergenceLoss(regularization=bad)
    with pytest.raises(ValueError, match="`max_iters` must be at least 1"):
        SinkhornDivergenceLoss(max_iters=0)
