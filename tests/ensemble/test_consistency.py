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


def divergence_of_logits(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)


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


MASK_TYPES = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", MASK_TYPES, ids=str)
def test_a_mask_says_true_or_false_whatever_its_type(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(4, 3).requires_grad_(), torch.randn(4, 3)
    keep = torch.tensor([True, False, True, True])
    mask = 255 * keep.to(dtype) if dtype in {torch.uint8, torch.int16} else keep.to(dtype)
    for metric in (L2ConsistencyLoss(), ConsistencyLoss(divergence_of_logits)):
        value, expected = metric(student, teacher, mask), metric(student[keep], teacher[keep]) * 3 / 4
        torch.testing.assert_close(value, expected)
        gradients = [torch.autograd.grad(v, student)[0] for v in (value, expected)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(5,), (2,), (4, 5), (1, 1), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dense_masks_keep_positions(size: tuple[int, ...], reduction: str) -> None:
    """The loss of a dense output is that of its positions, each taken for a sample."""
    student, teacher = torch.randn(2, 3, *size).requires_grad_(), torch.randn(2, 3, *size)
    mask = torch.rand(2, *size) > 0.5
    flat = [output.movedim(1, -1).reshape(-1, 3) for output in (student, teacher)]
    for build in (L2ConsistencyLoss, partial(ConsistencyLoss, divergence_of_logits)):
        expected = build(reduction=reduction)(flat[0], flat[1], mask.flatten())
        for form in (mask, mask.unsqueeze(1), 255 * mask.to(torch.uint8), mask.double()):
            value = build(reduction=reduction)(student, teacher, form)
            assert value.shape == ((2, *size) if reduction == "none" else ())
            torch.testing.assert_close(value.flatten().float(), expected.flatten())
        gradients = [torch.autograd.grad(v.sum(), student)[0] for v in (value, expected)]
        torch.testing.assert_close(*gradients)


def test_the_mask_of_a_confident_teacher_of_pixels() -> None:
    teacher = torch.randn(2, 3, 4, 5).softmax(1)
    student = torch.randn(2, 3, 4, 5).softmax(1)
    metric = L2ConsistencyLoss()
    confident = teacher.amax(1) > 0.6
    value = metric(student, teacher, confident)
    kept = (student - teacher).square().sum(1)[confident]
    torch.testing.assert_close(value, kept.sum() / (2 * 4 * 5))
    torch.testing.assert_close(metric.compute(), value.double())


def test_errors_of_dense_masks() -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    metric = L2ConsistencyLoss()
    metric(student, teacher)
    match = r"`mask` must hold one entry per sample \(2,\) or per position \(2, 4, 5\), but got shape"
    for wrong in ((2, 4), (2, 5, 4), (2, 3, 4, 5), (1, 4, 5), (2, 1, 5)):
        refuses(metric, match, student, teacher, torch.ones(wrong))
    refuses(metric, "`mask` must hold one weight per sample", student, teacher, torch.ones(4))
    refuses(metric, "`mask` must not be negative", student, teacher, -torch.ones(2, 4, 5))
    samples = ConsistencyLoss(lambda left, right: (left - right).square().sum((1, 2, 3)))
    samples(student, teacher, torch.ones(2))
    match = (
        r"`distance_measure` must return one value per position \(2, 4, 5\) for a `mask` of that shape, but returned"
    )
    refuses(samples, match, student, teacher, torch.ones(2, 4, 5))


def test_errors() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    metric = L2ConsistencyLoss()
    metric(student, teacher)
    refuses(
        metric, r"`teacher` must have the shape of `student` \(4, 3\), but got shape \(4, 2\)", student, teacher[:, 1:]
    )
    refuses(metric, "`mask` must hold one weight per sample", student, teacher, torch.ones(3))
    refuses(metric, "`mask` must not be negative", student, teacher, -torch.ones(4))
    refuses(
        metric, "`mask` must hold truth values, or shares between 0 and 1, but its", student, teacher, torch.ones(4) * 2
    )
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
