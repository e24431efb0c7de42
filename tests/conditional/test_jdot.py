"""JDOT: against the best assignment, what the plan sees, soft margins, hard logits, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import labels_and_logits, refuses
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from adaption import JointDistributionOptimalTransportLoss
from adaption.functional import joint_distribution_optimal_transport as jdot
from adaption.functional import sinkhorn_divergence


def batch(n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(rows, 3, generator=draw, dtype=torch.float64) for rows in (n, m))
    return source, torch.randint(3, (n,), generator=draw), target, torch.randn(m, 3, generator=draw).double() - 1


def test_little_regularisation_is_the_best_assignment() -> None:
    source, labels, target, logits = batch(6, 6)
    entropies = -logits.log_softmax(1).T[labels]
    cost = (0.3 * (source[:, None] - target).square().sum(2) + 2 * entropies).numpy()
    expected = cost[linear_sum_assignment(cost)].mean()
    value = jdot(source, labels, target, logits, 0.3, 2.0, regularization=1e-3, max_iters=5000)
    assert value.item() == pytest.approx(expected, rel=1e-3)


def test_labels_decide_where_features_do_not() -> None:
    """Two places with a sample of each class: the plan of features alone mixes them, that of labels does not."""
    source = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    labels = torch.tensor([0, 1, 0, 1])
    logits = 20 * torch.nn.functional.one_hot(labels) - 10.0
    target = source.clone().requires_grad_()
    value = jdot(source, labels, target, logits, 1.0, regularization=1e-3)
    assert value.item() == pytest.approx(0, abs=1e-3)
    mixed = jdot(source, labels, target, logits, 1.0, 0.0, regularization=1e-3)
    assert mixed.item() == pytest.approx(0, abs=1e-6)
    moved = jdot(source + torch.tensor([[1.0], [0.0], [-1.0], [0.0]]), labels, target, logits, 1.0, regularization=1e-3)
    assert moved.item() == pytest.approx(0, abs=1e-3)  # samples of one class have changed places
    crossed = jdot(source, torch.tensor([0, 0, 1, 1]), target, logits, 1.0, regularization=1e-3)
    assert crossed.item() == pytest.approx(
        0.5, rel=0.01
    )  # half of them go to the other place, and none to another class


def test_predictions_learn_the_labels_that_arrive() -> None:
    """One source sample sends its label everywhere: the cross-entropy with it."""
    source, _, target, logits = batch(1, 5)
    logits.requires_grad_()
    label = torch.tensor([2])
    (found,) = torch.autograd.grad(jdot(source, label, target, logits), logits)
    expected = torch.nn.functional.cross_entropy(logits, label.expand(5))
    torch.testing.assert_close(found, torch.autograd.grad(expected, logits)[0])


def test_an_outlier_stays_where_it_is_if_margins_are_soft() -> None:
    source, labels, target, logits = batch(8, 8)
    target[0] += 100
    bound, free = (target.clone().requires_grad_() for _ in range(2))
    jdot(source, labels, bound, logits, 1.0).backward()
    jdot(source, labels, free, logits, 1.0, marginal_penalty=0.1).backward()
    assert bound.grad is not None
    assert free.grad is not None
    assert bound.grad[0].norm() > 10
    assert free.grad[0].norm() < 1e-3 * bound.grad[0].norm()


@pytest.mark.parametrize("distance", [0.0, 100.0, 1e4])
@pytest.mark.parametrize(("regularization", "penalty"), [(0.05, 1.0), (0.05, 0.01), (1e-3, 0.01)])
def test_soft_margins_are_those_of_the_iteration_in_logarithms(
    distance: float, regularization: float, penalty: float
) -> None:
    """Also where the mass of an outlier and all its entries of the matrix underflow to 0."""
    source, labels, target, logits = batch(12, 9)
    source[0] += distance
    cost = 0.01 * (source[:, None] - target).square().sum(2) - logits.log_softmax(1).T[labels]
    scaled = cost / (regularization * cost.mean())
    softness = penalty / (penalty + regularization)
    f = torch.zeros(12, dtype=torch.float64)
    for _ in range(3000):
        g = -softness * (f[:, None] - scaled - math.log(12)).logsumexp(0)
        f = -softness * (g - scaled - math.log(9)).logsumexp(1)
    expected = (torch.exp(f[:, None] + g - scaled) / (12 * 9) * cost).sum()
    settings: dict[str, Any] = {"regularization": regularization, "marginal_penalty": penalty, "max_iters": 3000}
    torch.testing.assert_close(jdot(source, labels, target, logits, **settings), expected, rtol=1e-7, atol=0)


def test_a_dear_penalty_is_that_of_fixed_margins() -> None:
    plain = jdot(*batch(5, 7), regularization=0.5)
    torch.testing.assert_close(
        jdot(*batch(5, 7), regularization=0.5, marginal_penalty=1e7, max_iters=500), plain, rtol=1e-5, atol=0
    )
    assert jdot(*batch(5, 7), regularization=0.5, marginal_penalty=0.2) < plain


@pytest.mark.parametrize("penalty", [None, 1.0])
def test_repeats_change_nothing(penalty: float | None) -> None:
    source, labels, target, logits = batch(4, 5)
    settings: dict[str, Any] = {"regularization": 0.5, "marginal_penalty": penalty}
    twice = (source.repeat(2, 1), labels.repeat(2), target.repeat(3, 1), logits.repeat(3, 1))
    torch.testing.assert_close(jdot(*twice, **settings), jdot(source, labels, target, logits, **settings))


def test_without_labels_it_is_the_transport_of_features() -> None:
    """Between far domains entropy is nothing beside the way, and no bias is left of it."""
    source, labels, target, logits = batch(5, 5)
    target = target + 1000
    value = jdot(source, labels, target, logits, 1.0, 0.0, regularization=1e-4)
    torch.testing.assert_close(value, sinkhorn_divergence(source, target, regularization=1e-4), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("penalty", [None, 0.3])
def test_large_logits_and_costs_stay_finite(dtype: torch.dtype, penalty: float | None) -> None:
    """Where e^(-cost / epsilon) is 0 for all pairs of a row."""
    source, labels, target, logits = batch(6, 7)
    leaves = [part.to(dtype).requires_grad_() for part in (source * 100, target * 100, logits.sign() * 1e4)]
    metric = JointDistributionOptimalTransportLoss(1.0, regularization=1e-4, marginal_penalty=penalty)
    metric(leaves[0], labels, leaves[1], leaves[2]).backward()
    assert metric.compute().isfinite()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("position", [0, 2, 3])
def test_nan_is_nan(position: int) -> None:
    arguments: list[Any] = list(labels_and_logits(4, 4))
    arguments[position][1, 0] = torch.nan
    assert jdot(*arguments).isnan()


def test_errors() -> None:
    metric, (source, labels, target, logits) = JointDistributionOptimalTransportLoss(), labels_and_logits(4, 5)
    metric(source, labels, target, logits)
    refuses(metric, "`source_labels` must lie between 0 and 2", source, labels + 1, target, logits)
    refuses(metric, "`target_logits` must hold logits", source, labels, target, logits.softmax(1))
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"feature_weight": -1.0}, "`feature_weight` must be a finite number of at least 0"),
        ({"label_weight": float("nan")}, "`label_weight` must be a finite number"),
        ({"regularization": 0.0}, "`regularization` must be a finite number above 0"),
        ({"marginal_penalty": -1.0}, "`marginal_penalty` must be a finite number above 0"),
        ({"max_iters": 0}, "`max_iters` must be at least 1"),
    )
    for settings, match in bad:
        with pytest.raises(ValueError, match=match):
            JointDistributionOptimalTransportLoss(**settings)
