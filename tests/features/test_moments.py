"""Moments in a stream: any split gives those of all samples, also far from the origin, where sums of powers fail."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adaption.features._moments import FourthOrder, Moments, Powers, Scatter, moments, together

KINDS = [Scatter(), FourthOrder(), Powers(1), Powers(5)]


def samples(number: int, width: int, seed: int) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_close(found: Moments, expected: Moments, tolerance: float) -> None:
    assert found.number == expected.number
    for left, right in zip((found.mean, *found.sums), (expected.mean, *expected.sums), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=tolerance * float(right.abs().max().clamp(min=1)))


@given(
    kind=st.sampled_from(KINDS),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    width=st.integers(1, 4),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_grouping_of_any_split_is_the_whole(
    kind: Scatter, sizes: list[int], width: int, seed: int, data: st.DataObject
) -> None:
    x = samples(sum(sizes), width, seed) * torch.arange(1, width + 1) + 3
    parts = [moments(part, kind) for part in x.split(sizes)]
    while len(parts) > 1:
        one = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts[0] = together(parts[0], one, kind)
    assert_close(parts[0], moments(x, kind), 1e-12)


def test_sums_are_those_about_the_mean() -> None:
    """Of the definition, sample by sample."""
    x = samples(7, 3, 0) + 2
    z = x - x.sum(0) / 7
    found = moments(x, FourthOrder())
    scatter = torch.stack([torch.outer(row, row) for row in z]).sum(0)
    cubes = torch.stack([row * (row @ row) for row in z]).sum(0)
    torch.testing.assert_close(found.sums[0].view(3, 3), scatter)
    torch.testing.assert_close(found.sums[1], cubes)
    torch.testing.assert_close(found.sums[2], torch.stack([(row @ row) ** 2 for row in z]).sum())
    torch.testing.assert_close(found.covariance, torch.cov(x.T))
    powers = moments(x, Powers(5)).sums[0].view(4, 3)
    torch.testing.assert_close(powers, torch.stack([(z**k).sum(0) for k in range(2, 6)]))


def test_the_place_of_the_origin_does_not_matter() -> None:
    """Batches of spread 1, and of means that differ by as much, at 2^30: right but for the rounding there."""
    offset, grid = 2.0**30, 2.0**-12
    for kind in KINDS:
        x = (samples(600, 4, 1) / grid).round() * grid  # numbers that float64 holds exactly also at the offset
        parts, near = [], []
        for index, part in enumerate(x.split(40)):
            moved = part + index % 3
            near.append(moved)
            parts.append(moments(moved + offset, kind))
        whole = parts[0]
        for part in parts[1:]:
            whole = together(whole, part, kind)
        expected = moments(torch.cat(near), kind)
        assert_close(Moments(whole.number, whole.mean - offset, whole.sums), expected, 1e-6)
