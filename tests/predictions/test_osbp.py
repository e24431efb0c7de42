"""OSBP against the paper's formula, where probabilities are certain, in its game, and its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st

from adaption import UnknownClassBinaryCrossEntropy
from adaption.functional import gradient_reversal, unknown_class_binary_cross_entropy


def by_loops(logits: Any, t: float) -> float:
    """Saito et al. 2018: the adversarial loss of a sample, and its mean over the target samples."""
    total = 0.0
    for row in logits:
        p = math.exp(row[-1]) / sum(math.exp(z) for z in row)
        total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    return total / len(logits)


@given(st.integers(1, 5), st.integers(2, 6), st.floats(0, 1), st.integers(0, 1000))
def test_equals_the_paper(samples: int, columns: int, t: float, seed: int) -> None:
    logits = 2 * torch.randn(samples, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = unknown_class_binary_cross_entropy(logits, t)
    assert value.item() == pytest.approx(by_loops(logits.tolist(), t), abs=1e-12)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_smallest_where_the_unknown_class_has_probability_t(t: float) -> None:
    logits = torch.tensor([[0.0, 0.0, math.log(2 * t / (1 - t))]], dtype=torch.float64, requires_grad=True)
    value = unknown_class_binary_cross_entropy(logits, t)
    value.backward()
    assert value.item() == pytest.approx(-t * math.log(t) - (1 - t) * math.log(1 - t))
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
@pytest.mark.parametrize("column", [0, 2])
def test_certain_classifiers_have_an_exact_value_and_a_living_gradient(column: int, size: float) -> None:
    logits = torch.zeros(1, 3)
    logits[0, column] = size
    logits.requires_grad_()
    value = unknown_class_binary_cross_entropy(logits)
    value.backward()
    assert value.item() == pytest.approx(size / 2, rel=1e-2)
    assert logits.grad is not None
    assert logits.grad[0, 2].abs().item() == pytest.approx(0.5)


def test_the_reversal_lets_features_leave_the_boundary() -> None:
    """The classifier is at rest on the boundary side it is told to keep; the features climb away from it."""
    features = torch.tensor([[0.1], [-0.1]], requires_grad=True)
    osbp = UnknownClassBinaryCrossEntropy()
    optimizer = torch.optim.SGD([features], lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        reversed_features = gradient_reversal(features)
        osbp(torch.cat([torch.zeros_like(reversed_features), reversed_features], 1)).backward()
        optimizer.step()
    assert features[0].item() > 1
    assert features[1].item() < -1


def test_one_sample_whose_logits_look_like_probabilities_says_nothing_of_the_others() -> None:
    logits = torch.tensor([[0.25, 0.75, 0.0], [0.0, 2.0, 1.0], [3.0, 0.5, 0.5]])
    assert unknown_class_binary_cross_entropy(logits).item() == pytest.approx(by_loops(logits.tolist(), 0.5))


def test_errors() -> None:
    metric, good = UnknownClassBinaryCrossEntropy(), torch.randn(4, 3)
    metric(good)
    refuses(metric, r"must have shape \(N, C \+ 1\), but got shape \(4, 3, 2\)", torch.randn(4, 3, 2))
    refuses(metric, r"logits of at least 2 classes, but got shape \(4, 1\)", good[:, :1])
    refuses(metric, "must hold logits, but no entry is negative and all sums over the classes are 1", good.softmax(1))
    for t in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`t` must be a finite number of at least 0 and at most 1"):
            UnknownClassBinaryCrossEntropy(t)
    with pytest.raises(TypeError, match="`t` must be a number, but got str"):
        UnknownClassBinaryCrossEntropy("half")  # type: ignore[arg-type]  # the point of the test
