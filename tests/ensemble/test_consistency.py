"""Consistency against double loops, its masks, distances of all shapes, and its errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from adaption import ConsistencyLoss, L2ConsistencyLoss
from adaption.functional import consistency_loss, l2_consistency_loss


def by_loops(student: Any, teacher: Any, mask: Any) -> float:
    """French et al. 2018: squared differences of a sample, masked, over all samples."""
    total = 0.0
    for s, t, keep in zip(student, teacher, mask, strict=True):
        total += keep * sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
    return total / len(student)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 1000))
def test_equals_the_paper(mask: list[bool], classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    student, teacher = (torch.randn(len(mask), classes).double().softmax(1) for _ in range(2))
    value = l2_consistency_loss(student, teacher, torch.tensor(mask))
    assert value.item() == pytest.approx(by_loops(student.tolist(), teacher.tolist(), mask), abs=1e-14)
    assert value <= 2


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log(), teacher, reduction="none").sum(1)


def test_distances_of_all_shapes() -> None:
    student, teacher = (torch.randn(4, 3).softmax(1) for _ in range(2))
    for measure in (F.mse_loss, F.l1_loss):
        scalar = consistency_loss(student, teacher, distance_measure=measure)
        each = consistency_loss(student, teacher, distance_measure=partial(measure, reduction="none"))
        torch.testing.assert_close(each, scalar)
    expected = F.kl_div(student.log(), teacher, reduction="batchmean")
    torch.testing.assert_close(consistency_loss(student, teacher, distance_measure=divergence), expected)


@pytest.mark.parametrize("metric", [L2ConsistencyLoss(), ConsistencyLoss(divergence)], ids=["L2", "KL"])
def test_a_mask_of_zeros_gives_zero_with_zero_gradient(metric: Any) -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3).softmax(1)
    value = metric(student.softmax(1), teacher, torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert student.grad is not None
    assert student.grad.eq(0).all()


def test_few_confident_samples_pull_gently() -> None:
    """The pull of one sample does not depend on how many others are kept."""
    teacher, pulls = torch.randn(4, 3).softmax(1), []
    for mask in ([1, 0, 0, 0], [1, 1, 1, 1]):
        student = torch.full((4, 3), 1 / 3, requires_grad=True)
        l2_consistency_loss(student, teacher, torch.tensor(mask)).backward()
        assert student.grad is not None
        pulls.append(student.grad[0])
    torch.testing.assert_close(*pulls)


def test_masks_may_be_booleans_integers_or_columns() -> None:
    student, teacher = torch.randn(3, 2), torch.randn(3, 2)
    mask = torch.tensor([True, False, True])
    values = [l2_consistency_loss(student, teacher, m) for m in (mask, mask.int(), mask.double(), mask[:, None])]
    for value in values:
        torch.testing.assert_close(value, values[0], check_dtype=False)


def test_reductions_agree() -> None:
    student, teacher, mask = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5)
    values = {r: L2ConsistencyLoss(r)(student, teacher, mask) for r in ("mean", "sum", "none")}
    assert values["none"].shape == (5,)
    torch.testing.assert_close(values["none"].mean(), values["mean"])
    torch.testing.assert_close(values["none"].sum(), values["sum"])


def test_dense_outputs() -> None:
    student, teacher, mask = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.tensor([1.0, 0.5])
    none = l2_consistency_loss(student, teacher, mask, reduction="none")
    assert none.shape == (2, 4, 5)
    torch.testing.assert_close(none.mean(), l2_consistency_loss(student, teacher, mask))


def test_errors() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    metric = L2ConsistencyLoss()
    metric(student, teacher)
    refuses(
        metric, r"`teacher` must have the shape of `student` \(4, 3\), but got shape \(4, 2\)", student, teacher[:, 1:]
    )
    refuses(metric, "`mask` must hold one weight per sample", student, teacher, torch.ones(3))
    refuses(metric, "`mask` must not be negative", student, teacher, -torch.ones(4))
    refuses(metric, "`mask` must be a tensor, but got list", student, teacher, [1, 0, 1, 1], error=TypeError)
    scalar = ConsistencyLoss(F.mse_loss)
    scalar(student, teacher)
    match = r"`distance_measure` must return .* for `mask`, but returned shape \(\). Let it keep samples apart"
    refuses(scalar, match, student, teacher, torch.ones(4))
    refuses(ConsistencyLoss(F.mse_loss, "none"), 'for reduction="none"', student, teacher)
    with pytest.raises(TypeError, match="`distance_measure` must be a Module or another callable"):
        ConsistencyLoss("mse")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        L2ConsistencyLoss("average")
