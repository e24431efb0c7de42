"""RSD against scipy's angles, closed forms, gradients with shared directions and at every rank, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

from adaption import RepresentationSubspaceDistanceLoss
from adaption.functional import representation_subspace_distance


def draw(n: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n, m))
    return source, target + 0.3


def planes(first: float, second: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two directions, and two more that are turned away from these by an angle each."""
    source = torch.tensor([[2.0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    turned = [[math.cos(first), 0, math.sin(first), 0], [0, math.cos(second), 0, math.sin(second)]]
    return source.to(dtype), (torch.tensor([[3.0], [1.0]]) * torch.tensor(turned, dtype=torch.float64)).to(dtype)


@given(n=st.integers(1, 5), d=st.integers(10, 14), seed=st.integers(0, 1000))
def test_sines_are_those_of_the_angles_between_the_rows(n: int, d: int, seed: int) -> None:
    source, target = draw(n, n, d, seed)
    value = representation_subspace_distance(source, target, bases_weight=0.0)
    angles = subspace_angles(source.T.numpy(), target.T.numpy())
    assert value.item() == pytest.approx(sum(map(math.sin, angles)), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_planes_with_known_angles(dtype: torch.dtype) -> None:
    """Where the larger direction meets the smaller one, |P_s| - |P_t| has four entries of 1."""
    source, target = planes(0.3, 1.2, dtype)
    expected, tolerance = math.sin(0.3) + math.sin(1.2), 5 * torch.finfo(dtype).eps
    assert representation_subspace_distance(source, target).item() == pytest.approx(expected, rel=tolerance)
    sizes = torch.tensor([[0.1], [5.0]], dtype=dtype)
    value = representation_subspace_distance(source, sizes * target, bases_weight=0.5)
    assert value.item() == pytest.approx(expected + 1, rel=tolerance)


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-3])
def test_small_angles_keep_their_digits(angle: float) -> None:
    """Cosines are 1 to rounding here."""
    value = representation_subspace_distance(*planes(angle, angle / 2), bases_weight=0.0)
    assert value.item() == pytest.approx(1.5 * angle, rel=1e-6)


def test_vectors_of_equal_angles_are_left_out_of_the_bases() -> None:
    """They can be turned among each other: how a plane is spanned has no say then."""
    source, target = planes(0.4, 0.4)
    mixed = torch.tensor([[1.0, 0.3], [-0.2, 2.0]], dtype=torch.float64) @ target
    for weight in (0.0, 10.0):
        value = representation_subspace_distance(source, mixed, bases_weight=weight)
        assert value.item() == pytest.approx(2 * math.sin(0.4))


@given(n=st.integers(1, 7), m=st.integers(1, 7), d=st.integers(1, 9), seed=st.integers(0, 1000))
def test_sizes_order_and_axes_do_not_matter(n: int, m: int, d: int, seed: int) -> None:
    source, target = draw(n, m, d, seed)
    value = representation_subspace_distance(source, target)
    assert value >= 0
    turn = torch.linalg.qr(draw(d, 1, d, seed)[0]).Q
    for left, right in (
        (target, source),
        (1e-6 * source, 1e6 * target),
        (source.flip(0), target.flip(0)),
        (source.repeat(3, 1), target),
        (source @ turn, target @ turn),
    ):
        other = representation_subspace_distance(left, right)
        torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(4, 12), (5, 6), (12, 4), (1, 3), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_and_the_same_twice_are_0_apart(n: int, d: int, dtype: torch.dtype) -> None:
    source = draw(n, 1, d)[0].to(dtype).requires_grad_()
    for other in (source.detach().clone(), source.detach().repeat(2, 1)):
        value = representation_subspace_distance(source, other)
        (gradient,) = torch.autograd.grad(value, source)
        assert value.item() == pytest.approx(0, abs=1e-9)
        assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 20), (9, 7)])
def test_batches_of_the_width_span_all(n: int, m: int) -> None:
    source, target = (x.requires_grad_() for x in draw(n, m, 6))
    value = representation_subspace_distance(source, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-9)
    for x in (source, target):
        assert x.grad is not None
        assert x.grad.abs().max() < 1e-9


def quotient(source: Tensor, target: Tensor, step: Tensor, size: float = 1e-6) -> Tensor:
    ends = [representation_subspace_distance(source + sign * size * step, target) for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2 * size)


@pytest.mark.parametrize(
    ("n", "m", "d"), [(4, 4, 6), (4, 7, 6), (3, 5, 6), (9, 2, 6), (20, 3, 6), (3, 4, 20), (25, 4, 20), (1, 5, 3)]
)
def test_gradient_is_that_of_a_difference_quotient(n: int, m: int, d: int) -> None:
    """Also with shared directions, which autograd of the formula cannot pass, and more samples than features."""
    source, target = draw(n, m, d, n + m)
    for left, right in ((source, target), (target, source)):
        asked = left.clone().requires_grad_()
        representation_subspace_distance(asked, right).backward()
        step = torch.randn(left.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert asked.grad is not None
        torch.testing.assert_close((asked.grad * step).sum(), quotient(left, right, step), rtol=1e-5, atol=1e-7)


def test_gradient_where_singular_values_coincide() -> None:
    """The two directions of the source may be turned among each other, as the angles do not see."""
    source, target = torch.eye(2, 5, dtype=torch.float64).requires_grad_(), draw(2, 2, 5)[1]
    value = representation_subspace_distance(source, target, bases_weight=0.0)
    value.backward()
    assert source.grad is not None
    step = draw(2, 1, 5)[0]
    ends = [
        representation_subspace_distance(source.detach() + s * 1e-6 * step, target, bases_weight=0.0) for s in (1, -1)
    ]
    torch.testing.assert_close((source.grad * step).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


def test_dependent_features() -> None:
    """The smaller rank decides; a constant batch has one direction, which meets the leading one."""
    _, target = draw(1, 5, 8)
    line = torch.arange(1.0, 9.0, dtype=torch.float64).repeat(4, 1)
    leading = torch.linalg.svd(target).Vh[0]
    cosine = torch.cosine_similarity(line[0], leading, dim=0).item()
    dependent = torch.cat([target[:2], target[:2].sum(0, keepdim=True)])
    for source, expected in (
        (line, math.sqrt(1 - cosine**2)),
        (torch.zeros(3, 8, dtype=torch.float64), 0.0),
        (dependent, representation_subspace_distance(target[:2], target, bases_weight=0.0).item()),
    ):
        asked = [source.clone().requires_grad_(), target.clone().requires_grad_()]
        value = representation_subspace_distance(asked[0], asked[1], bases_weight=0.0)
        value.backward()
        assert value.item() == pytest.approx(expected, abs=1e-9)
        for x in asked:
            assert x.grad is not None
            assert x.grad.isfinite().all()
            assert x.grad.abs().max() < 10
    noisy = representation_subspace_distance(dependent + 1e-9 * draw(3, 1, 8)[0], target, bases_weight=0.0)
    torch.testing.assert_close(noisy, value.detach(), rtol=1e-6, atol=0)


def test_epoch_value_is_the_mean_of_the_batches() -> None:
    metric = RepresentationSubspaceDistanceLoss(0.3)
    values = [metric(*draw(n, 5, 20, n)) for n in (4, 6, 7)]
    torch.testing.assert_close(metric.compute(), torch.stack(values).mean())


@pytest.mark.parametrize(
    ("weight", "error", "match"),
    [
        (-0.1, ValueError, "`bases_weight` must be a finite number of at least 0"),
        (math.inf, ValueError, "`bases_weight` must be a finite number"),
        ("0.1", TypeError, "`bases_weight` must be a number"),
    ],
)
def test_weights_that_are_refused(weight: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RepresentationSubspaceDistanceLoss(weight)
    with pytest.raises(error, match=match):
        representation_subspace_distance(*draw(2, 2, 3), bases_weight=weight)


def test_errors() -> None:
    metric, (source, target) = RepresentationSubspaceDistanceLoss(), draw(4, 5, 20)
    metric(source, target)
    refuses(metric, r"`target_features` must have as many columns as `source_features` \(20\)", source, target[:, :3])
    refuses(metric, "`target_features` must not be empty", source, target[:0])
