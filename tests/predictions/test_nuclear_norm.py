"""Nuclear norm against a decomposition in NumPy, closed forms, its gradient at every rank, splits, and errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import NuclearNormMaximizationLoss
from adaption._nuclear_norm import norm_of_batch
from adaption.functional import nuclear_norm_maximization


def by_numpy(logits: Any) -> tuple[float, Any]:
    """Cui et al. 2020 of the predictions, over sqrt(n C), and its gradient -U V' by them."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    u, s, vt = np.linalg.svd(p, full_matrices=False)
    return -s.sum() / math.sqrt(p.size), -(u @ vt) / math.sqrt(p.size)


@given(st.integers(1, 8), st.integers(2, 8), st.integers(0, 1000))
def test_equals_the_paper(samples: int, classes: int, seed: int) -> None:
    """With fewer samples than classes, as many, and more."""
    logits = 2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = nuclear_norm_maximization(logits).item()
    assert value == pytest.approx(by_numpy(logits.numpy())[0], abs=1e-9)
    assert -1 - 1e-12 <= value <= -1 / classes + 1e-12


def gradient_by_predictions(p: Tensor) -> Tensor:
    p = p.clone().requires_grad_()
    (-norm_of_batch(p)).backward()
    assert p.grad is not None
    return p.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("samples", "classes"), [(12, 4), (4, 12)])
def test_gradient_is_that_of_the_singular_vectors(samples: int, classes: int, dtype: torch.dtype) -> None:
    logits = 3 * torch.randn(samples, classes, dtype=torch.float64)
    found = gradient_by_predictions(logits.softmax(1).to(dtype))
    torch.testing.assert_close(found.double().numpy(), by_numpy(logits.numpy())[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_balanced_collapsed_and_uniform_predictions(classes: int, dtype: torch.dtype) -> None:
    """Singular values that are all equal, and all but one 0."""
    certain = torch.eye(classes, dtype=dtype).repeat(3, 1) * 1e4
    collapsed = certain[:1].expand(3 * classes, classes)
    for logits, expected in (
        (certain, -1.0),
        (collapsed, -(classes**-0.5)),
        (torch.zeros_like(certain), -1 / classes),
    ):
        asked = logits.clone().requires_grad_()
        metric = NuclearNormMaximizationLoss()
        value = metric(asked)
        value.backward()
        assert value.item() == pytest.approx(expected, abs=1e-6)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(asked.grad, torch.zeros_like(asked), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("samples", "classes"), [(64, 10), (10, 64), (5000, 4)])
def test_rounding_does_not_enter_the_gradient_at_rank_one(samples: int, classes: int, dtype: torch.dtype) -> None:
    """Equal rows p: the one singular pair is 1 / sqrt(n) and p / |p|, and no direction of rounding joins it."""
    p = torch.randn(classes, dtype=torch.float64).softmax(0)
    noise = 1 + torch.finfo(dtype).eps * (torch.rand(samples, classes, dtype=torch.float64) - 0.5)
    found = gradient_by_predictions((p * noise).to(dtype))
    expected = -(p / p.norm() / samples**0.5).expand(samples, classes) / (samples * classes) ** 0.5
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-8)


def test_gradient_beside_equal_singular_values_is_that_at_them() -> None:
    base = torch.eye(4, dtype=torch.float64).repeat(2, 1) * 0.6 + 0.1
    expected = gradient_by_predictions(base)
    assert expected.isfinite().all()
    for size in (1e-3, 1e-6, 1e-9, 1e-12):
        nearby = gradient_by_predictions(base + size * torch.randn(8, 4, dtype=torch.float64))
        torch.testing.assert_close(nearby, expected, rtol=0, atol=4 * size + 1e-10)


def test_the_value_of_a_batch_and_of_its_sums_agree_to_rounding() -> None:
    for samples, classes in ((2, 9), (9, 9), (40, 9)):
        metric, logits = NuclearNormMaximizationLoss(), 5 * torch.randn(samples, classes)
        torch.testing.assert_close(metric(logits).double(), metric.compute(), rtol=1e-6, atol=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(sizes: list[int], seed: int) -> None:
    logits = 3 * torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    metric = NuclearNormMaximizationLoss()
    for part in logits.split(sizes):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), nuclear_norm_maximization(logits), rtol=1e-9, atol=1e-9)


def test_the_size_of_the_batch_does_not_matter() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(nuclear_norm_maximization(logits.repeat(7, 1)), nuclear_norm_maximization(logits))


@pytest.mark.parametrize("samples", [2, 9])
def test_nan_gives_nan_and_no_error_of_lapack(samples: int) -> None:
    logits = torch.randn(samples, 4)
    logits[1, 2] = math.nan
    logits.requires_grad_()
    metric = NuclearNormMaximizationLoss()
    value = metric(logits)
    value.backward()
    assert value.isnan()
    assert metric.compute().isnan()
    assert logits.grad is not None
    assert logits.grad.isnan().all()


def test_an_update_decomposes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = NuclearNormMaximizationLoss()
    monkeypatch.setattr(torch.linalg, "eigh", None)
    metric.update(torch.randn(5, 4))
    assert metric.update_count == 1


def test_errors() -> None:
    metric, good = NuclearNormMaximizationLoss(), torch.randn(4, 3)
    metric(good)
    refuses(metric, r"`target_logits` must have shape \(N, classes\), but got shape \(4, 3, 2\)", torch.randn(4, 3, 2))
    refuses(metric, r"logits of at least 2 classes, but got shape \(4, 1\)", good[:, :1])
    refuses(metric, "`target_logits` must hold logits, but no entry is negative", good.softmax(1))
    refuses(metric, r"must have as many classes as the batches before \(3\), but got shape \(4, 9\)", torch.randn(4, 9))
