"""Class balance against double loops, at probabilities of 0 and 1, and its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st

from adaption import ClassBalanceLoss
from adaption.functional import class_balance_loss


def by_loops(predictions: Any) -> float:
    """French et al. 2018: binary cross entropy of each class's mean, averaged over the classes."""
    classes, total = len(predictions[0]), 0.0
    for k in range(classes):
        mean = sum(row[k] for row in predictions) / len(predictions)
        total -= (math.log(mean) + (classes - 1) * math.log(1 - mean)) / classes
    return total / classes


@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 1000))
def test_equals_the_paper(samples: int, classes: int, seed: int) -> None:
    predictions = torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed)).double().softmax(1)
    value = class_balance_loss(predictions).item()
    assert value == pytest.approx(by_loops(predictions.tolist()), abs=1e-13)
    p = 1 / classes
    assert value >= -p * math.log(p) - (1 - p) * math.log(1 - p) - 1e-12


@pytest.mark.parametrize("missing", [1, 2, 5, 7])
def test_a_mean_close_to_one_keeps_its_digits(missing: int) -> None:
    """Of n - p the rounding of p is all that is lost; 1 - p / n would lose it n times."""
    small = missing * 2.0**-22
    predictions = torch.tensor([[1 - small, small], [1.0, 0.0], [1.0, 0.0]])
    for value in (class_balance_loss(predictions), ClassBalanceLoss(2)(predictions)):
        assert value.item() == pytest.approx(by_loops(predictions.tolist()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_probabilities_of_exactly_zero_and_one(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1000.0, 0.0, 0.0]] * 3, dtype=dtype, requires_grad=True)
    metric = ClassBalanceLoss(3)
    value = metric(logits.softmax(1))
    value.backward()
    tiny = math.log(torch.finfo(torch.float32).tiny)
    assert value.item() == pytest.approx(-(2 / 3 * tiny + 2 / 3 * tiny) / 3, rel=1e-6)
    assert metric.compute().item() == pytest.approx(value.item(), rel=1e-6)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_epoch_value_is_that_of_the_epochs_mean() -> None:
    metric, batches = ClassBalanceLoss(4), [torch.randn(n, 4).double().softmax(1) for n in (3, 1, 8)]
    for batch in batches:
        metric.update(batch)
    torch.testing.assert_close(metric.compute(), class_balance_loss(torch.cat(batches)))


def test_errors() -> None:
    metric, good = ClassBalanceLoss(3), torch.randn(4, 3).softmax(1)
    metric(good)
    refuses(metric, r"must have 3 columns, as `num_classes` says, but got shape \(4, 2\)", torch.full((4, 2), 0.5))
    refuses(metric, "`predictions` must hold probabilities", good.log())
    refuses(metric, r"`predictions` must have shape \(N, C\)", torch.full((2, 3, 4), 1 / 3))
    with pytest.raises(ValueError, match="`num_classes` must be at least 2, but got 1"):
        ClassBalanceLoss(1)
