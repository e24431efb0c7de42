"""AFN: the constant value, the paper's gradient, the radius, epochs, norms of 0, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import features, refuses
from torch import Tensor

from adaption import AdaptiveFeatureNormLoss
from adaption.functional import adaptive_feature_norm


def gradients(*batch: Tensor, **settings: Any) -> tuple[Tensor, ...]:
    leaves = [part.clone().requires_grad_() for part in batch]
    return torch.autograd.grad(adaptive_feature_norm(leaves[0], leaves[1], **settings), leaves)


@pytest.mark.parametrize("step", [0.1, 1.0, 3.0])
def test_value_is_that_of_the_step_and_each_sample_gets_the_same_push(step: float) -> None:
    source, target = (part.double() for part in features(5, 3))
    assert adaptive_feature_norm(source, target, step).item() == pytest.approx(2 * step**2)
    for part, gradient in zip((source, target), gradients(source, target, step=step), strict=True):
        along = part / part.norm(dim=1, keepdim=True)
        torch.testing.assert_close(gradient, -2 * step / len(part) * along)


def test_a_step_of_gradient_descent_lengthens_all_features_alike() -> None:
    source, target = (part.double() for part in features(4, 4))
    moved = source - 0.5 * 4 * gradients(source, target)[0]
    torch.testing.assert_close(moved.norm(dim=1), source.norm(dim=1) + 1)


def test_radius_is_reached_by_the_means_and_exact_over_batches() -> None:
    source, target = (part.double() for part in features(9, 7))
    metric = AdaptiveFeatureNormLoss(radius=25)
    for part in ((source[:2], target[:5]), (source[2:], target[5:])):
        metric.update(*part)
    means = source.norm(dim=1).mean(), target.norm(dim=1).mean()
    expected = (means[0] - 25) ** 2 + (means[1] - 25) ** 2
    torch.testing.assert_close(metric.compute(), expected)
    torch.testing.assert_close(metric.mean_norms, torch.stack(means))
    scaled = 25 * source / means[0], 25 * target / means[1]
    assert adaptive_feature_norm(*scaled, radius=25).item() == pytest.approx(0, abs=1e-9)


def test_mean_norms_are_those_of_the_epoch_where_the_value_tells_nothing() -> None:
    metric = AdaptiveFeatureNormLoss(0.5)
    assert metric.mean_norms.isnan().all()
    metric(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0]]))
    metric(torch.tensor([[0.0, 6.0]]), torch.tensor([[4.0, 0.0]]))
    assert metric.mean_norms.tolist() == [4.0, 3.0]
    assert metric.compute().item() == 0.5


@pytest.mark.parametrize("radius", [None, 2.0])
def test_features_of_0_have_a_gradient_of_0(radius: float | None) -> None:
    zeros = torch.zeros(3, 4)
    for gradient in gradients(zeros, zeros, radius=radius):
        assert gradient.tolist() == zeros.tolist()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_nan_and_not_the_step(bad: float) -> None:
    source, target = features(4, 4)
    target[2, 1] = bad
    metric = AdaptiveFeatureNormLoss()
    assert metric(source, target).isnan()
    assert metric.compute().isnan()


def test_errors() -> None:
    metric, (source, target) = AdaptiveFeatureNormLoss(), features(4, 5)
    metric(source, target)
    refuses(metric, r"`target_features` must have as many columns as `source_features` \(6\)", source, target[:, :3])
    with pytest.raises(ValueError, match="`step` must be a finite number above 0"):
        AdaptiveFeatureNormLoss(0.0)
    with pytest.raises(ValueError, match="`radius` must be a finite number of at least 0"):
        AdaptiveFeatureNormLoss(radius=-1.0)
