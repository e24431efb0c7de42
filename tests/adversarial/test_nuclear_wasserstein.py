"""DALN against a decomposition in NumPy, closed forms, its game, unequal batches, splits, and errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from adaption import NuclearWassersteinDiscrepancyLoss
from adaption.functional import gradient_reversal, nuclear_wasserstein_discrepancy


def draw(n: int, m: int, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(size, classes, generator=generator, dtype=torch.float64) for size in (n, m))
    return 3 * source, target


def by_numpy(logits: Any) -> tuple[float, Any]:
    """The nuclear norm of the predictions over sqrt(n C), and its gradient U V' by them, through the softmax."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    u, s, vt = np.linalg.svd(p, full_matrices=False)
    by_p = u @ vt / math.sqrt(p.size)
    return s.sum() / math.sqrt(p.size), p * (by_p - (by_p * p).sum(1, keepdims=True))


@given(n=st.integers(1, 8), m=st.integers(1, 8), classes=st.integers(2, 6), seed=st.integers(0, 1000))
def test_equals_the_paper(n: int, m: int, classes: int, seed: int) -> None:
    """Chen et al. 2022, whose divisors n are here sqrt(n C): what the classifier minimises, and its gradient."""
    source, target = (logits.requires_grad_() for logits in draw(n, m, classes, seed))
    value = nuclear_wasserstein_discrepancy(source, target)
    value.backward()
    (of_source, by_source), (of_target, by_target) = (by_numpy(logits.detach().numpy()) for logits in (source, target))
    assert value.item() == pytest.approx(of_target - of_source, abs=1e-9)
    assert source.grad is not None
    assert target.grad is not None
    np.testing.assert_allclose(source.grad, -by_source, rtol=0, atol=1e-6)
    np.testing.assert_allclose(target.grad, by_target, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_certain_collapsed_and_uniform_domains(classes: int, dtype: torch.dtype) -> None:
    """Norms of 1, 1 / sqrt(C) and 1 / C, in batches of different sizes; the extremes are the largest gap there is."""
    certain = 1e4 * torch.eye(classes, dtype=dtype)
    norms = {1.0: certain.repeat(3, 1), classes**-0.5: certain[:1].expand(4, classes), 1 / classes: 0 * certain[:2]}
    for of_source, source in norms.items():
        for of_target, target in norms.items():
            metric = NuclearWassersteinDiscrepancyLoss()
            asked = [part.clone().requires_grad_() for part in (source, target)]
            value = metric(*asked)
            value.backward()
            assert value.item() == pytest.approx(of_target - of_source, abs=1e-6)
            assert metric.compute().item() == pytest.approx(of_target - of_source, abs=1e-6)
            for logits in asked:
                torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-6)


@given(
    counts=st.tuples(*[st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any)] * 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_certain_samples_count_by_the_roots_of_their_classes(counts: tuple[list[int], ...], dtype: torch.dtype) -> None:
    """The singular values are the roots of the numbers of samples of each class."""
    eye = 500 * torch.eye(3, dtype=dtype)
    source, target = (eye[torch.arange(3).repeat_interleave(torch.tensor(numbers))] for numbers in counts)
    norms = [sum(map(math.sqrt, numbers)) / math.sqrt(3 * sum(numbers)) for numbers in counts]
    assert nuclear_wasserstein_discrepancy(source, target).item() == pytest.approx(norms[1] - norms[0], abs=1e-6)


def test_domains_change_roles_with_the_sign() -> None:
    source, target = draw(5, 3)
    value = nuclear_wasserstein_discrepancy(source, target)
    torch.testing.assert_close(nuclear_wasserstein_discrepancy(target, source), -value)
    assert value < 0  # three times as certain on the source


def test_the_size_of_the_batches_does_not_matter() -> None:
    source, target = draw(5, 3)
    value = nuclear_wasserstein_discrepancy(source, target)
    torch.testing.assert_close(nuclear_wasserstein_discrepancy(source.repeat(7, 1), target.repeat(2, 1)), value)


def test_unequal_batches_of_one_law_are_nearly_alike() -> None:
    """The paper's divisors would find a gap of 0.065 between 64 and 32 samples of 10 classes."""
    gaps = []
    for seed in range(40):
        source, target = (torch.randn(size, 10, generator=torch.Generator().manual_seed(seed)) for size in (64, 32))
        gaps.append(nuclear_wasserstein_discrepancy(2 * source, 2 * target).item())
    assert abs(sum(gaps)) / len(gaps) < 0.02


def test_classifier_widens_the_gap_and_features_close_it() -> None:
    """A descent step of each player, alone: the classifier lowers the value, the features raise it."""
    torch.manual_seed(1)
    classifier, discrepancy = nn.Linear(4, 3), NuclearWassersteinDiscrepancyLoss()
    source, target = torch.randn(32, 4, requires_grad=True), (torch.randn(24, 4) + 1).requires_grad_()
    before = discrepancy(classifier(gradient_reversal(source)), classifier(gradient_reversal(target)))
    before.backward()
    assert source.grad is not None
    assert target.grad is not None
    with torch.no_grad():
        for moved in ((source - source.grad, target), (source, target - target.grad)):
            assert discrepancy(*map(classifier, moved)) > before
        torch.optim.SGD(classifier.parameters(), lr=0.1).step()
        assert discrepancy(classifier(source), classifier(target)) < before


def test_adversarial_gradient_is_the_plain_one_turned_for_the_features_alone() -> None:
    torch.manual_seed(2)
    classifier, discrepancy = nn.Linear(4, 3), NuclearWassersteinDiscrepancyLoss()
    features = torch.randn(5, 4), torch.randn(6, 4)
    found = []
    for pass_on in (gradient_reversal, lambda rows: rows):
        leaves = [rows.clone().requires_grad_() for rows in features]
        loss = discrepancy(*(classifier(pass_on(rows)) for rows in leaves))
        found.append(torch.autograd.grad(loss, [*leaves, *classifier.parameters()]))
    for turned, plain in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(turned, -plain)
    for left, right in zip(found[0][2:], found[1][2:], strict=True):
        torch.testing.assert_close(left, right)


def test_the_value_of_a_batch_and_of_its_sums_agree_to_rounding() -> None:
    for n, m in ((2, 40), (9, 3), (40, 9)):
        metric, (source, target) = NuclearWassersteinDiscrepancyLoss(), draw(n, m, 9)
        torch.testing.assert_close(metric(source.float(), target.float()).double(), metric.compute(), rtol=0, atol=1e-6)


@given(sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_epoch_value_is_that_of_all_samples(sizes: list[tuple[int, int]], seed: int) -> None:
    numbers, others = (list(part) for part in zip(*sizes, strict=True))
    source, target = draw(sum(numbers), sum(others), seed=seed)
    metric = NuclearWassersteinDiscrepancyLoss()
    for batch in zip(source.split(numbers), target.split(others), strict=True):
        metric.update(*batch)
    torch.testing.assert_close(metric.compute(), nuclear_wasserstein_discrepancy(source, target), rtol=0, atol=1e-9)


@pytest.mark.parametrize("of_target", [False, True])
def test_nan_gives_nan_and_no_error_of_lapack(of_target: bool) -> None:
    batch = draw(4, 6)
    batch[of_target][1, 2] = math.nan
    asked = [logits.requires_grad_() for logits in batch]
    metric = NuclearWassersteinDiscrepancyLoss()
    value = metric(*asked)
    value.backward()
    assert value.isnan()
    assert metric.compute().isnan()
    assert asked[of_target].grad is not None
    assert asked[of_target].grad.isnan().all()  # type: ignore[union-attr] # asserted above


def test_an_update_decomposes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = NuclearWassersteinDiscrepancyLoss()
    monkeypatch.setattr(torch.linalg, "eigh", None)
    metric.update(*draw(5, 4))
    assert metric.update_count == 1


def test_errors() -> None:
    metric, (source, target) = NuclearWassersteinDiscrepancyLoss(), draw(4, 5)
    metric(source, target)
    wide = torch.randn(5, 9)
    refuses(metric, r"as many columns as `source_logits` \(4\), .* Pass logits of the same network", source, wide)
    refuses(metric, r"`source_logits` must have as many classes as the batches before \(4\)", wide, wide)
    for position, name in enumerate(("source_logits", "target_logits")):

        def with_other(other: Any, position: int = position) -> tuple[Any, ...]:
            return tuple(other if place == position else good for place, good in enumerate((source, target)))

        refuses(metric, rf"`{name}` must have shape \(N, classes\), but got shape \(4,\)", *with_other(source[:, 0]))
        refuses(metric, f"`{name}` must have shape", *with_other(source[..., None]))
        refuses(metric, f"`{name}` must not be empty", *with_other(source[:0]))
        refuses(metric, rf"`{name}` must hold the logits of at least 2 classes", *with_other(source[:, :1]))
        refuses(metric, f"`{name}` must hold logits, but no entry is negative", *with_other(source.softmax(1)))
        refuses(metric, f"`{name}` must be a floating-point tensor", *with_other(source.argmax(1)), error=TypeError)
