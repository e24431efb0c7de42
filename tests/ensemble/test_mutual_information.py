"""Mutual information against loops over classes, closed forms, its digits, the epoch, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import MutualInformationLoss
from adaption.functional import mutual_information


def by_loops(p: Any, q: Any) -> float:
    """Ji et al. 2019: how often each pair of classes is named, in either order, against how often by chance."""
    classes = range(len(p[0]))

    def share(k: int, other: int) -> float:
        """How often one names the first class and the other one the second."""
        return float(sum(a[k] * b[other] + b[k] * a[other] for a, b in zip(p, q, strict=True))) / (2 * len(p))

    margins = [sum(share(k, other) for other in classes) for k in classes]
    total = 0.0
    for k in classes:
        for other in classes:
            total -= share(k, other) * math.log(share(k, other) / (margins[k] * margins[other]))
    return total


def drawn(n: int, classes: int, sharpness: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(n, classes, generator=draw, dtype=torch.float64) for _ in range(2))
    return (sharpness * first).softmax(1), (sharpness * second).softmax(1)


@given(st.integers(1, 8), st.integers(2, 6), st.floats(0, 20), st.integers(0, 1000))
def test_equals_the_paper(samples: int, classes: int, sharpness: float, seed: int) -> None:
    p, q = drawn(samples, classes, sharpness, seed)
    value = mutual_information(p, q).item()
    assert value == pytest.approx(by_loops(p.tolist(), q.tolist()), abs=1e-12)
    assert value == pytest.approx(mutual_information(q, p).item(), abs=1e-14)
    assert -math.log(classes) - 1e-12 <= value <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_balanced_collapsed_and_uniform_predictions(classes: int, dtype: torch.dtype) -> None:
    """Also with half of the classes permuted: what is told is which of two the other one names."""
    certain = torch.eye(classes, dtype=dtype).repeat(3, 1)
    collapsed = certain[:1].expand(3 * classes, classes)
    uniform = torch.full_like(certain, 1 / classes)
    for first, second, expected in (
        (certain, certain, -math.log(classes)),
        (collapsed, collapsed, 0.0),
        (uniform, uniform, 0.0),
        (certain, uniform, 0.0),
        (collapsed, certain[1:2].expand_as(collapsed), -math.log(2)),
    ):
        asked = first.clone().requires_grad_()
        metric = MutualInformationLoss()
        value = metric(asked, second)
        value.backward()
        assert value.item() == pytest.approx(expected, abs=2e-3 if dtype in (torch.float16, torch.bfloat16) else 1e-6)
        assert metric.compute().item() == pytest.approx(value.item(), abs=1e-6)
        assert asked.grad is not None
        assert asked.grad.isfinite().all()


def test_no_agreement_on_one_class_is_rewarded() -> None:
    """What a distance between both predictions cannot tell apart: agreement with the classes, and on one for all."""
    one_hot = torch.eye(4).repeat(2, 1)
    logits = (8 * one_hot).requires_grad_()
    leaning = logits + torch.linspace(0, 12, 7)[:, None, None] * torch.eye(4)[0]
    values = [mutual_information(z.softmax(1), z.softmax(1)).item() for z in leaning]
    assert values == sorted(values)
    assert values[0] < -1.35
    assert values[-1] > -0.3


def test_gradient_of_certain_predictions_is_finite_through_softmax() -> None:
    logits = (1e4 * torch.eye(3).repeat(2, 1)).requires_grad_()
    mutual_information(logits.softmax(1), logits.softmax(1)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_nearly_uniform_predictions_keep_their_digits() -> None:
    """Small logits z of mean 0: to second order half the sum of the squares of z'z / n, over the square of C."""
    z = 1e-2 * torch.randn(64, 3, dtype=torch.float64)
    z = z - z.mean(0)
    z = z - z.mean(1, keepdim=True)
    expected = -(z.T @ z / len(z)).square().sum() / (2 * 9)
    torch.testing.assert_close(mutual_information(z.softmax(1), z.softmax(1)), expected, rtol=0.05, atol=0)
    p = z.float().softmax(1)  # in float32 the entropies of J have errors of 1e-7, and the value is 1e-9
    torch.testing.assert_close(mutual_information(p, p).double(), expected, rtol=0.05, atol=0)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(sizes: list[int], seed: int) -> None:
    p, q = drawn(sum(sizes), 4, 3.0, seed)
    metric, single = MutualInformationLoss(), MutualInformationLoss()
    for first, second in zip(p.split(sizes), q.split(sizes), strict=True):
        metric.update(first, second)
        single.update(first.float(), second.float())
    torch.testing.assert_close(metric.compute(), mutual_information(p, q), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        single.compute(), mutual_information(p.float().double(), q.float().double()), atol=1e-7, rtol=0
    )
    assert metric.class_products.shape == (16,)
    torch.testing.assert_close(metric.class_products.sum().item(), float(sum(sizes)))


def test_dense_predictions_count_every_pixel() -> None:
    p, q = (torch.randn(2, 3, 4, 5).softmax(1) for _ in range(2))
    flat = [x.movedim(1, 3).reshape(-1, 3) for x in (p, q)]
    torch.testing.assert_close(mutual_information(p, q), mutual_information(*flat))


def test_products_are_not_rounded_under_autocast() -> None:
    p, q = (x.float() for x in drawn(50, 4, 2.0))
    with torch.autocast("cpu", torch.bfloat16):
        value = mutual_information(p, q)
    torch.testing.assert_close(value, mutual_information(p, q), rtol=0, atol=0)
    assert value.dtype == torch.float32


def test_nan_gives_nan() -> None:
    p, q = (x.float() for x in drawn(4, 3))
    p[1, 2] = math.nan
    metric = MutualInformationLoss()
    assert metric(p, q).isnan()
    assert metric.compute().isnan()


def test_two_views_find_the_classes_without_a_label() -> None:
    """Two noisy views of three groups: the minimum names each group, in some order."""
    torch.manual_seed(0)
    corners = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    network = torch.nn.Linear(2, 3)
    optimizer, metric = torch.optim.Adam(network.parameters(), lr=0.05), MutualInformationLoss()
    for _ in range(200):
        samples = corners[torch.randint(3, (64,))] + 0.3 * torch.randn(64, 2)
        first, second = (network(samples + 0.3 * torch.randn(64, 2)).softmax(1) for _ in range(2))
        optimizer.zero_grad()
        metric(first, second).backward()
        optimizer.step()
    assert sorted(network(corners).argmax(1).tolist()) == [0, 1, 2]
    metric.reset()
    metric.update(network(corners).softmax(1), network(corners).softmax(1))
    assert metric.compute() < -1.0


def test_errors() -> None:
    metric, (p, q) = MutualInformationLoss(), drawn(4, 3)
    metric(p, q)
    refuses(metric, r"`predictions2` must have the shape of `predictions1` \(4, 3\), but got shape \(3, 3\)", p, q[:3])
    refuses(metric, "`predictions1` must hold probabilities", p.log(), q)
    refuses(metric, "`predictions2` must hold probabilities", p, 2 * q)
    refuses(metric, "probabilities of at least 2 classes", p[:, :1], q[:, :1])
    refuses(metric, r"must have as many classes as the batches before \(3\), but got shape \(4, 5\)", *drawn(4, 5))
