"""Pseudo labels and the criterion against loops over pixels, at the edges, and the network with two heads."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from adaption.layers import JointsKLLoss, PoseResNet2d, PseudoLabelGenerator2d, WarmStartGradientLayer

Array = np.ndarray[Any, np.dtype[np.float64]]


def pseudo_labels_by_loops(prediction: Array, sigma: float) -> tuple[Array, Array]:
    """Jiang et al. 2021, pixel by pixel."""
    samples, joints, height, width = prediction.shape
    truth = np.zeros_like(prediction)
    for i in range(samples):
        for k in range(joints):
            row, column = divmod(int(prediction[i, k].argmax()), width)
            for r in range(height):
                for c in range(width):
                    if abs(r - row) <= 3 * sigma and abs(c - column) <= 3 * sigma:
                        truth[i, k, r, c] = math.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * sigma**2))
    false = np.zeros_like(prediction)
    for k in range(joints):
        for other in range(joints):
            if other != k:
                false[:, k] += truth[:, other]
    return truth, false.clip(max=1)


def divergence_by_loops(output: Array, target: Array, epsilon: float) -> Array:
    result = np.zeros(output.shape[:2])
    for i, k in np.ndindex(*result.shape):
        p = np.exp(output[i, k]) / np.exp(output[i, k]).sum()
        q = (target[i, k] + epsilon) / (target[i, k] + epsilon).sum()
        for u in np.ndindex(*p.shape):
            if q[u] > 0:
                result[i, k] += q[u] * math.log(q[u] / p[u])
    return result


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.5, 1, 2]), st.integers(0, 1000))
def test_pseudo_labels_equal_the_paper(joints: int, height: int, width: int, sigma: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(2, joints, height, width, generator=generator, dtype=torch.float64)
    found = PseudoLabelGenerator2d(joints, height, width, sigma)(prediction)
    for left, right in zip(found, pseudo_labels_by_loops(prediction.numpy(), sigma), strict=True):
        torch.testing.assert_close(left, torch.from_numpy(right))


def test_full_size_needs_no_table() -> None:
    generator = PseudoLabelGenerator2d(16)
    truth, false = generator(torch.randn(2, 16, 64, 64, requires_grad=True))
    assert truth.shape == false.shape == (2, 16, 64, 64)
    assert not truth.requires_grad
    assert not false.requires_grad
    assert sum(tensor.numel() for tensor in generator.state_dict().values()) == 0
    assert false.max() <= 1


def test_a_single_joint_has_no_others() -> None:
    truth, false = PseudoLabelGenerator2d(1, 5, 4, 1)(torch.randn(3, 1, 5, 4))
    assert truth.amax((2, 3)).eq(1).all()
    assert false.eq(0).all()
    output = torch.randn(3, 1, 5, 4, requires_grad=True)
    value = JointsKLLoss()(output, false)
    value.backward()
    assert value == 0
    assert output.grad is not None
    assert output.grad.eq(0).all()


@pytest.mark.parametrize("sigma", [1e-50, 1e-200, 1e-3, 1e30, 1e200])
def test_pseudo_labels_of_extreme_widths(sigma: float) -> None:
    """A single pixel, or a Gaussian so wide that it is 1 everywhere."""
    prediction = torch.zeros(1, 2, 3, 4)
    prediction[0, 0, 1, 2] = prediction[0, 1, 0, 0] = 1
    truth, false = PseudoLabelGenerator2d(2, 3, 4, sigma)(prediction)
    torch.testing.assert_close(truth, prediction if sigma < 1 else torch.ones(1, 2, 3, 4))
    torch.testing.assert_close(false, truth.flip(1))


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_divergence_equals_loops(epsilon: float) -> None:
    output, target, weight = (
        torch.randn(2, 3, 4, 5).double(),
        torch.rand(2, 3, 4, 5).double(),
        torch.rand(2, 3).double(),
    )
    target[0, 0, :2] = 0
    expected = torch.from_numpy(divergence_by_loops(output.numpy(), target.numpy(), epsilon))
    values = {reduction: JointsKLLoss(reduction, epsilon) for reduction in ("mean", "sum", "none")}
    torch.testing.assert_close(values["none"](output, target), expected)
    torch.testing.assert_close(values["none"](output, target, weight[..., None]), expected * weight)
    torch.testing.assert_close(values["mean"](output, target, weight), (expected * weight).mean())
    torch.testing.assert_close(values["sum"](output, target, weight), (expected * weight).sum())


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_heatmaps_of_zeros_are_finite(epsilon: float) -> None:
    output = (100 * torch.randn(2, 3, 4, 5)).requires_grad_()
    value = JointsKLLoss(epsilon=epsilon)(output, torch.zeros(2, 3, 4, 5))
    value.backward()
    assert value.isfinite()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    output, target = torch.randn(2, 3, 4, 5).to(dtype), torch.rand(2, 3, 4, 5).to(dtype)
    assert JointsKLLoss()(output, target).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert JointsKLLoss()(output, target).dtype == torch.float32
    assert PseudoLabelGenerator2d(3, 4, 5)(output)[0].dtype == torch.float32


def test_joint_errors() -> None:
    generator, criterion, heatmaps = PseudoLabelGenerator2d(3, 4, 5), JointsKLLoss(), torch.rand(2, 3, 4, 5)
    for wrong in (heatmaps[:, :2], heatmaps.mT, heatmaps[0]):
        shape = re.escape(str(tuple(wrong.shape)))
        match = rf"`heatmaps` must have shape \(N, 3, 4, 5\), as the settings say, but got shape {shape}"
        with pytest.raises(ValueError, match=match):
            generator(wrong)
    with pytest.raises(TypeError, match="`heatmaps` must be a floating-point tensor"):
        generator(heatmaps.long())
    calls: list[tuple[Any, str]] = [
        ((heatmaps, heatmaps.mT), r"`target` must have the shape of `output` \(2, 3, 4, 5\)"),
        ((heatmaps[0], heatmaps[0]), r"`output` must have shape \(N, K, H, W\)"),
        ((heatmaps, heatmaps, torch.ones(3, 2)), r"`weight` must hold one weight per sample and joint, shape \(2, 3\)"),
    ]
    for arguments, match in calls:
        with pytest.raises(ValueError, match=match):
            criterion(*arguments)
    with pytest.raises(ValueError, match="`epsilon` must be a finite number of at least 0"):
        JointsKLLoss(epsilon=-1)
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        JointsKLLoss("batchmean")
    with pytest.raises(ValueError, match="`sigma` must be a finite number above 0"):
        PseudoLabelGenerator2d(3, sigma=0)
    assert "num_keypoints=3, height=4, width=5, sigma=2" in repr(generator)
    assert "reduction='mean', epsilon=0.0" in repr(criterion)


def pose(**settings: Any) -> PoseResNet2d:
    backbone, upsampling = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2)
    return PoseResNet2d(backbone, upsampling, feature_dim=4, num_keypoints=5, **settings)


def test_pose_network() -> None:
    model, images = pose(gl=WarmStartGradientLayer(lo=0.5)), torch.randn(2, 3, 16, 16)
    output, output_adv = model(images)
    assert output.shape == output_adv.shape == (2, 5, 16, 16)
    assert model.eval()(images).shape == (2, 5, 16, 16)
    assert len(pose(num_head_layers=1).head) == 1  # type: ignore[arg-type]  # a Sequential, typed as any module
    assert pose().grl.hi == 0.1
    with pytest.raises(ValueError, match="`num_head_layers` must be at least 1"):
        pose(num_head_layers=0)


def test_pose_network_scales_the_adversarial_gradient_and_keeps_its_sign() -> None:
    model = pose(gl=WarmStartGradientLayer(lo=0.5))
    model.adv_head.load_state_dict(model.head.state_dict())

    def gradient(output: Tensor) -> Tensor:
        weight = model.backbone.weight
        assert isinstance(weight, Tensor)
        return torch.autograd.grad(output.square().sum(), weight, retain_graph=True)[0]

    output, output_adv = model(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(gradient(output_adv), 0.5 * gradient(output))
