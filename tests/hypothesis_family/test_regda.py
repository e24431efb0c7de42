"""RegDA: which heatmap each mode takes, how the epoch follows the criterion, and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import refuses
from torch import Tensor
from torch.nn import functional as F

from adaption import RegressionDisparity
from adaption.functional import regression_disparity
from adaption.layers import JointsKLLoss, PseudoLabelGenerator2d

GENERATOR = PseudoLabelGenerator2d(3, 8, 7, sigma=1)


def heatmaps(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 8, 7), torch.randn(n, 3, 8, 7)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_mode_chooses_the_heatmap(mode: str) -> None:
    (output, output_adv), weight, criterion = heatmaps(2), torch.rand(2, 3), JointsKLLoss(epsilon=1e-3)
    heatmap = GENERATOR(output)[mode == "max"]
    expected = criterion(output_adv, heatmap, weight)
    metric = RegressionDisparity(GENERATOR, criterion)
    torch.testing.assert_close(metric(output, output_adv, weight, mode), expected)
    torch.testing.assert_close(metric(output, output_adv, mode=mode), criterion(output_adv, heatmap))


def test_only_the_adversarial_head_receives_a_gradient() -> None:
    output, output_adv = (heatmap.requires_grad_() for heatmap in heatmaps(2))
    regression_disparity(output, output_adv, pseudo_label_generator=GENERATOR, criterion=JointsKLLoss()).backward()
    assert output.grad is None
    assert output_adv.grad is not None
    assert output_adv.grad.abs().sum() > 0


def test_labels_are_constants_whatever_generates_them() -> None:
    """Not all generators end in a Gaussian around the largest pixel, through which no gradient goes anyway."""

    def soft(heatmap: Tensor) -> tuple[Tensor, Tensor]:
        return heatmap.softmax(1), 1 - heatmap.softmax(1)

    for mode in ("min", "max"):
        output, output_adv = (heatmap.requires_grad_() for heatmap in heatmaps(2))
        RegressionDisparity(soft, JointsKLLoss())(output, output_adv, mode=mode).backward()
        assert output.grad is None
        assert output_adv.grad is not None


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_epoch_follows_the_criterion(reduction: str) -> None:
    metric = RegressionDisparity(GENERATOR, JointsKLLoss(reduction))
    batches = [heatmaps(n) for n in (2, 5)]
    for batch in batches:
        metric.update(*batch)
    output, output_adv = (torch.cat(parts) for parts in zip(*batches, strict=True))
    torch.testing.assert_close(metric.compute(), metric(output, output_adv).double(), rtol=1e-5, atol=1e-6)


def test_any_criterion_with_three_arguments() -> None:
    def criterion(output: Tensor, heatmap: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is None
        return F.mse_loss(output, heatmap)

    metric, (output, output_adv) = RegressionDisparity(GENERATOR, criterion), heatmaps(2)
    assert metric(output, output_adv) == F.mse_loss(output_adv, GENERATOR(output)[0])


def test_a_prediction_that_is_not_finite_is_not_hidden() -> None:
    output, output_adv = heatmaps(2)
    output[1, 2, 3, 4] = torch.nan
    assert RegressionDisparity(GENERATOR, JointsKLLoss())(output, output_adv).isnan()


def test_errors() -> None:
    metric, (output, output_adv) = RegressionDisparity(GENERATOR, JointsKLLoss()), heatmaps(2)
    metric(output, output_adv)
    refuses(metric, r"`output_adv` must have the shape of `output` \(2, 3, 8, 7\)", output, output_adv[:1])
    refuses(metric, '`mode` must be one of "min", "max", but got \'mean\'', output, output_adv, None, "mean")
    small = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    refuses(metric, r"must have shape \(N, 3, 8, 7\), as the settings say, but got shape \(2, 3, 4, 4\)", *small)
    refuses(metric, r"one weight per sample and joint, shape \(2, 3\)", output, output_adv, torch.ones(2))
    several = RegressionDisparity(GENERATOR, lambda output, *_: output.mean((2, 3)))
    refuses(several, r"`criterion` must return a scalar unless .* but returned shape \(2, 3\)", output, output_adv)
    for wrong in ({"criterion": None}, {"pseudo_label_generator": PseudoLabelGenerator2d}):
        arguments: dict[str, Any] = {"pseudo_label_generator": GENERATOR, "criterion": JointsKLLoss(), **wrong}
        with pytest.raises(TypeError, match=f"`{next(iter(wrong))}` must be a Module or another callable"):
            RegressionDisparity(**arguments)
