"""Laws of the kernel distances and of BSP, over shapes and values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from property.problems import orthogonal
from torch import Tensor

from adaption.functional import (
    batch_spectral_penalization,
    joint_maximum_mean_discrepancy,
    maximum_mean_discrepancy,
    median_bandwidth,
)


@st.composite
def problems(draw: st.DrawFn, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Two batches of one width: spread out, or on a coarse grid with many duplicates."""
    n, m, d = draw(st.integers(least, 9)), draw(st.integers(least, 9)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    source, target = (torch.randn(rows, d, generator=generator, dtype=torch.float64) for rows in (n, m))
    if draw(st.booleans()):
        source, target = source.round(), target.round()
    return source, target + draw(st.sampled_from([0.0, 1.0, 30.0]))


settings = st.fixed_dictionaries({"num_kernels": st.integers(1, 6), "bandwidth": st.sampled_from(["median", "mean"])})


@given(problems(), settings)
def test_biased_mmd_is_a_distance(problem: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    source, target = problem
    value = maximum_mean_discrepancy(source, target, **options)
    assert 0 <= value <= 2
    torch.testing.assert_close(maximum_mean_discrepancy(target, source, **options), value)
    assert maximum_mean_discrepancy(source, source, **options).item() == pytest.approx(0, abs=1e-12)


@given(st.data(), problems(least=2), settings, st.sampled_from(["biased", "unbiased"]), st.sampled_from([1e-3, 7.0]))
def test_mmd_sees_only_relative_positions(
    data: st.DataObject, problem: tuple[Tensor, Tensor], options: dict[str, Any], estimator: str, scale: float
) -> None:
    source, target = problem

    def value(left: Tensor, right: Tensor) -> Tensor:
        return maximum_mean_discrepancy(left, right, estimator=estimator, **options)

    expected = value(source, target)
    turn = data.draw(orthogonal(st.just(source.shape[1])))
    close: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(value(source.flip(0), target.roll(1, 0)), expected, **close)
    torch.testing.assert_close(value(source + 5, target + 5), expected, **close)
    torch.testing.assert_close(value(source * scale, target * scale), expected, **close)
    if not torch.equal(source, source.round()):  # a rotated grid has no exact ties left to take the median of
        torch.testing.assert_close(value(source @ turn, target @ turn), expected, **close)


@given(problems(), st.integers(1, 6))
def test_kernel_matrices_are_positive_semidefinite(problem: tuple[Tensor, Tensor], num_kernels: int) -> None:
    """The form w' K w is at least 0 for weights of any sign, by way of weighted domains of one sample each."""
    source, target = problem
    rows = torch.cat([source, target])
    size, kernel = len(rows), torch.ones(len(rows), len(rows), dtype=torch.float64)
    for i in range(size):
        for j in range(i):
            value = maximum_mean_discrepancy(rows[i : i + 1], rows[j : j + 1], bandwidth=2.0, num_kernels=num_kernels)
            kernel[i, j] = kernel[j, i] = 1 - value / 2
    assert torch.linalg.eigvalsh(kernel).min() > -1e-10


@given(problems(), st.data())
def test_repeats_are_weights_and_equal_weights_are_none(problem: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    source, target = problem
    counts = torch.tensor(data.draw(st.lists(st.integers(1, 3), min_size=len(source), max_size=len(source))))
    weighted = maximum_mean_discrepancy(source, target, counts.double(), bandwidth=2.0)
    repeated = maximum_mean_discrepancy(source.repeat_interleave(counts, 0), target, bandwidth=2.0)
    torch.testing.assert_close(weighted, repeated)
    equal = torch.full((len(target),), 0.3, dtype=torch.float64)
    torch.testing.assert_close(
        maximum_mean_discrepancy(source, target, target_weights=equal), maximum_mean_discrepancy(source, target)
    )


@given(problems(), settings)
def test_gradients_add_up_to_nothing(problem: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    """Moving both domains together changes nothing, so the gradients of all samples sum to 0."""
    source, target = (part.clone().requires_grad_() for part in problem)
    gradients = torch.autograd.grad(maximum_mean_discrepancy(source, target, **options), (source, target))
    total = gradients[0].sum(0) + gradients[1].sum(0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-9)


@given(problems())
def test_median_is_the_median(problem: tuple[Tensor, Tensor]) -> None:
    source, target = problem
    rows = torch.cat([source, target])
    pairs = torch.pdist(rows).square()
    expected = pairs.median() if pairs.median() > 0 else pairs.mean() if pairs.mean() > 0 else torch.ones(()).double()
    torch.testing.assert_close(median_bandwidth(source, target), expected)


@given(problems(), settings)
def test_jmmd_of_one_layer_is_mmd_and_layers_commute(problem: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    source, target = problem
    joint = joint_maximum_mean_discrepancy([source], [target], **options)
    torch.testing.assert_close(joint, maximum_mean_discrepancy(source, target, **options))
    layers = [source, source.sin()], [target, target.sin()]
    value = joint_maximum_mean_discrepancy(*layers, **options)
    swapped = joint_maximum_mean_discrepancy(layers[0][::-1], layers[1][::-1], **options)
    torch.testing.assert_close(value, swapped)
    assert 0 <= value <= 2


@given(st.data(), problems(), st.integers(1, 12))
def test_bsp_is_blind_to_orthogonal_maps(data: st.DataObject, problem: tuple[Tensor, Tensor], k: int) -> None:
    """Of the samples of each domain as well as of the features."""
    turned = [data.draw(orthogonal(st.just(len(part)))) @ part for part in problem]
    turn = data.draw(orthogonal(st.just(problem[0].shape[1])))
    value = batch_spectral_penalization(*(part @ turn for part in turned), num_singular_values=k)
    torch.testing.assert_close(value, batch_spectral_penalization(*problem, num_singular_values=k), rtol=1e-7, atol=0)


@given(problems(), st.integers(1, 12))
def test_bsp_is_symmetric_homogeneous_and_bounded(problem: tuple[Tensor, Tensor], k: int) -> None:
    source, target = problem
    value = batch_spectral_penalization(source, target, num_singular_values=k)
    torch.testing.assert_close(batch_spectral_penalization(target, source, num_singular_values=k), value)
    scaled = batch_spectral_penalization(3 * source, 3 * target, num_singular_values=k)
    torch.testing.assert_close(scaled, 9 * value)
    whole = source.square().sum() + target.square().sum()
    assert 0 <= value <= whole * (1 + 1e-12)
    if k >= source.shape[1]:
        torch.testing.assert_close(value, whole)
