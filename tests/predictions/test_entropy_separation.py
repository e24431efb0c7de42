"""DANCE against loops, entropies on both sides of the margin, certain and uniform predictions, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import EntropySeparationLoss
from adaption.functional import entropy_separation

pytestmark = pytest.mark.usefixtures("either_gradient")


def by_loops(logits: Any, margin: float) -> float:
    """Saito et al. 2020: each sample's distance from half of log K, where it is larger than the margin."""
    total = 0.0
    for row in logits:
        p = [math.exp(z) / sum(math.exp(other) for other in row) for z in row]
        entropy = -sum(value * math.log(value) for value in p)
        distance = abs(entropy - math.log(len(row)) / 2)
        total += -distance if distance > margin else 0.0
    return total / len(logits)


def of_entropy(entropy: float, classes: int) -> Tensor:
    """Logits of one sample with this entropy: one class before all others, which are alike."""
    low, high = 0.0, 100.0
    for _ in range(200):
        gap = (low + high) / 2
        p, q = 1 / (1 + (classes - 1) * math.exp(-gap)), 1 / (math.exp(gap) + classes - 1)
        low, high = (gap, high) if -p * math.log(p) - (classes - 1) * q * math.log(q) > entropy else (low, gap)
    return torch.tensor([[low, *[0.0] * (classes - 1)]], dtype=torch.float64)


@given(st.integers(1, 6), st.integers(3, 6), st.sampled_from([0.0, 0.2, 0.5]), st.integers(0, 1000))
def test_equals_the_paper(samples: int, classes: int, margin: float, seed: int) -> None:
    logits = 2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = entropy_separation(logits, margin=margin).item()
    assert value == pytest.approx(by_loops(logits.tolist(), margin), abs=1e-12)
    assert -math.log(classes) / 2 - 1e-12 <= value <= 0


def test_entropies_move_away_from_the_middle_beyond_the_margin_alone() -> None:
    """A step downhill lowers an entropy below the margin, raises one above it, and leaves one within it."""
    classes, margin = 8, 0.4
    middle = math.log(classes) / 2
    for offset, side in ((-0.6, -1), (-0.41, -1), (-0.39, 0), (0.0, 0), (0.39, 0), (0.41, 1), (0.6, 1)):
        logits = of_entropy(middle + offset, classes).requires_grad_()
        value = entropy_separation(logits, margin=margin)
        value.backward()
        assert value.item() == pytest.approx(-abs(offset) if side else 0.0, abs=1e-12)
        assert logits.grad is not None
        moved = (logits - 1e-3 * logits.grad).detach()
        entropies = [float(torch.special.entr(z.softmax(1)).sum()) for z in (logits.detach(), moved)]
        assert (entropies[1] > entropies[0]) - (entropies[1] < entropies[0]) == side


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [3, 7])
def test_certain_and_uniform_predictions_have_the_least_value(classes: int, dtype: torch.dtype) -> None:
    for logits in (1e4 * torch.eye(classes, dtype=dtype), torch.full((4, classes), 7.0, dtype=dtype)):
        asked = logits.clone().requires_grad_()
        metric = EntropySeparationLoss(classes)
        value = metric(asked)
        value.backward()
        assert value.item() == pytest.approx(-math.log(classes) / 2, rel=1e-6)
        assert value.item() == pytest.approx(metric.plot_lower_bound, rel=1e-6)
        torch.testing.assert_close(asked.grad, torch.zeros_like(asked), rtol=0, atol=1e-6)


def test_nothing_beyond_the_margin_is_0_without_a_sign() -> None:
    logits = of_entropy(math.log(4) / 2, 4).requires_grad_()
    metric = EntropySeparationLoss(4)
    value = metric(logits)
    value.backward()
    assert str(value.item()) == str(metric.compute().item()) == "0.0"
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=0)


def test_nan_is_not_within_the_margin() -> None:
    logits = torch.zeros(2, 3)
    logits[1, 2] = math.nan
    assert entropy_separation(logits).isnan()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_epoch_value_is_that_of_all_samples(sizes: list[int]) -> None:
    logits = 2 * torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(sum(sizes)), dtype=torch.float64)
    metric = EntropySeparationLoss(4, margin=0.1)
    for part in logits.split(sizes):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), entropy_separation(logits, margin=0.1))


def test_errors() -> None:
    metric, good = EntropySeparationLoss(3), torch.randn(4, 3)
    metric(good)
    refuses(metric, r"`target_logits` must have shape \(N, classes\), but got shape \(4, 3, 2\)", torch.randn(4, 3, 2))
    refuses(metric, "must have 3 columns, as `num_known_classes` says, but got shape .4, 4.", torch.randn(4, 4))
    refuses(metric, "`target_logits` must hold logits, but no entry is negative", good.softmax(1))
    refuses(metric, r"logits of at least 2 classes, but got shape \(4, 1\)", good[:, :1])
    refuses(metric, r"`target_logits` must not be empty, but got shape \(0, 3\)", good[:0])
    refuses(metric, "must be a floating-point tensor, but got torch.int64", good.long(), error=TypeError)
    with pytest.raises(ValueError, match="`num_known_classes` must be at least 2, but got 1"):
        EntropySeparationLoss(1)
    with pytest.raises(TypeError, match="`num_known_classes` must be an integer, but got float"):
        EntropySeparationLoss(3.0)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_margin_that_can_never_act_is_refused(classes: int) -> None:
    half = math.log(classes) / 2
    logits = torch.randn(4, classes)
    for margin in (half, half + 1):
        with pytest.raises(ValueError, match=rf"`margin` must be below log\({classes}\) / 2 = {half:.4g}"):
            EntropySeparationLoss(classes, margin=margin)
        with pytest.raises(ValueError, match=rf"`margin` must be below log\({classes}\) / 2 = {half:.4g}"):
            entropy_separation(logits, margin=margin)
    for margin in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="`margin` must be a finite number of at least 0, but got"):
            EntropySeparationLoss(classes, margin=margin)
    with pytest.raises(TypeError, match="`margin` must be a number, but got str"):
        EntropySeparationLoss(classes, margin="wide")  # type: ignore[arg-type]  # the point of the test
    EntropySeparationLoss(classes, margin=math.nextafter(half, 0))
