"""OVANet against loops, the hardest of the other classes, certain and equal pairs, both losses together, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import elsewhere, refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from adaption import OneVersusAllLoss, OpenSetEntropyLoss
from adaption.functional import entropy_minimization, one_versus_all, open_set_entropy

pytestmark = pytest.mark.usefixtures("either_gradient")


def pair(unknown: float, known: float) -> tuple[float, float]:
    total = math.exp(unknown) + math.exp(known)
    return math.exp(unknown) / total, math.exp(known) / total


def source_by_loops(open_logits: Any, labels: Any) -> float:
    """Saito and Saenko 2021: the log probability of "known" for the own class, the smallest of "unknown" of others."""
    total = 0.0
    for (unknown, known), label in zip(open_logits, labels, strict=True):
        pairs = [pair(u, k) for u, k in zip(unknown, known, strict=True)]
        total -= math.log(pairs[label][1])
        total -= min(math.log(pairs[k][0]) for k in range(len(pairs)) if k != label)
    return total / len(labels)


def target_by_loops(open_logits: Any) -> float:
    """The same: the entropies of all pairs of a sample, their mean over classes, and over samples."""
    total = 0.0
    for unknown, known in open_logits:
        pairs = [pair(u, k) for u, k in zip(unknown, known, strict=True)]
        total += sum(-p * math.log(p) for both in pairs for p in both) / len(pairs)
    return total / len(open_logits)


@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 1000))
def test_equals_the_paper(samples: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(samples, 2, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    expected = source_by_loops(logits.tolist(), labels.tolist())
    assert one_versus_all(logits, labels).item() == pytest.approx(expected, abs=1e-12)
    assert one_versus_all(logits, labels[:, None]).item() == pytest.approx(expected, abs=1e-12)
    assert open_set_entropy(logits).item() == pytest.approx(target_by_loops(logits.tolist()), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integers(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(4, 2, 3), torch.tensor([2, 0, 1, 2])
    torch.testing.assert_close(one_versus_all(logits, labels.to(dtype)), one_versus_all(logits, labels))


def test_the_callers_labels_are_not_kept() -> None:
    """They may come from inference mode, and may change before the backward pass."""
    with torch.inference_mode():
        labels = torch.tensor([2, 0])
    logits = torch.randn(2, 2, 3, requires_grad=True)
    one_versus_all(logits, labels).backward()
    expected, logits.grad = logits.grad, None
    labels = torch.tensor([2, 0])
    value = one_versus_all(logits, labels)
    labels.zero_()
    value.backward()
    torch.testing.assert_close(logits.grad, expected)


def test_only_the_own_class_and_the_hardest_other_one_learn() -> None:
    logits = torch.zeros(1, 2, 4)
    logits[0, 1] = torch.tensor([1.0, 5.0, -3.0, 2.0])  # of class 1; class 3 takes it for its own most
    logits.requires_grad_()
    one_versus_all(logits, torch.tensor([1])).backward()
    own, hardest = 1 / (1 + math.exp(5)), 1 / (1 + math.exp(-2))
    expected = torch.tensor([[0.0, own, 0.0, -hardest], [0.0, -own, 0.0, hardest]])
    torch.testing.assert_close(logits.grad, expected[None])


def test_classes_that_are_equally_hard_share_the_gradient() -> None:
    """So that the order of the classes changes nothing."""
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    value = one_versus_all(logits, torch.tensor([0]))
    value.backward()
    assert value.item() == pytest.approx(2 * math.log(2))
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.5, -0.25, -0.25], [-0.5, 0.25, 0.25]]]))


@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_certain_pairs_have_an_exact_value_and_a_living_gradient(size: float) -> None:
    logits = torch.zeros(1, 2, 2)
    logits[0, 1] = torch.tensor([-size, size])  # wrong of both classes
    logits.requires_grad_()
    value = one_versus_all(logits, torch.tensor([0]))
    value.backward()
    assert value.item() == pytest.approx(2 * size)
    torch.testing.assert_close(logits.grad, torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]))
    right = one_versus_all(logits.detach().flip(1), torch.tensor([0]))
    assert right.item() == pytest.approx(2 * math.exp(-size), rel=1e-6)
    entropy = open_set_entropy(logits)
    assert entropy.item() == pytest.approx((1 + size) * math.exp(-size), rel=1e-5)


def test_the_entropy_is_that_of_two_classes_at_each_place() -> None:
    logits = torch.randn(5, 2, 7, dtype=torch.float64)
    torch.testing.assert_close(open_set_entropy(logits), entropy_minimization(logits))


def test_nan_is_passed_on() -> None:
    for place in ((1, 0, 0), (1, 1, 2)):  # of its own class, and of another
        logits = torch.randn(2, 2, 3)
        logits[place] = math.nan
        assert one_versus_all(logits, torch.tensor([1, 0])).isnan()
        assert open_set_entropy(logits).isnan()


def test_what_is_none_of_the_classes_is_nan_where_labels_are_not_read() -> None:
    """As on an accelerator, and in a compiled graph: an index out of range would end the process there."""
    compiled = torch.compile(one_versus_all, fullgraph=True, backend="eager")
    logits = torch.randn(2, 2, 3)
    for label in (-1, 3):
        assert compiled(logits, torch.tensor([0, label])).isnan()
    torch.testing.assert_close(compiled(logits, torch.tensor([0, 2])), one_versus_all(logits, torch.tensor([0, 2])))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_epoch_values_are_those_of_all_samples(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(sizes))
    logits = torch.randn(sum(sizes), 2, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (sum(sizes),), generator=generator)
    source, target = OneVersusAllLoss(), OpenSetEntropyLoss()
    for part, own in zip(logits.split(sizes), labels.split(sizes), strict=True):
        source.update(part, own)
        target.update(part)
    torch.testing.assert_close(source.compute(), one_versus_all(logits, labels))
    torch.testing.assert_close(target.compute(), open_set_entropy(logits))


def test_what_lies_between_all_classes_is_of_none_of_them() -> None:
    """Three classes, and in their middle a group that the source does not have."""
    torch.manual_seed(0)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])

    def batch(group: torch.Tensor) -> torch.Tensor:
        return centres[group] + 0.2 * torch.randn(len(group), 2)

    classifier = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 6))
    source_loss, target_loss = OneVersusAllLoss(), OpenSetEntropyLoss()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
    for _ in range(300):
        labels, groups = torch.randint(3, (64,)), torch.randint(4, (64,))
        own, open_logits = (classifier(batch(group)).view(-1, 2, 3) for group in (labels, groups))
        loss = source_loss(own, labels) + 0.1 * target_loss(open_logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    known = classifier(batch(torch.arange(4).repeat_interleave(100))).view(4, 100, 2, 3).softmax(2)[:, :, 1]
    own = known[:3].diagonal(dim1=0, dim2=2)
    assert (own > 0.9).float().mean() > 0.95
    assert (known[3] < 0.5).float().mean() > 0.95


def test_errors_of_the_source() -> None:
    metric, good, labels = OneVersusAllLoss(), torch.randn(4, 2, 3), torch.tensor([0, 1, 2, 0])
    metric(good, labels)
    shape = r"`open_logits` must have shape \(N, 2, C\), a pair of logits for each class, but got shape"
    refuses(metric, shape + r" \(4, 6\)", good.flatten(1), labels)
    refuses(metric, shape + r" \(4, 3, 2\)", good.mT, labels)
    refuses(metric, shape + r" \(4, 2, 3, 1\)", good[..., None], labels)
    refuses(metric, r"pairs for at least 2 classes, but got shape \(4, 2, 1\)", good[..., :1], labels)
    refuses(metric, "`open_logits` must hold logits, but no entry is negative", good.softmax(1), labels)
    refuses(metric, r"`open_logits` must not be empty, but got shape \(0, 2, 3\)", good[:0], labels[:0])
    refuses(metric, "`open_logits` must be a floating-point tensor", good.long(), labels, error=TypeError)
    refuses(metric, "`labels` must lie between 0 and 2, but got labels from 0 to 3", good, labels + labels // 2)
    refuses(metric, "`labels` must lie between 0 and 2, but got labels from -1 to 1", good, labels - 1)
    refuses(metric, r"`labels` must have as many samples as `open_logits` \(4\)", good, labels[:3])
    refuses(metric, "`labels` must hold integers, but got torch.float32", good, labels.float(), error=TypeError)
    refuses(metric, "`labels` must hold one class per sample", good, F.one_hot(labels))
    refuses(metric, r"`labels` must be on the device of `open_logits` \(cpu\)", good, elsewhere(labels).long())


def test_errors_of_the_target() -> None:
    metric, good = OpenSetEntropyLoss(), torch.randn(4, 2, 3)
    metric(good)
    refuses(metric, r"must have shape \(N, 2, C\), .* but got shape \(4, 3, 2\)", good.mT)
    refuses(metric, r"pairs for at least 2 classes, but got shape \(4, 2, 1\)", good[..., :1])
    refuses(metric, "`open_logits` must hold logits, but no entry is negative", good.softmax(1))
    refuses(metric, "`open_logits` must be a floating-point tensor", good.long(), error=TypeError)
