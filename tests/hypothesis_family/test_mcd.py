"""MCD's two losses against double loops, at the edges, in their game, and their errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from adaption import ClassifierDiscrepancyLoss, MarginalEntropyLoss
from adaption.functional import classifier_discrepancy, marginal_entropy

TINY = torch.finfo(torch.float32).tiny


def discrepancy_by_loops(p: Any, q: Any) -> float:
    """Saito et al. 2018: the distance of a sample, and its mean over the samples."""
    return float(
        sum(sum(abs(a - b) for a, b in zip(x, y, strict=True)) / len(x) for x, y in zip(p, q, strict=True))
    ) / len(p)


def marginal_entropy_by_loops(p: Any) -> float:
    total = 0.0
    for k in range(len(p[0])):
        total -= math.log(sum(row[k] for row in p) / len(p))
    return total / len(p[0])


@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (7, 10)])
def test_equals_the_paper(shape: tuple[int, int]) -> None:
    p, q = (torch.randn(shape).double().softmax(1) for _ in range(2))
    assert classifier_discrepancy(p, q).item() == pytest.approx(discrepancy_by_loops(p.tolist(), q.tolist()), abs=1e-14)
    assert marginal_entropy(p).item() == pytest.approx(marginal_entropy_by_loops(p.tolist()), abs=1e-13)


@given(st.integers(1, 5), st.integers(2, 6), st.floats(0, 50), st.integers(0, 1000))
def test_bounds(samples: int, classes: int, sharpness: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (
        (sharpness * torch.randn(samples, classes, generator=generator, dtype=torch.float64)).softmax(1)
        for _ in range(2)
    )
    assert 0 <= classifier_discrepancy(p, q) <= 2 / classes + 1e-12
    assert classifier_discrepancy(p, p) == 0
    assert math.log(classes) - 1e-12 <= marginal_entropy(p) < 87.4


def test_dense_predictions_count_every_pixel() -> None:
    p, q = (torch.randn(2, 3, 4, 5).softmax(1) for _ in range(2))
    flat = [x.movedim(1, 3).reshape(-1, 3) for x in (p, q)]
    torch.testing.assert_close(classifier_discrepancy(p, q), classifier_discrepancy(*flat))
    torch.testing.assert_close(marginal_entropy(p), marginal_entropy(flat[0]))


def test_agreement_has_no_gradient_and_no_nan() -> None:
    p = torch.tensor([[1.0, 0.0], [0.3, 0.7]], requires_grad=True)
    classifier_discrepancy(p, p.detach()).backward()
    assert p.grad is not None
    assert p.grad.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_absent_class_is_large_and_finite(dtype: torch.dtype) -> None:
    """And of the same value in the batch and in the float64 sums of the epoch."""
    logits = torch.tensor([[0.0, 2000.0, 0.0]] * 3, dtype=dtype, requires_grad=True)
    metric = MarginalEntropyLoss()
    value = metric(logits.softmax(1))
    value.backward()
    assert value.item() == pytest.approx(-2 / 3 * math.log(TINY), rel=1e-6)
    assert metric.compute().item() == pytest.approx(value.item(), rel=1e-6)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_epoch_value_is_that_of_the_epochs_mean() -> None:
    metric = MarginalEntropyLoss()
    batches = [torch.randn(n, 4).double().softmax(1) for n in (3, 1, 8)]
    values = torch.stack([metric(batch) for batch in batches])
    torch.testing.assert_close(metric.compute(), marginal_entropy(torch.cat(batches)))
    assert (metric.compute() < values).any()


def test_dense_predictions_count_every_position() -> None:
    discrepancy, entropy, epoch = ClassifierDiscrepancyLoss(), MarginalEntropyLoss(), []
    for size in ((2, 3), (4,), (1, 2)):
        p, q = (torch.randn(2, 5, *size).double().softmax(1) for _ in range(2))
        flat = [x.movedim(1, -1).reshape(-1, 5) for x in (p, q)]
        torch.testing.assert_close(discrepancy(p, q), classifier_discrepancy(*flat))
        torch.testing.assert_close(entropy(p), marginal_entropy(flat[0]))
        epoch.append(flat)
    whole = [torch.cat(parts) for parts in zip(*epoch, strict=True)]
    torch.testing.assert_close(discrepancy.compute(), classifier_discrepancy(*whole))
    torch.testing.assert_close(entropy.compute(), marginal_entropy(whole[0]))


def test_the_three_steps_adapt() -> None:
    """Two half moons of labels on a shifted domain: the discrepancy goes up in step 2 and down in step 3."""
    features, heads = nn.Linear(2, 8), [nn.Linear(8, 2) for _ in range(2)]
    loss, target = ClassifierDiscrepancyLoss(), torch.randn(64, 2) + 1

    def discrepancy() -> Tensor:
        value: Tensor = loss(*(head(features(target).tanh()).softmax(1) for head in heads))
        return value

    before = discrepancy().item()
    for parameters, sign in ((nn.ModuleList(heads).parameters(), -1), (features.parameters(), 1)):
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        start = discrepancy().item()
        for _ in range(20):
            optimizer.zero_grad()
            (sign * discrepancy()).backward()
            optimizer.step()
        assert sign * discrepancy().item() < sign * start
    assert before > 0


def test_errors() -> None:
    p = torch.randn(3, 4).softmax(1)
    for metric, rest in ((ClassifierDiscrepancyLoss(), (p,)), (MarginalEntropyLoss(), ())):
        metric(p, *rest)
        logits = torch.tensor([[2.0, -1.0, 0.0, 0.0]] * 3)
        refuses(metric, r"must hold probabilities, .* its smallest entry is -1 .* `.softmax\(1\)`", logits, *rest)
        refuses(metric, "its sums lie between 0.5 and 0.5", p / 2, *rest)
        refuses(metric, r"must have shape \(N, ..\)", p[0], *rest)
        sigmoid = torch.rand(3, 1)
        refuses(metric, r"probabilities of at least 2 classes, .* `torch.cat\(\[1 - p, p\], 1\)`", sigmoid, *rest)
    refuses(ClassifierDiscrepancyLoss(), r"`predictions2` must have the shape of `predictions1` \(3, 4\)", p, p[:2])
    metric = MarginalEntropyLoss()
    metric(p)
    refuses(metric, r"as many classes as the batches before \(4\), but got shape \(2, 3\)", torch.full((2, 3), 1 / 3))
    metric.reset()
    metric(torch.full((2, 3), 1 / 3))
