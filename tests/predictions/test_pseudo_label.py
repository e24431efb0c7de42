"""Pseudo labels against loops, at the threshold, with and without a teacher, their share over ranks, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import PseudoLabelLoss
from adaption.functional import pseudo_label_loss


def by_loops(logits: Any, teacher: Any, threshold: float, weighting: str) -> list[float]:
    """Sohn et al. 2020, equation (4), or Hoyer et al. 2022, equations (3) and (4): the loss of each sample."""
    losses, confident = [], []
    for row, taught in zip(logits, teacher, strict=True):
        p = [math.exp(z) / sum(math.exp(other) for other in row) for z in row]
        q = [math.exp(z) / sum(math.exp(other) for other in taught) for z in taught]
        losses.append(-math.log(p[q.index(max(q))]))
        confident.append(max(q) >= threshold)
    share = sum(confident) / len(confident)
    factors = confident if weighting == "mask" else [share] * len(losses)
    return [loss * factor for loss, factor in zip(losses, factors, strict=True)]


@given(
    st.integers(1, 6),
    st.integers(2, 5),
    st.floats(0, 1),
    st.sampled_from(["mask", "share"]),
    st.sampled_from(["mean", "sum", "none"]),
    st.integers(0, 1000),
)
def test_equals_the_papers(
    samples: int, classes: int, threshold: float, weighting: str, reduction: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = (2 * torch.randn(samples, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    settings: dict[str, Any] = {"threshold": threshold, "weighting": weighting, "reduction": reduction}
    for taught in (teacher, logits):
        each = torch.tensor(by_loops(logits.tolist(), taught.tolist(), threshold, weighting), dtype=torch.float64)
        expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
        value = pseudo_label_loss(logits, None if taught is logits else taught, **settings)
        torch.testing.assert_close(value, expected)


def at_the_threshold() -> tuple[Tensor, Tensor]:
    """Two samples of which a teacher is exactly half sure, and one of which it is sure."""
    return torch.zeros(3, 2), torch.tensor([[1.0, 1.0], [-3.0, -3.0], [50.0, 0.0]])


def test_a_sample_at_the_threshold_is_confident() -> None:
    student, teacher = at_the_threshold()
    assert pseudo_label_loss(student, teacher, threshold=0.5).item() == pytest.approx(math.log(2))
    assert pseudo_label_loss(student, teacher, threshold=0.500001).item() == pytest.approx(math.log(2) / 3)
    assert pseudo_label_loss(student, teacher, threshold=1.0).item() == pytest.approx(math.log(2) / 3)


@pytest.mark.parametrize("weighting", ["mask", "share"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_without_confidence_there_is_no_loss_and_no_gradient(weighting: str, reduction: str) -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    metric = PseudoLabelLoss(0.9999, weighting=weighting, reduction=reduction)
    value = metric(logits)
    value.sum().backward()
    assert value.count_nonzero() == 0
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=0)
    assert metric.compute().count_nonzero() == 0
    assert metric.confident_share.item() == 0


def test_labels_are_constants() -> None:
    """Without a teacher the gradient is that of the cross entropy to fixed labels, and a teacher gets none."""
    logits = (3 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    teacher = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    pseudo_label_loss(logits, threshold=0.0).backward()
    p = logits.detach().softmax(1)
    labels = torch.eye(4, dtype=torch.float64)[p.argmax(1)]
    torch.testing.assert_close(logits.grad, (p - labels) / 6)
    pseudo_label_loss(logits, teacher, threshold=0.0).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("weighting", ["mask", "share"])
@pytest.mark.parametrize("place", ["student", "teacher", "both"])
def test_nan_is_not_taken_for_a_lack_of_confidence(place: str, weighting: str) -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    for name, logits in (("student", student), ("teacher", teacher)):
        if place in (name, "both"):
            logits[1, 0] = math.nan
    metric = PseudoLabelLoss(0.999, weighting=weighting)
    assert metric(student, teacher).isnan()
    assert metric.compute().isnan()
    assert metric.confident_share.isnan() == (place != "student")
    assert pseudo_label_loss(student.where(student.isnan(), 1.0), threshold=0.999).isnan() == (place != "teacher")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_certain_predictions_that_agree_and_that_do_not(dtype: torch.dtype) -> None:
    certain = torch.eye(3, dtype=dtype) * 1e4
    assert pseudo_label_loss(certain).item() == 0
    student = certain.roll(1, 0).requires_grad_()
    value = pseudo_label_loss(student, certain)
    value.backward()
    assert value.item() == pytest.approx(1e4, rel=1e-3)
    assert student.grad is not None
    torch.testing.assert_close(student.grad.float(), (certain.roll(1, 0) - certain).float() / 3e4, atol=1e-3, rtol=0)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.sampled_from(["mask", "share"]),
    st.sampled_from(["mean", "sum"]),
    st.integers(0, 1000),
)
def test_epoch_value_is_that_of_all_samples(sizes: list[int], weighting: str, reduction: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(sum(sizes), 3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    settings: dict[str, Any] = {"threshold": 0.6, "weighting": weighting, "reduction": reduction}
    metric = PseudoLabelLoss(**settings)
    for part in zip(student.split(sizes), teacher.split(sizes), strict=True):
        metric.update(*part)
    torch.testing.assert_close(metric.compute(), pseudo_label_loss(student, teacher, **settings))
    share = (teacher.softmax(1).amax(1) >= 0.6).double().mean()
    torch.testing.assert_close(metric.confident_share, share)


def test_each_value_of_a_share_is_that_of_its_batch() -> None:
    metric = PseudoLabelLoss(0.9, weighting="share", reduction="none")
    sure, torn = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([[9.0, 0.0], [0.0, 0.1]])
    student = torch.zeros(2, 2)
    assert metric(student, sure).tolist() == pytest.approx([math.log(2)] * 2)
    assert metric(student, torn).tolist() == pytest.approx([math.log(2) / 2] * 2)
    assert metric.compute().tolist() == pytest.approx([math.log(2)] * 2 + [math.log(2) / 2] * 2)
    assert metric.confident_share.item() == 0.75


def test_the_share_is_that_of_all_ranks() -> None:
    """Two ranks with the same data, one of them asked; the local states stay as they are."""
    metric = PseudoLabelLoss(
        0.9, dist_sync_fn=lambda state, **_: [state, 3 * state], distributed_available_fn=lambda: True
    )
    metric.update(torch.tensor([[9.0, 0.0], [0.0, 0.1]]))
    metric.num_samples = metric.num_samples * 2
    assert metric.confident_share.item() == 0.25
    assert not metric._is_synced
    assert metric.num_samples.item() == 4


def test_the_share_before_a_batch_is_nan_and_skips_what_is_left_out() -> None:
    metric = PseudoLabelLoss(0.9, nan_strategy="ignore")
    assert metric.confident_share.isnan()
    metric.update(torch.tensor([[9.0, 0.0], [0.0, 0.1]]))
    metric.update(torch.full((2, 2), math.nan))
    assert metric.confident_share.item() == 0.5
    metric.reset()
    assert metric.confident_share.isnan()


def test_errors() -> None:
    metric, good = PseudoLabelLoss(), torch.randn(4, 3)
    metric(good, good)
    refuses(metric, r"`logits` must hold the logits of at least 2 classes, but got shape \(4, 1\)", good[:, :1])
    refuses(metric, "`logits` must hold logits, but no entry is negative", good.softmax(1))
    refuses(metric, "`teacher_logits` must hold logits, but no entry is negative", good, good.softmax(1))
    refuses(metric, r"`teacher_logits` must have the shape of `logits` \(4, 3\)", good, good[:2])
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="`threshold` must be a finite number of at least 0 and at most 1"):
            PseudoLabelLoss(threshold)
    with pytest.raises(TypeError, match="`threshold` must be a number, but got str"):
        PseudoLabelLoss("high")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match='`weighting` must be one of "mask", "share", but got \'confidence\''):
        PseudoLabelLoss(weighting="confidence")
    with pytest.raises(ValueError, match='`reduction` must be one of "mean", "sum", "none"'):
        PseudoLabelLoss(reduction="median")
