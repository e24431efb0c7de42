"""CDD against the paper's sums over pairs of classes, its limits, the classes that count, any labels, and errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import labels_of_both, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaption import ContrastiveDomainDiscrepancyLoss
from adaption.functional import contrastive_domain_discrepancy, maximum_mean_discrepancy


def by_numpy(batch: tuple[Tensor, ...], num_kernels: int, bandwidth: float) -> float:
    """Kang et al. 2019, section 3.2: three means of kernels for each pair of classes, and two means of these."""
    source, labels, target, hypotheses = (part.numpy() for part in batch)

    def k(x: Any, y: Any) -> float:
        exponents = [-(2.0 ** (s - num_kernels // 2)) * ((x - y) ** 2).sum() / bandwidth for s in range(num_kernels)]
        return sum(math.exp(e) for e in exponents) / num_kernels

    def mean(xs: Any, ys: Any) -> float:
        return sum(k(x, y) for x in xs for y in ys) / (len(xs) * len(ys))

    classes = sorted({*labels.flatten().tolist()} & {*hypotheses.flatten().tolist()})
    within: list[float] = []
    between: list[float] = []
    for c, other in itertools.product(classes, classes):
        xs, ys = source[labels.flatten() == c], target[hypotheses.flatten() == other]
        distance = mean(xs, xs) + mean(ys, ys) - 2 * mean(xs, ys)
        (within if c == other else between).append(distance)
    return float(sum(np.mean(found) * sign for found, sign in ((within, 1), (between, -1)) if found))


def random_batch(n: int, m: int, classes: int, seed: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(rows, 3, generator=draw, dtype=torch.float64) for rows in (n, m))
    labels, hypotheses = (torch.randint(classes, (rows,), generator=draw) for rows in (n, m))
    return source, labels, target, hypotheses


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=40)
def test_equals_the_paper(n: int, m: int, classes: int, num_kernels: int, seed: int) -> None:
    batch = random_batch(n, m, classes, seed)
    value = contrastive_domain_discrepancy(*batch, num_kernels=num_kernels, bandwidth=2.5).item()
    assert value == pytest.approx(by_numpy(batch, num_kernels, 2.5), abs=1e-9)
    assert -2 <= value <= 2


def test_two_classes_over_several_tiles() -> None:
    """Minus the product of the differences between both classes' mean embeddings, by plain autograd."""
    source, labels, target, hypotheses = random_batch(300, 250, 2, 4)
    source, target = source.requires_grad_(), target.requires_grad_()
    value = contrastive_domain_discrepancy(source, labels, target, hypotheses, num_kernels=1, bandwidth=3.0)
    kernel = torch.exp(-(source[:, None] - target).square().sum(-1) / 3)
    left, right = ((part == 1) / part.sum() - (part == 0) / (1 - part).sum() for part in (labels, hypotheses))
    expected = -(left.double() @ kernel @ right.double())
    torch.testing.assert_close(value, expected)
    for mine, other in zip(*(torch.autograd.grad(v, [source, target]) for v in (value, expected)), strict=True):
        torch.testing.assert_close(mine, other)


def test_one_class_for_all_is_mmd() -> None:
    source, _, target, _ = random_batch(5, 4, 1, 0)
    value = contrastive_domain_discrepancy(source, torch.full((5, 1), 3), target, torch.full((4, 1), 3))
    torch.testing.assert_close(value, maximum_mean_discrepancy(source, target))


@pytest.mark.parametrize("swapped", [False, True])
def test_classes_far_apart_that_lie_together_or_change_places_are_at_the_bounds(swapped: bool) -> None:
    """Two classes: at -2 each is at its own, at 2 each is at the other."""
    points, labels = torch.tensor([[0.0], [100.0], [0.0]]), torch.tensor([0, 1, 0])
    value = contrastive_domain_discrepancy(points, labels, points, 1 - labels if swapped else labels, bandwidth=1.0)
    assert value.item() == pytest.approx(2 if swapped else -2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_without_a_common_class_value_and_gradient_are_0(dtype: torch.dtype) -> None:
    source, target = torch.randn(3, 2, dtype=dtype, requires_grad=True), torch.randn(4, 2, dtype=dtype)
    metric = ContrastiveDomainDiscrepancyLoss()
    value = metric(source, torch.tensor([0, 2, 2]), target, torch.tensor([1, 3, 3, 1]))
    value.backward()
    assert value.item() == metric.compute().item() == 0
    assert source.grad is not None
    assert source.grad.tolist() == torch.zeros(3, 2).tolist()


def test_a_class_of_one_domain_alone_moves_nothing() -> None:
    source, _, target, _ = (part.requires_grad_(part.is_floating_point()) for part in random_batch(4, 4, 3, 3))
    labels, hypotheses = torch.tensor([0, 1, 2, 0]), torch.tensor([5, 1, 0, 1])
    contrastive_domain_discrepancy(source, labels, target, hypotheses, bandwidth=1.0).backward()
    for gradient, alone in ((source.grad, 2), (target.grad, 0)):
        assert gradient is not None
        assert [bool(row.any()) for row in gradient] == [row != alone for row in range(4)]


def test_only_whether_labels_are_equal_counts() -> None:
    """Not how large they are, in which order, or of which type."""
    source, labels, target, hypotheses = random_batch(7, 6, 4, 5)
    expected = contrastive_domain_discrepancy(source, labels, target, hypotheses)
    names = torch.tensor([10**9, 0, 2**62, 7])
    torch.testing.assert_close(
        contrastive_domain_discrepancy(source, names[labels], target, names[hypotheses]), expected
    )
    torch.testing.assert_close(
        contrastive_domain_discrepancy(source, labels.to(torch.uint8), target, hypotheses[:, None].short()), expected
    )


@pytest.mark.parametrize("bandwidth", ["median", 1.0])
@pytest.mark.parametrize("position", [0, 2])
def test_nan_is_nan(position: int, bandwidth: str | float) -> None:
    """Also in a sample whose class the other domain has not."""
    batch = list(labels_of_both(4, 4))
    batch[position][1, 0] = torch.nan
    batch[position + 1][1] = 9
    assert contrastive_domain_discrepancy(*batch, bandwidth=bandwidth).isnan()


def test_a_negative_label_is_nan_where_labels_are_not_read() -> None:
    """In a compiled graph, as on an accelerator."""
    batch = labels_of_both(4, 4)
    compiled = torch.compile(contrastive_domain_discrepancy, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*batch), contrastive_domain_discrepancy(*batch))
    batch[3][2] = -1
    assert compiled(*batch).isnan()


def test_errors() -> None:
    metric, (source, labels, target, hypotheses) = ContrastiveDomainDiscrepancyLoss(), labels_of_both(4, 5)
    metric(source, labels, target, hypotheses)
    good = {
        "source_features": source,
        "source_labels": labels,
        "target_features": target,
        "target_labels": hypotheses,
    }
    for changed, match in (
        ({"source_labels": labels - 1}, "`source_labels` must not be negative, but got labels from -1 to 1"),
        ({"target_labels": hypotheses - 1}, "`target_labels` must not be negative, but got labels from -1 to 1"),
        ({"source_labels": labels[:3]}, r"`source_labels` must have as many samples as `source_features` \(4\)"),
        ({"target_labels": hypotheses[:4]}, r"`target_labels` must have as many samples as `target_features` \(5\)"),
        ({"target_labels": torch.ones(5, 3, dtype=torch.int64)}, "`target_labels` must hold one class per sample"),
        ({"target_features": target[:, :2]}, "`target_features` must have as many columns as `source_features`"),
    ):
        refuses(metric, match, *(good | changed).values())
    batch = (good | {"target_labels": hypotheses.float()}).values()
    refuses(metric, "`target_labels` must hold integers", *batch, error=TypeError)
    with pytest.raises(ValueError, match="`bandwidth` must be one of"):
        ContrastiveDomainDiscrepancyLoss(bandwidth="largest")
