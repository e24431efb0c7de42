"""CORAL against closed forms, its invariances, the bias of both estimates, the form for wide features, and errors."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption import CorrelationAlignmentLoss
from adaption.features import coral
from adaption.functional import correlation_alignment

both_estimators = pytest.mark.parametrize("estimator", ["biased", "unbiased"])


def draw(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n, m))
    return source, 1.5 * target + 2


def test_one_feature_is_the_squared_difference_of_variances() -> None:
    source, target = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    metric = CorrelationAlignmentLoss()
    assert metric(source, target) == metric.compute() == 9  # variances 2 and 8, over 4


def test_equal_up_to_the_sign_of_a_correlation() -> None:
    """Equal variances and opposite correlations r: two entries differ by 2 r."""
    square = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    more = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    source = torch.cat([square, more, more])
    target = source * torch.tensor([1.0, -1.0])
    covariance = 4 / 7
    assert correlation_alignment(source, target).item() == pytest.approx(2 * (2 * covariance) ** 2 / 16)


@both_estimators
@given(n=st.integers(4, 9), m=st.integers(4, 9), d=st.integers(1, 24), seed=st.integers(0, 1000))
def test_moved_turned_and_scaled_features(estimator: str, n: int, m: int, d: int, seed: int) -> None:
    """Blind to the means and to a rotation of both domains, of fourth degree, and symmetric in the domains."""
    source, target = draw(n, m, d, seed)
    value = correlation_alignment(source, target, estimator=estimator)
    turn = torch.linalg.qr(draw(d, d, d, seed + 1)[0]).Q
    for left, right, factor in (
        (source + 5, target - 3, 1),
        (source @ turn, target @ turn, 1),
        (2 * source, 2 * target, 16),
        (target, source, 1),
    ):
        moved = correlation_alignment(left, right, estimator=estimator)
        torch.testing.assert_close(moved, factor * value, rtol=1e-9, atol=1e-9)


def distinct_products(x: Tensor) -> Tensor:
    """The unbiased estimate of the squared norm of the covariance: of four different samples, all that there are.

    With differences instead of centred samples: (x_i - x_j)'(x_k - x_l) squared has the mean 4 tr S^2.
    """
    every = itertools.permutations(x, 4)
    return torch.stack([((a - b) @ (c - d)).square() / 4 for a, b, c, d in every]).mean()


@pytest.mark.parametrize("d", [2, 12])
def test_unbiased_estimate_is_the_mean_over_four_different_samples(d: int) -> None:
    source, target = draw(5, 6, d)
    across = (torch.cov(source.T) * torch.cov(target.T)).sum()
    expected = (distinct_products(source) + distinct_products(target) - 2 * across) / (4 * d * d)
    torch.testing.assert_close(correlation_alignment(source, target, estimator="unbiased"), expected)


def test_mean_of_the_estimates_where_the_domains_are_equal() -> None:
    """The bias is as documented, or gone: within five standard errors of 2,000 draws of standard normal samples."""
    n, m, d = 8, 6, 5
    pairs = [draw(n, m, d, seed) for seed in range(2000)]
    for estimator, expected in (("biased", (d + d * d) * (1 / (n - 1) + 1 / (m - 1)) / (4 * d * d)), ("unbiased", 0.0)):
        values = torch.stack(
            [correlation_alignment(source, (target - 2) / 1.5, estimator=estimator) for source, target in pairs]
        )
        assert abs(values.mean() - expected) < 5 * values.std() / len(values) ** 0.5


@both_estimators
@pytest.mark.parametrize(("n", "m", "d"), [(5, 9, 13), (5, 9, 14), (5, 9, 15)])
def test_wide_and_narrow_features_have_one_formula(estimator: str, n: int, m: int, d: int) -> None:
    """With columns of zeros the same features are wide: all but the divisor stays, gradients too."""
    source, target = (tensor.requires_grad_() for tensor in draw(n, m, d))
    padded = [torch.cat([tensor, torch.zeros(len(tensor), 40)], 1) for tensor in (source, target)]
    narrow = correlation_alignment(source, target, estimator=estimator) * d * d
    wide = correlation_alignment(*padded, estimator=estimator) * (d + 40) ** 2
    torch.testing.assert_close(wide, narrow, rtol=1e-11, atol=1e-11)
    gradients = [torch.autograd.grad(value, (source, target)) for value in (narrow, wide)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-10)


def test_unbiased_estimate_of_wide_features_may_be_negative() -> None:
    found = [correlation_alignment(*draw(5, 5, 40, seed), estimator="unbiased").item() for seed in range(20)]
    assert min(found) < 0 < max(found)


def test_wide_features_that_nearly_agree_keep_their_digits() -> None:
    """A gap of 1e-3: the products of all pairs differ by 1e-6 of themselves, which float32 would not hold."""
    source = draw(16, 16, 512)[0].float()
    target = source * 1.001
    exact = correlation_alignment(source.double(), target.double())
    torch.testing.assert_close(correlation_alignment(source, target).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_no_square_matrix_of_wide_features_is_made(needed: tuple[bool, bool]) -> None:
    """A matrix of 10^6 x 10^6 numbers would need 8 TB."""
    batch = [torch.randn(3, 1_000_000).requires_grad_(need) for need in needed]
    metric = CorrelationAlignmentLoss(pooled=False)
    metric(*batch).backward()
    assert [tensor.grad is not None for tensor in batch] == list(needed)


@both_estimators
@given(sizes=st.lists(st.integers(4, 7), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_epoch_value_is_that_of_all_samples(estimator: str, sizes: list[int], seed: int) -> None:
    source, target = draw(sum(sizes), sum(sizes), 3, seed)
    metric = CorrelationAlignmentLoss(estimator=estimator)
    for batch in zip(source.split(sizes), target.split(sizes[::-1]), strict=True):
        metric.update(*batch)
    expected = correlation_alignment(source, target, estimator=estimator)
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-9, atol=1e-12)


@both_estimators
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_epoch_value_far_from_the_origin(estimator: str, offset: float) -> None:
    """Float32 features of spread 1: as right as where they are, which is at multiples of their own rounding."""
    near, far = (CorrelationAlignmentLoss(estimator=estimator) for _ in range(2))
    for seed in range(20):
        batch = [((tensor * 8).round() / 8).float() for tensor in draw(32, 24, 6, seed)]
        near.update(*batch)
        far.update(*(tensor + offset for tensor in batch))
    torch.testing.assert_close(far.compute(), near.compute(), rtol=1e-9, atol=0)


def test_mean_of_batches_on_request() -> None:
    metric = CorrelationAlignmentLoss(pooled=False)
    values = [metric(*draw(n, 5, 3, n)) for n in (4, 6, 7)]
    torch.testing.assert_close(metric.compute(), torch.stack(values).mean())
    assert {name for name in metric.metric_state if not name.startswith("num_up")} == {
        "values",
        "num_batches",
        "num_ignored",
    }


def test_constant_features_and_nan() -> None:
    constant = torch.ones(4, 3, requires_grad=True)
    value = correlation_alignment(constant, torch.zeros(5, 3))
    value.backward()
    assert value == 0
    assert constant.grad is not None
    assert not constant.grad.any()
    bad = torch.full((4, 9), math.nan)
    for d in (3, 9):
        metric = CorrelationAlignmentLoss()
        assert metric(bad[:, :d], torch.randn(4, d)).isnan()
        assert metric.compute().isnan()


def test_an_update_computes_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = CorrelationAlignmentLoss()
    monkeypatch.setattr(coral, "_distance", None)
    metric.update(*draw(4, 4, 3))
    assert metric.update_count == 1


def test_errors() -> None:
    metric, (source, target) = CorrelationAlignmentLoss(), draw(4, 5, 3)
    metric(source, target)
    refuses(
        metric, r"`target_features` must hold at least 2 samples, because one .* got shape \(1, 3\)", source, target[:1]
    )
    refuses(
        metric, r"`source_features` must have as many columns as the batches before \(3\)", source[:, :2], target[:, :2]
    )
    refuses(metric, r"`target_features` must have as many columns as `source_features`", source, target[:, :2])
    unbiased = CorrelationAlignmentLoss(estimator="unbiased")
    refuses(unbiased, r"`source_features` must hold at least 4 samples, as the unbiased", source[:3], target)
    with pytest.raises(ValueError, match='`estimator` must be one of "biased", "unbiased"'):
        CorrelationAlignmentLoss(estimator="linear")
    with pytest.raises(TypeError, match="`pooled` must be True or False"):
        CorrelationAlignmentLoss(pooled="random_features")  # type: ignore[arg-type]
