"""DARE-GRAM against NumPy's pseudoinverse, closed forms, gradients at every rank and equal eigenvalues, and errors."""

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

from adaption import InverseGramAlignmentLoss
from adaption.features import inverse_gram
from adaption.functional import inverse_gram_alignment

ANGLE = {"angle_weight": 1.0, "scale_weight": 0.0}
SCALE = {"angle_weight": 0.0, "scale_weight": 1.0}


def draw(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n, m))
    sizes = torch.linspace(2.0, 0.5, d, dtype=torch.float64)
    return source * sizes, target * sizes.flip(0) + 0.5


def by_numpy(source: Any, target: Any, energy: float) -> tuple[float, float]:
    """The authors' steps, on Gram matrices that are divided by the number of samples: angle and scale."""
    grams = []
    for x in (source, target):
        a = np.hstack([np.ones((len(x), 1)), x])
        grams.append(a.T @ a / len(a))
    spectra = [np.linalg.svd(gram)[1] for gram in grams]
    shares = [np.cumsum(spectrum) / spectrum.sum() for spectrum in spectra]
    k = max(1, *(int(np.argwhere(share <= energy)[-1].item()) if (share <= energy).any() else 0 for share in shares))
    inverses = [np.linalg.pinv(g, rcond=s[k] / s[0] * (1 + 1e-9)) for g, s in zip(grams, spectra, strict=True)]
    norms = [np.linalg.norm(inverse, axis=0) for inverse in inverses]
    cosines = (inverses[0] * inverses[1]).sum(0) / norms[0] / norms[1]
    return np.abs(1 - cosines).mean(), float(np.linalg.norm(spectra[0][:k] - spectra[1][:k]) / k)


@given(n=st.integers(8, 20), m=st.integers(8, 20), d=st.integers(2, 6), energy=st.sampled_from([0.5, 0.9, 0.99]))
def test_equals_the_authors_steps(n: int, m: int, d: int, energy: float) -> None:
    source, target = draw(n, m, d, n + m)
    angle, scale = by_numpy(source.numpy(), target.numpy(), energy)
    assert inverse_gram_alignment(source, target, energy=energy, **ANGLE).item() == pytest.approx(angle)
    assert inverse_gram_alignment(source, target, energy=energy, **SCALE).item() == pytest.approx(scale)
    both = inverse_gram_alignment(source, target, energy=energy, angle_weight=2.0, scale_weight=3.0)
    assert both.item() == pytest.approx(2 * angle + 3 * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 5])
def test_constant_features_have_one_direction(n: int, dtype: torch.dtype) -> None:
    """The one eigenvalue is 1 + |x|^2, with the vector (1, x): all columns of the inverse have its direction."""
    source, target = (torch.tensor([row], dtype=dtype).repeat(n, 1) for row in ([2.0, 1.0], [-4.0, 0.5]))
    assert inverse_gram_alignment(source, target, **SCALE).item() == pytest.approx(17.25 - 6)
    vectors = torch.tensor([[1.0, 2.0, 1.0], [1.0, -4.0, 0.5]])
    cosine = torch.cosine_similarity(vectors[0], vectors[1], dim=0).item()
    signs = 1, -1, 1  # of the columns, which are the vectors times their entries
    expected = sum(1 - sign * cosine for sign in signs) / 3
    assert inverse_gram_alignment(source, target, **ANGLE).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(12, 4), (4, 12), (1, 3)])
def test_a_batch_and_the_same_twice_are_equal(n: int, d: int) -> None:
    """The same empirical distribution: nothing depends on the size of the batch, and nothing pulls."""
    source = draw(n, 2, d)[0].requires_grad_()
    twice = source.detach().repeat(2, 1)
    value = inverse_gram_alignment(source, twice, angle_weight=1.0, scale_weight=1.0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert source.grad is not None
    assert source.grad.abs().max() < 1e-9


@given(n=st.integers(1, 9), m=st.integers(1, 9), d=st.integers(1, 8), seed=st.integers(0, 1000))
def test_order_of_features_and_domains(n: int, m: int, d: int, seed: int) -> None:
    source, target = draw(n, m, d, seed)
    value = inverse_gram_alignment(source, target, angle_weight=1.0)
    turned = inverse_gram_alignment(target.flip(1), source.flip(1), angle_weight=1.0)
    torch.testing.assert_close(turned, value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("n", "m"), [(5, 20), (20, 20), (5, 7)])
def test_dead_features_count_as_equal(n: int, m: int) -> None:
    """Columns of zeros add columns of zeros to the inverses; with them, features are wide."""
    source, target = (x.requires_grad_() for x in draw(n, m, 6))
    padded = [torch.cat([x, torch.zeros(len(x), 50)], 1) for x in (source, target)]
    narrow = 7 * inverse_gram_alignment(source, target, **ANGLE)
    wide = 57 * inverse_gram_alignment(padded[0], padded[1], **ANGLE)
    torch.testing.assert_close(wide, narrow, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(value, (source, target)) for value in (narrow, wide)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-8)
    alone = torch.cat([source, torch.ones(n, 1)], 1), torch.cat([target, torch.zeros(m, 1)], 1)
    assert inverse_gram_alignment(alone[0], alone[1], **ANGLE) > 1 / 8  # dead in one domain only: a right angle


def quotient(source: Tensor, target: Tensor, step: Tensor, size: float = 1e-6) -> Tensor:
    ends = [
        inverse_gram_alignment(source + sign * size * step, target, angle_weight=1.0, scale_weight=0.5)
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * size)


@pytest.mark.parametrize(("n", "m", "d"), [(4, 5, 9), (12, 15, 3), (4, 30, 6), (1, 3, 4)])
def test_gradient_is_that_of_a_difference_quotient(n: int, m: int, d: int) -> None:
    source, target = draw(n, m, d)
    for left, right in ((source, target), (target, source)):
        asked = left.clone().requires_grad_()
        inverse_gram_alignment(asked, right, angle_weight=1.0, scale_weight=0.5).backward()
        step = torch.randn(left.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert asked.grad is not None
        torch.testing.assert_close((asked.grad * step).sum(), quotient(left, right, step), rtol=1e-5, atol=1e-8)


def test_gradient_where_eigenvalues_coincide() -> None:
    """A cube has equal eigenvalues, of which all are kept: the inverse of a matrix is smooth there."""
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).double()
    source, target = (torch.cat([cube, torch.zeros(8, 1)], 1) for _ in range(2))
    target = target @ (torch.eye(4).double() + 0.1 * torch.ones(4, 4)) + 0.2
    asked = source.clone().requires_grad_()
    inverse_gram_alignment(asked, target, energy=1.0, **ANGLE).backward()
    assert asked.grad is not None
    assert asked.grad.isfinite().all()
    step = torch.cat([draw(8, 2, 3)[0], torch.zeros(8, 1)], 1)
    ends = [inverse_gram_alignment(source + s * 1e-6 * step, target, energy=1.0, **ANGLE) for s in (1, -1)]
    torch.testing.assert_close((asked.grad * step).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    energy=st.sampled_from([0.5, 0.9, 1.0]),
    seed=st.integers(0, 1000),
)
def test_epoch_value_is_that_of_all_samples(sizes: list[int], energy: float, seed: int) -> None:
    source, target = draw(sum(sizes), sum(sizes), 5, seed)
    metric = InverseGramAlignmentLoss(energy, angle_weight=1.0, scale_weight=1.0)
    for batch in zip(source.split(sizes), target.split(sizes[::-1]), strict=True):
        metric.update(*batch)
    weights = {"angle_weight": 1.0, "scale_weight": 1.0}
    expected = inverse_gram_alignment(source, target, energy=energy, **weights)
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weights", [ANGLE, SCALE])
def test_epoch_value_far_from_the_origin(weights: dict[str, Any]) -> None:
    """At means of 1,000, where the small eigenvalues are a millionth of the first and still count."""
    source, target = (x + 1000 for x in draw(60, 40, 3))
    metric = InverseGramAlignmentLoss(energy=1 - 1e-9, **weights)
    for batch in zip(source.split(6), target.split(4), strict=True):
        metric.update(*batch)
    expected = inverse_gram_alignment(source, target, energy=1 - 1e-9, **weights)
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-6, atol=0)


def test_mean_of_batches_on_request() -> None:
    metric = InverseGramAlignmentLoss(pooled=False)
    values = [metric(*draw(n, 5, 3, n)) for n in (4, 6, 7)]
    torch.testing.assert_close(metric.compute(), torch.stack(values).mean())
    batch = [torch.randn(3, 1_000_000, requires_grad=True) for _ in range(2)]  # and no square matrix is made
    metric(*batch).backward()


def test_an_update_decomposes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = InverseGramAlignmentLoss()
    monkeypatch.setattr(inverse_gram, "_alignment", None)
    metric.update(*draw(4, 4, 3))
    assert metric.update_count == 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"energy": 0.0}, "`energy` must be a finite number above 0 and at most 1"),
        ({"energy": 1.1}, "`energy` must be a finite number above 0 and at most 1"),
        ({"angle_weight": -1.0}, "`angle_weight` must be a finite number of at least 0"),
        ({"scale_weight": math.inf}, "`scale_weight` must be a finite number"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        InverseGramAlignmentLoss(**settings)
    with pytest.raises(ValueError, match=match):
        inverse_gram_alignment(*draw(2, 2, 3), **settings)


def test_errors() -> None:
    metric, (source, target) = InverseGramAlignmentLoss(), draw(4, 5, 3)
    metric(source, target)
    refuses(metric, "`source_features` must have as many columns as the batches before", source[:, :2], target[:, :2])
    refuses(metric, "`target_features` must not be empty", source, target[:0])
