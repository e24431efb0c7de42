"""LMMD against the paper's weights with a kernel matrix, its limits, the classes that count, and errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import labels_and_logits, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaption import LocalMaximumMeanDiscrepancyLoss
from adaption.functional import local_maximum_mean_discrepancy, maximum_mean_discrepancy


def by_numpy(batch: tuple[Tensor, ...], num_kernels: int, bandwidth: float) -> float:
    """Zhu et al. 2021, equations (5) and (7): three sums of weights times kernels, class by class, then their mean."""
    source, labels, target, logits = (part.numpy() for part in batch)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)

    def k(x: Any, y: Any) -> float:
        exponents = [-(2.0 ** (s - num_kernels // 2)) * ((x - y) ** 2).sum() / bandwidth for s in range(num_kernels)]
        return sum(math.exp(e) for e in exponents) / num_kernels

    values = []
    for c in sorted(set(labels.tolist()) & set(p.argmax(1).tolist())):
        a = (labels == c) / (labels == c).sum()
        b = p[:, c] / p[:, c].sum()
        within_source = sum(a[i] * a[j] * k(source[i], source[j]) for i in range(len(a)) for j in range(len(a)))
        within_target = sum(b[i] * b[j] * k(target[i], target[j]) for i in range(len(b)) for j in range(len(b)))
        across = sum(a[i] * b[j] * k(source[i], target[j]) for i in range(len(a)) for j in range(len(b)))
        values.append(within_source + within_target - 2 * across)
    return sum(values) / len(values) if values else 0.0


def random_batch(n: int, m: int, classes: int, seed: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(rows, 3, generator=draw, dtype=torch.float64) for rows in (n, m))
    labels = torch.randint(classes, (n,), generator=draw)
    return source, labels, target, torch.randn(m, classes, generator=draw, dtype=torch.float64) - 1


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 5), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=40)
def test_equals_the_paper(n: int, m: int, classes: int, num_kernels: int, seed: int) -> None:
    batch = random_batch(n, m, classes, seed)
    value = local_maximum_mean_discrepancy(*batch, num_kernels=num_kernels, bandwidth=2.5).item()
    assert value == pytest.approx(by_numpy(batch, num_kernels, 2.5), abs=1e-9)
    assert -1e-12 <= value <= 2


def test_one_class_for_all_is_mmd() -> None:
    """With weights for its samples where predictions are not certain: p of the class, normalised."""
    source, _, target, logits = random_batch(5, 4, 3, 0)
    logits[:, 1] += 5
    labels = torch.ones(5, 1, dtype=torch.int64)
    weights = logits.softmax(1)[:, 1]
    torch.testing.assert_close(
        local_maximum_mean_discrepancy(source, labels, target, logits),
        maximum_mean_discrepancy(source, target, target_weights=weights),
    )


def test_equal_batches_with_predictions_that_are_the_labels_are_no_distance_apart() -> None:
    source, labels, _, _ = random_batch(6, 6, 3, 1)
    moved = source.clone().requires_grad_()
    value = local_maximum_mean_discrepancy(moved, labels, source, 1e4 * torch.eye(3, dtype=torch.float64)[labels])
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert moved.grad is not None
    assert moved.grad.abs().max() < 1e-8


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_without_a_common_class_value_and_gradient_are_0(dtype: torch.dtype) -> None:
    source, target = torch.randn(3, 2, dtype=dtype, requires_grad=True), torch.randn(4, 2, dtype=dtype)
    metric = LocalMaximumMeanDiscrepancyLoss()
    value = metric(source, torch.zeros(3, dtype=torch.int64), target, torch.tensor([[-1e4, 0.0]]).repeat(4, 1))
    value.backward()
    assert value.item() == metric.compute().item() == 0
    assert source.grad is not None
    assert source.grad.tolist() == torch.zeros(3, 2).tolist()


def test_a_class_of_one_domain_alone_moves_nothing() -> None:
    """The label 2, which no target sample is taken for, and its sample."""
    source, _, target, logits = (part.requires_grad_(part.is_floating_point()) for part in random_batch(4, 4, 3, 3))
    logits = logits.detach() - torch.tensor([0.0, 0.0, 50.0])
    local_maximum_mean_discrepancy(source, torch.tensor([0, 1, 2, 0]), target, logits, bandwidth=1.0).backward()
    assert source.grad is not None
    assert source.grad[2].tolist() == [0, 0, 0]
    assert (source.grad[[0, 1, 3]].abs().sum(1) > 0).all()


def test_predictions_get_no_gradient() -> None:
    source, labels, target, logits = labels_and_logits(4, 5)
    value = local_maximum_mean_discrepancy(source.requires_grad_(), labels, target, logits.requires_grad_())
    assert torch.autograd.grad(value, [source, logits], allow_unused=True)[1] is None


@pytest.mark.parametrize("position", [0, 2, 3])
def test_nan_is_nan(position: int) -> None:
    """Also in logits of which a comparison would make a class."""
    batch = list(labels_and_logits(4, 4))
    batch[position][1, 0] = torch.nan
    value = local_maximum_mean_discrepancy(*batch)
    assert value.isnan()


def test_a_label_that_is_no_class_is_nan_where_labels_are_not_read() -> None:
    """In a compiled graph, as on an accelerator."""
    source, labels, target, logits = labels_and_logits(4, 4)
    labels[2] = 7
    compiled = torch.compile(local_maximum_mean_discrepancy, fullgraph=True, backend="eager")
    assert compiled(source, labels, target, logits).isnan()


def test_errors() -> None:
    metric, (source, labels, target, logits) = LocalMaximumMeanDiscrepancyLoss(), labels_and_logits(4, 5)
    metric(source, labels, target, logits)
    good = {"source_features": source, "source_labels": labels, "target_features": target, "target_logits": logits}
    for changed, match in (
        ({"source_labels": labels + 1}, "`source_labels` must lie between 0 and 2, but got labels from 1 to 3"),
        ({"source_labels": labels[:3]}, r"`source_labels` must have as many samples as `source_features` \(4\)"),
        ({"source_labels": torch.ones(4, 3, dtype=torch.int64)}, "`source_labels` must hold one class per sample"),
        ({"target_logits": logits[:4]}, r"`target_logits` must have as many samples as `target_features` \(5\)"),
        ({"target_logits": logits.softmax(1)}, "`target_logits` must hold logits, but no entry is negative"),
        ({"target_logits": logits[..., None]}, r"`target_logits` must have shape \(N, classes\)"),
    ):
        refuses(metric, match, *(good | changed).values())
    batch = (good | {"source_labels": labels.float()}).values()
    refuses(metric, "`source_labels` must hold integers", *batch, error=TypeError)
    with pytest.raises(ValueError, match="`bandwidth` must be one of"):
        LocalMaximumMeanDiscrepancyLoss(bandwidth="largest")
