"""MCC against the paper's matrix by loops, closed forms, classes that vanish, splits into batches, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st

from adaption import MinimumClassConfusionLoss
from adaption.functional import minimum_class_confusion

pytestmark = pytest.mark.usefixtures("either_gradient")


def by_loops(logits: Any, temperature: float) -> float:
    """Jin et al. 2020: rescaling, weighting, class correlation, category normalisation, off-diagonal mean."""
    samples, classes = len(logits), len(logits[0])
    scaled = [[math.exp(z / temperature) for z in row] for row in logits]
    p = [[value / sum(row) for value in row] for row in scaled]
    certainty = [1 + math.exp(sum(value * math.log(value) for value in row)) for row in p]
    weights = [samples * value / sum(certainty) for value in certainty]
    total = 0.0
    for j in range(classes):
        row = [sum(weights[i] * p[i][j] * p[i][k] for i in range(samples)) for k in range(classes)]
        total += sum(row[k] for k in range(classes) if k != j) / sum(row)
    return total / classes


@given(st.integers(1, 6), st.integers(2, 6), st.sampled_from([0.5, 1.0, 2.5]), st.integers(0, 1000))
def test_equals_the_paper(samples: int, classes: int, temperature: float, seed: int) -> None:
    logits = 2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = minimum_class_confusion(logits, temperature).item()
    assert value == pytest.approx(by_loops(logits.tolist(), temperature), abs=1e-12)
    assert 0 <= value <= 1 - 1 / classes + 1e-12


@pytest.mark.parametrize("a", [0.5, 0.7, 0.9, 0.999])
def test_two_samples_that_mirror_each_other(a: float) -> None:
    logits = torch.tensor([[a, 1 - a], [1 - a, a]], dtype=torch.float64).log()
    assert minimum_class_confusion(logits, 1.0).item() == pytest.approx(2 * a * (1 - a), abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_balanced_collapsed_and_uniform_predictions(classes: int, dtype: torch.dtype) -> None:
    """A class that vanishes from the batch takes its share of the value and nothing of the gradient."""
    certain = torch.eye(classes, dtype=dtype).repeat(3, 1) * 1e4
    collapsed = certain[:1].expand(3 * classes, classes)
    worst = 1 - 1 / classes
    for logits, expected in ((certain, 0.0), (collapsed, worst), (torch.zeros_like(certain), worst)):
        asked = logits.clone().requires_grad_()
        metric = MinimumClassConfusionLoss()
        value = metric(asked)
        value.backward()
        assert value.item() == pytest.approx(expected, abs=1e-6)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(
            asked.grad, torch.zeros_like(asked), rtol=0, atol=1e-3 if dtype.itemsize == 2 else 1e-6
        )


def test_a_class_that_fades_leaves_value_and_gradient_finite_on_the_way() -> None:
    """Probabilities down to below float32's smallest number, by way of sums that are no normal numbers."""
    for gap in range(5, 260, 5):
        logits = torch.tensor([[0.0, 1.0, -gap], [1.0, 0.0, -gap]], requires_grad=True)
        value = minimum_class_confusion(logits, 1.0)
        value.backward()
        exact = minimum_class_confusion(logits.detach().double(), 1.0)
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-7)
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


@given(st.integers(2, 6), st.integers(0, 1000))
def test_one_sample_says_nothing(classes: int, seed: int) -> None:
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits.requires_grad_()
    value = minimum_class_confusion(logits)
    value.backward()
    assert value.item() == pytest.approx(1 - 1 / classes)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-15)


def test_weights_are_constants_of_the_gradient() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64)
    p = (logits / 2.5).softmax(1)
    weights = 1 + (p * p.log()).sum(1).exp()

    def with_fixed_weights(z: torch.Tensor) -> torch.Tensor:
        q = (z / 2.5).softmax(1)
        return 1 - ((weights @ q.square()) / (weights @ q)).mean()

    asked, twin = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    minimum_class_confusion(asked).backward()
    with_fixed_weights(twin).backward()
    torch.testing.assert_close(asked.grad, twin.grad)


def test_a_small_temperature_makes_votes_and_no_infinity() -> None:
    logits = torch.tensor([[3e4, 0.0], [2e4, 0.0], [0.0, 1e4]], requires_grad=True)
    value = minimum_class_confusion(logits, 1e-36)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(sizes: list[int], seed: int) -> None:
    logits = 3 * torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    metric = MinimumClassConfusionLoss(1.5)
    for part in logits.split(sizes):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), minimum_class_confusion(logits, 1.5))


def test_errors() -> None:
    metric, good = MinimumClassConfusionLoss(), torch.randn(4, 3)
    metric(good)
    refuses(metric, r"`target_logits` must have shape \(N, classes\), but got shape \(4, 3, 2\)", torch.randn(4, 3, 2))
    refuses(metric, r"logits of at least 2 classes, but got shape \(4, 1\)", good[:, :1])
    refuses(metric, "`target_logits` must hold logits, but no entry is negative", good.softmax(1))
    refuses(metric, r"must have as many classes as the batches before \(3\), but got shape \(4, 2\)", good[:, :2])
    for temperature in (0.0, -1.0, 1e-40, math.nan, math.inf):
        with pytest.raises(ValueError, match="`temperature` must be"):
            MinimumClassConfusionLoss(temperature)
    with pytest.raises(TypeError, match="`temperature` must be a number, but got str"):
        MinimumClassConfusionLoss("warm")  # type: ignore[arg-type]  # the point of the test
