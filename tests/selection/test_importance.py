"""Importance-weighted validation and DEV: risks that are known, and the authors' estimate as they print it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from cases import refuses
from torch import Tensor

from adaption import DeepEmbeddedValidation, ImportanceWeightedValidation
from adaption.functional import density_ratio

BOTH = (ImportanceWeightedValidation, DeepEmbeddedValidation)
both = pytest.mark.parametrize("kind", BOTH)


def drawn(number: int) -> tuple[Tensor, Tensor]:
    return torch.randn(number).square(), torch.randn(number).exp()


def value(kind: type, losses: object, weights: object) -> float:
    metric = kind()
    metric.update(torch.as_tensor(losses, dtype=torch.float64), torch.as_tensor(weights, dtype=torch.float64))
    return float(metric.compute())


# ---- the density ratio ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_the_best_discriminator_of_two_normals_gives_their_ratio(shape: tuple[int, ...]) -> None:
    """N(1, 1) over N(0, 1) is exp(x - 1/2); 300 against 100 samples move the logit by log(1/3)."""
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    logits = (x - 0.5 + np.log(100 / 300)).reshape(shape)
    torch.testing.assert_close(density_ratio(logits, num_source=300, num_target=100), (x - 0.5).exp())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_ratio_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    found = density_ratio(torch.tensor([20.0], dtype=dtype), 1, 1)  # exp(20) is infinite in float16
    torch.testing.assert_close(found, torch.tensor([20.0]).exp())


def test_the_ratio_compiles_whole_and_has_its_gradient() -> None:
    logits = torch.randn(6, 1, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(lambda z: density_ratio(z, 30, 20), fullgraph=True, backend="aot_eager")
    ratios = compiled(logits)
    torch.testing.assert_close(ratios, 1.5 * logits.flatten().exp())
    ratios.sum().backward()
    torch.testing.assert_close(logits.grad, ratios.unsqueeze(1).detach())  # the derivative of exp


def test_logits_of_other_shapes_are_refused() -> None:
    for logits in (torch.zeros(4, 2), torch.zeros(()), torch.zeros(4, 1, 2, 2)):
        with pytest.raises(ValueError, match="`domain_logits` must"):
            density_ratio(logits, 1, 1)
    with pytest.raises(ValueError, match="`num_target` must be at least 1"):
        density_ratio(torch.zeros(4), 1, 0)


# ---- the estimates ----------------------------------------------------------------------------------------------


@both
def test_with_the_right_ratios_it_is_the_risk_on_the_target(kind: type) -> None:
    """Three kinds of samples, whose shares in the source are those of the batch: the weighted mean is the target's."""
    source, target, losses = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6]), np.array([0.2, 1.0, 3.0])
    counts = (10 * source).astype(int)
    found = value(kind, np.repeat(losses, counts), np.repeat(target / source, counts))
    assert found == pytest.approx(target @ losses, rel=1e-12)


def test_dev_is_the_estimate_of_its_authors() -> None:
    """Covariance and variance with divisor n - 1, sample by sample, over batches of several sizes."""
    batches = [drawn(number) for number in (5, 1, 8)]
    metric = DeepEmbeddedValidation()
    for batch in batches:
        metric.update(*batch)
    losses, w = (torch.cat(parts).double().tolist() for parts in zip(*batches, strict=True))
    n = len(w)
    wl = [a * b for a, b in zip(w, losses, strict=True)]
    mean_w, mean_wl = sum(w) / n, sum(wl) / n
    covariance = sum((a - mean_wl) * (b - mean_w) for a, b in zip(wl, w, strict=True)) / (n - 1)
    variance = sum((b - mean_w) ** 2 for b in w) / (n - 1)
    eta = -covariance / variance
    assert float(metric.compute()) == pytest.approx(mean_wl + eta * mean_w - eta, rel=1e-12)


def test_dev_takes_off_what_losses_and_weights_have_in_common() -> None:
    weights = torch.tensor([0.5, 1.5, 2.5])
    assert value(DeepEmbeddedValidation, [2.0, 2.0, 2.0], weights) == pytest.approx(2)
    assert value(ImportanceWeightedValidation, [2.0, 2.0, 2.0], weights) == pytest.approx(3)


def test_equal_weights_leave_nothing_to_correct() -> None:
    """Also where rounding is all that parts them; a little more, and the control variate acts."""
    losses = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert value(DeepEmbeddedValidation, losses, [3.0, 3.0, 3.0]) == pytest.approx(9)
    apart = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    assert value(DeepEmbeddedValidation, losses, 3 + 1e-7 * apart) == pytest.approx(9, abs=1e-5)
    # w l = 3 l + 1e-3 (..): the covariance is that of 3 l and the weights, the slope -(7.5 / 1e-3 + 9 / 3 ..)
    w = 3 + 1e-2 * apart
    wl = w * losses
    eta = -float(torch.cov(torch.stack([wl, w]))[0, 1] / w.var())
    expected = float(wl.mean()) + eta * 2
    assert abs(expected - 9) > 1
    assert value(DeepEmbeddedValidation, losses, w) == pytest.approx(expected, rel=1e-6)


@both
def test_of_one_sample_it_is_the_weighted_loss(kind: type) -> None:
    assert value(kind, [3.0], [0.5]) == 1.5


@both
def test_columns_are_not_paired_with_rows(kind: type) -> None:
    """(n, 1) times (n,) would be n times n products: their mean is the product of the means."""
    losses, weights = drawn(4)
    expected = value(kind, losses, weights)
    for shapes in itertools.product([(4,), (4, 1)], repeat=2):
        assert value(kind, losses.reshape(shapes[0]), weights.reshape(shapes[1])) == pytest.approx(expected)


@both
def test_sums_of_float32_losses_are_kept_in_float64(kind: type) -> None:
    losses, weights = (part.float() for part in drawn(1000))
    metric = kind()
    for batch in zip(losses.split(7), weights.split(7), strict=True):
        metric(*batch)
    assert float(metric.compute()) == pytest.approx(value(kind, losses.double(), weights.double()), rel=1e-10)


# ---- what is refused --------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("losses", "weights", "match"),
    [
        ([1.0, 2.0], [0.0, 0.0], "`weights` must have a positive sum, but all weights are 0"),
        ([1.0, 2.0], [2.0, -1.0], "`weights` must not be negative, but its smallest entry is -1"),
        ([1.0, 2.0], [1.0, torch.inf], "`weights` must be finite, but the largest is inf"),
        ([1.0, 2.0], [1.0, torch.nan], "`weights` must be finite, but the largest is nan"),
        ([1.0, 2.0], [1.0, 1.0, 1.0], "`weights` must hold one weight per sample"),
        ([[1.0, 2.0]], [1.0], "`losses` must hold one loss per sample"),
        (1.0, [1.0], "`losses` must hold one loss per sample"),
    ],
)
def test_bad_weights_and_losses_are_refused(kind: type, losses: object, weights: object, match: str) -> None:
    metric = kind()
    metric.update(*drawn(3))
    refuses(metric, match, torch.tensor(losses), torch.tensor(weights))


@both
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_shows(kind: type, bad: float) -> None:
    losses, weights = drawn(3)
    losses[1] = bad
    assert not np.isfinite(value(kind, losses, weights))
