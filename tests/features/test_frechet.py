"""Fréchet distance against SciPy's root of a matrix, closed forms, gradients at singular covariances, and errors."""

from __future__ import annotations

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg
from torch import Tensor

from adaption import FrechetDistanceLoss
from adaption.features import frechet
from adaption.functional import frechet_distance


def draw(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    source, target = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n, m))
    return source, target @ mix + 2


@given(n=st.integers(8, 20), m=st.integers(8, 20), d=st.integers(2, 6), seed=st.integers(0, 1000))
def test_equals_the_formula_with_the_root_of_a_matrix(n: int, m: int, d: int, seed: int) -> None:
    source, target = draw(n, m, d, seed)
    first, second = torch.cov(source.T), torch.cov(target.T)
    root = linalg.sqrtm((first @ second).numpy()).real.trace()
    gap = (source.mean(0) - target.mean(0)).square().sum()
    value = frechet_distance(source, target)
    assert value.item() == pytest.approx(float(gap + first.trace() + second.trace()) - 2 * root, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_one_feature_has_means_and_standard_deviations(dtype: torch.dtype) -> None:
    source, target = torch.tensor([[1.0], [3.0]], dtype=dtype), torch.tensor([[2.0], [6.0]], dtype=dtype)
    metric = FrechetDistanceLoss()
    assert metric(source, target).item() == pytest.approx(4 + (8**0.5 - 2**0.5) ** 2)
    assert metric.compute().item() == pytest.approx(6)


@pytest.mark.parametrize(("n", "d"), [(40, 3), (4, 9)])
def test_a_moved_and_a_scaled_domain(n: int, d: int) -> None:
    """Equal covariances leave the means; a factor a leaves (a - 1)^2 of the trace. Both have simple gradients."""
    source = draw(n, 2, d)[0]
    moved = (source + 1).requires_grad_()
    value = frechet_distance(source, moved)
    value.backward()
    assert value.item() == pytest.approx(d)
    torch.testing.assert_close(moved.grad, torch.full_like(source, 2 / n), rtol=0, atol=1e-9)
    centred = source - source.mean(0)
    scaled = (3 * centred).requires_grad_()
    value = frechet_distance(centred, scaled)
    value.backward()
    assert value.item() == pytest.approx(4 * torch.cov(source.T).trace().item())
    torch.testing.assert_close(scaled.grad, 2 / (n - 1) * 2 * centred)


@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 12), seed=st.integers(0, 1000))
def test_moved_turned_and_scaled_features(n: int, m: int, d: int, seed: int) -> None:
    """Both domains moved or turned alike, of second degree, and symmetric; zero columns change nothing."""
    source, target = draw(n, m, d, seed)
    value = frechet_distance(source, target)
    turn = torch.linalg.qr(draw(d, d, d, seed + 1)[0]).Q
    more = [torch.cat([x, torch.zeros(len(x), 7)], 1) for x in (source, target)]
    for left, right, factor in (
        (source + 5, target + 5, 1),
        (source @ turn, target @ turn, 1),
        (2 * source, 2 * target, 4),
        (target, source, 1),
        (more[0], more[1], 1),
    ):
        torch.testing.assert_close(frechet_distance(left, right), factor * value, rtol=1e-9, atol=1e-9)


def test_gradient_is_that_of_a_difference_quotient_where_covariances_are_singular() -> None:
    """Fewer samples than features; more, of features of which some are dead or the same; and one domain each."""
    few, other = draw(4, 5, 7)
    many, more = draw(12, 10, 3)
    dead = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]).double()
    for source, target in ((few, other), (many @ dead, more @ dead), (draw(4, 5, 4)[0], more @ dead)):
        left, right = source.clone().requires_grad_(), target.clone().requires_grad_()
        gradients = torch.autograd.grad(frechet_distance(left, right), (left, right))
        for position, (x, gradient) in enumerate(zip((source, target), gradients, strict=True)):
            # within the space of the samples, where the root of a variance has no corner
            step = 1e-5 * (x - x.mean(0)) @ torch.cov(x.T) / torch.cov(x.T).norm() + 1e-5
            pair = [[source, target], [source, target]]
            pair[0][position], pair[1][position] = x + step, x - step
            quotient = (frechet_distance(*pair[0]) - frechet_distance(*pair[1])) / 2
            torch.testing.assert_close((gradient * step).sum(), quotient, rtol=1e-6, atol=1e-12)


def test_equal_and_constant_features_have_value_and_gradient_0() -> None:
    for source in (draw(5, 2, 9)[0], draw(20, 2, 3)[0], torch.ones(4, 3).double(), torch.ones(2, 9).double()):
        asked = source.clone().requires_grad_()
        value = frechet_distance(asked, source)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert asked.grad is not None
        assert asked.grad.abs().max() < 1e-6


@given(sizes=st.lists(st.integers(2, 6), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(sizes: list[int], seed: int) -> None:
    source, target = draw(sum(sizes), sum(sizes), 5, seed)
    metric = FrechetDistanceLoss()
    for batch in zip(source.split(sizes), target.split(sizes[::-1]), strict=True):
        metric.update(*batch)
    torch.testing.assert_close(metric.compute(), frechet_distance(source, target), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_epoch_value_far_from_the_origin(offset: float) -> None:
    near, far = FrechetDistanceLoss(), FrechetDistanceLoss()
    for seed in range(20):
        batch = [(x * 8).round() / 8 for x in draw(32, 24, 6, seed)]
        near.update(*(x.float() for x in batch))
        far.update(*((x + offset).float() for x in batch))
    torch.testing.assert_close(far.compute(), near.compute(), rtol=1e-7, atol=0)


def test_mean_of_batches_on_request() -> None:
    metric = FrechetDistanceLoss(pooled=False)
    values = [metric(*draw(n, 5, 3, n)) for n in (4, 6, 7)]
    torch.testing.assert_close(metric.compute(), torch.stack(values).mean())
    batch = [torch.randn(3, 1_000_000, requires_grad=True) for _ in range(2)]  # and no square matrix is made
    metric(*batch).backward()


def test_an_update_decomposes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = FrechetDistanceLoss()
    monkeypatch.setattr(frechet, "_distance", None)
    metric.update(*draw(4, 4, 3))
    assert metric.update_count == 1


def test_errors() -> None:
    metric, (source, target) = FrechetDistanceLoss(), draw(4, 5, 3)
    metric(source, target)
    refuses(metric, "`target_features` must hold at least 2 samples, because one sample has no", source, target[:1])
    refuses(metric, "`source_features` must have as many columns as the batches before", source[:, :2], target[:, :2])
    with pytest.raises(TypeError, match="`pooled` must be True or False"):
        FrechetDistanceLoss(pooled="yes")  # type: ignore[arg-type]
