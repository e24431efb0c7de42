"""Entropy minimisation against loops, certain and uniform predictions, dense ones, splits into batches, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import EntropyMinimizationLoss
from adaption.functional import entropy_minimization

pytestmark = pytest.mark.usefixtures("either_gradient")


def by_loops(logits: Any) -> float:
    """Grandvalet and Bengio 2004: the entropy of the labels given the inputs, over the unlabelled samples."""
    total = 0.0
    for row in logits:
        p = [math.exp(z) / sum(math.exp(other) for other in row) for z in row]
        total -= sum(value * math.log(value) for value in p)
    return total / len(logits)


@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 1000))
def test_equals_the_formula(samples: int, classes: int, seed: int) -> None:
    logits = 2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = entropy_minimization(logits).item()
    assert value == pytest.approx(by_loops(logits.tolist()), abs=1e-12)
    assert -1e-15 <= value <= math.log(classes) + 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 7])
def test_certain_and_uniform_predictions(classes: int, dtype: torch.dtype) -> None:
    certain = (torch.eye(classes, dtype=dtype) * 1e4).requires_grad_()
    value = entropy_minimization(certain)
    value.backward()
    assert str(value.item()) == "0.0"  # and not -0.0
    torch.testing.assert_close(certain.grad, torch.zeros_like(certain), rtol=0, atol=0)
    uniform = torch.full((3, classes), 7.0, dtype=dtype, requires_grad=True)
    value = entropy_minimization(uniform)
    value.backward()
    assert value.item() == pytest.approx(math.log(classes), rel=1e-6)
    assert uniform.grad is not None
    assert uniform.grad.abs().max() < 1e-6


@pytest.mark.parametrize("gap", [10.0, 20.0, 40.0, 80.0])
def test_nearly_certain_predictions_keep_their_gradient(gap: float) -> None:
    """Of two classes, one of probability q: the derivative by its logit is q (1 - q) times minus the log odds."""
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    entropy_minimization(logits).backward()
    q = 1 / (1 + math.exp(gap))
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-q * (1 - q) * gap, q * (1 - q) * gap], rel=1e-4)


def test_second_derivatives_are_those_of_the_formula() -> None:
    def plain(z: Tensor) -> Tensor:
        return -(z.softmax(1) * z.log_softmax(1)).sum()

    logits = torch.randn(2, 3, dtype=torch.float64)
    ours = torch.autograd.functional.hessian(lambda z: entropy_minimization(z, reduction="sum"), logits)
    torch.testing.assert_close(ours, torch.autograd.functional.hessian(plain, logits))


def test_nan_is_passed_on() -> None:
    logits = torch.zeros(2, 3)
    logits[1, 2] = math.nan
    assert entropy_minimization(logits).isnan()
    assert entropy_minimization(logits, reduction="none").isnan().tolist() == [False, True]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dense_predictions_count_each_position(reduction: str) -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    value = entropy_minimization(logits, reduction=reduction)
    rows = entropy_minimization(logits.movedim(1, -1).flatten(0, 2), reduction=reduction)
    torch.testing.assert_close(value, rows.view(2, 4, 5) if reduction == "none" else rows)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.sampled_from(["mean", "sum", "none"]))
def test_epoch_value_is_that_of_all_samples(sizes: list[int], reduction: str) -> None:
    logits = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(sum(sizes)), dtype=torch.float64)
    metric = EntropyMinimizationLoss(reduction)
    for part in logits.split(sizes):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), entropy_minimization(logits, reduction=reduction))


def test_errors() -> None:
    metric, good = EntropyMinimizationLoss(), torch.randn(4, 3)
    metric(good)
    refuses(metric, r"`target_logits` must have shape \(N, \.\.\), but got shape \(4,\)", good[:, 0])
    refuses(metric, r"logits of at least 2 classes, but got shape \(4, 1\)", good[:, :1])
    refuses(metric, "`target_logits` must hold logits, but no entry is negative", good.softmax(1))
    metric(torch.tensor([[3.0, -2.0], [-1.0, 2.0]]))  # of sum 1 by chance
    metric(torch.tensor([[0.5, 0.5], [-1.0, 2.0]]).repeat(9000, 1))  # the same, and not negative in the first sample
    refuses(metric, "but no entry is negative", torch.tensor([[3.0, -2.0], [-1.0, 2.0]]).clamp(0, 1))
    with pytest.raises(ValueError, match='`reduction` must be one of "mean", "sum", "none", but got \'median\''):
        EntropyMinimizationLoss("median")
