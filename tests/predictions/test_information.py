"""Information maximisation against loops, closed forms, where a class vanishes, splits into batches, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st

from adaption import InformationMaximizationLoss
from adaption.functional import entropy_minimization, information_maximization

pytestmark = pytest.mark.usefixtures("either_gradient")


def by_loops(logits: Any, weight: float) -> float:
    """Liang et al. 2020, equation (2): mean entropy less the entropy of the mean."""
    samples, classes = len(logits), len(logits[0])
    p = [[math.exp(z) / sum(math.exp(other) for other in row) for z in row] for row in logits]
    entropy = -sum(value * math.log(value) for row in p for value in row) / samples
    mean = [sum(row[k] for row in p) / samples for k in range(classes)]
    return entropy + weight * sum(value * math.log(value) for value in mean)


@given(st.integers(1, 6), st.integers(2, 6), st.sampled_from([0.0, 0.3, 1.0, 2.0]), st.integers(0, 1000))
def test_equals_the_paper(samples: int, classes: int, weight: float, seed: int) -> None:
    logits = 2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = information_maximization(logits, weight).item()
    assert value == pytest.approx(by_loops(logits.tolist(), weight), abs=1e-12)
    assert value >= -weight * math.log(classes) - 1e-12
    if weight == 0:
        assert value == pytest.approx(entropy_minimization(logits).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_balanced_collapsed_and_uniform_predictions(classes: int, dtype: torch.dtype) -> None:
    certain = torch.eye(classes, dtype=dtype).repeat(3, 1) * 1e4
    collapsed = certain[:1].expand(3 * classes, classes)
    for logits, expected in ((certain, -math.log(classes)), (collapsed, 0.0), (torch.zeros_like(certain), 0.0)):
        asked = logits.clone().requires_grad_()
        metric = InformationMaximizationLoss()
        value = metric(asked)
        value.backward()
        assert value.item() == pytest.approx(expected, abs=1e-6)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(asked.grad, torch.zeros_like(asked), rtol=0, atol=1e-6)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_one_sample_says_nothing(classes: int, seed: int) -> None:
    logits = 4 * torch.randn(1, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits.requires_grad_()
    value = information_maximization(logits)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-13)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-13)


def test_first_and_second_derivatives_are_those_of_the_formula() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(information_maximization, logits)
    assert torch.autograd.gradgradcheck(information_maximization, logits)


def test_a_class_of_no_sample_leaves_the_gradient_finite() -> None:
    logits = torch.tensor([[0.0, 1.0, -1e4], [1.0, 0.5, -1e4]], requires_grad=True)
    value = information_maximization(logits)
    value.backward()
    exact = logits.detach()[:, :2].double().requires_grad_()
    expected = information_maximization(exact)
    expected.backward()
    torch.testing.assert_close(value.double(), expected)
    assert logits.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(logits.grad[:, :2].double(), exact.grad)
    assert logits.grad[:, 2].tolist() == [0.0, 0.0]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(sizes: list[int], seed: int) -> None:
    logits = 3 * torch.randn(sum(sizes), 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    metric = InformationMaximizationLoss(0.7)
    for part in logits.split(sizes):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), information_maximization(logits, 0.7))
    torch.testing.assert_close(metric.compute(), information_maximization(logits.movedim(1, 2).flatten(0, 1), 0.7))


def test_errors() -> None:
    metric, good = InformationMaximizationLoss(), torch.randn(4, 3)
    metric(good)
    refuses(metric, r"`target_logits` must have shape \(N, \.\.\), but got shape \(4,\)", good[:, 0])
    refuses(metric, r"logits of at least 2 classes, but got shape \(4, 1\)", good[:, :1])
    refuses(metric, "`target_logits` must hold logits, but no entry is negative", good.softmax(1))
    refuses(metric, r"must have as many classes as the batches before \(3\), but got shape \(4, 2\)", good[:, :2])
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="`diversity_weight` must be a finite number of at least 0"):
            InformationMaximizationLoss(weight)
    with pytest.raises(TypeError, match="`diversity_weight` must be a number, but got str"):
        InformationMaximizationLoss("much")  # type: ignore[arg-type]  # the point of the test
