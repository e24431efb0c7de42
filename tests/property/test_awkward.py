"""MMD and JMMD against the paper's formula in float64, where kernels are hard to compute.

Far outliers, tight clusters, two modes, rows whose order means something, sizes around every threshold of the engine,
all precisions, and few kernels or many: together, since each of them alone is easy. Each problem is solved on the way
that asks the host, and on that of accelerators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from formulas import FORMULAS, squared_distances
from hypothesis import given, settings
from hypothesis import strategies as st
from property.test_steps import thorough
from torch import Tensor

from adaption import JointMaximumMeanDiscrepancyLoss, MaximumMeanDiscrepancyLoss, _host
from adaption._distances import FEW, TILE

# Rows of both domains together: a few, what one tile holds, the most pairs that are partitioned, what two tiles hold.
SMALL = [*range(2, 24), 62, 64, 65, 66, 255, 256, 257, 258, TILE - 1, TILE, TILE + 1, 2 * TILE, 2 * TILE + 1]
LARGE = [2047, 2048, 2049, FEW - 1, FEW, FEW + 1]
PRECISIONS = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


@dataclass(frozen=True)
class Problem:
    """Rows as a loss gets them, and how many are the source's."""

    source: Tensor
    target: Tensor

    def double(self) -> Problem:
        return Problem(self.source.double(), self.target.double())


@st.composite
def problems(draw: st.DrawFn, sizes: list[int], widths: int = 5, dtype: torch.dtype | None = None) -> Problem:
    number, width = draw(st.sampled_from(sizes)), draw(st.integers(1, widths))
    dtype = dtype or draw(st.sampled_from(list(PRECISIONS)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = torch.randn(number, width, generator=generator, dtype=torch.float64)
    index = torch.arange(number)
    kind = draw(st.sampled_from(["spread", "outliers", "clusters", "modes", "periodic"]))
    if kind == "spread":
        rows = rows * 10.0 ** draw(st.integers(-3, 3)) + draw(st.sampled_from([0.0, 100.0]))
    elif kind == "outliers":
        far = torch.randperm(number, generator=generator)[: draw(st.integers(1, 1 + number // 8))]
        rows[far] *= 10.0 ** draw(st.integers(3, 4 if dtype == torch.float16 else 12))
    elif kind == "clusters":
        centres = 4 * torch.randn(draw(st.integers(1, 4)), width, generator=generator, dtype=torch.float64)
        rows = (
            centres[torch.randint(len(centres), (number,), generator=generator)]
            + 10.0 ** -draw(st.integers(1, 4)) * rows
        )
    elif kind == "modes":
        rows += 30.0 * (torch.rand(number, generator=generator) < draw(st.sampled_from([0.1, 0.5])))[:, None]
    else:
        rows = 0.3 * rows + 8.0 * (index % draw(st.integers(2, 4)))[:, None]
    n = draw(st.sampled_from([1, number // 2, number - 1])) if number > 2 else 1
    rows[n:] += draw(st.sampled_from([0.0, 0.5]))
    rows = rows.to(dtype)
    return Problem(rows[:n], rows[n:])


ways = st.sampled_from([mock.patch.object(_host, "_NEVER_ASKS", never) for never in (False, True)])
numbers_of_kernels = st.sampled_from([1, 2, 5, 8, 20, 60, 100])
rules = st.sampled_from(["median", "mean", 2.0])


def far_from_a_tie(distances: Tensor, apart: float) -> bool:
    """Whether no other distance is about the median, so that rounding cannot choose another pair of rows for it."""
    ordered = distances.sort().values
    rank = (len(ordered) - 1) // 2
    around = ordered[max(rank - 1, 0) : rank + 2]
    return bool((around.diff() > apart * around[1:]).all())


def assert_right(metric: Any, problem: Problem, tolerance: float, apart: float) -> None:
    batch = [part.clone().requires_grad_() for part in (problem.source, problem.target)]
    exact = [part.clone().requires_grad_() for part in (problem.double().source, problem.double().target)]
    value, expected = metric(*batch), FORMULAS[type(metric).__name__](metric, *exact)
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    pairs = squared_distances(torch.cat(exact).detach())
    if problem.source.dtype in (torch.float64, torch.float32) and far_from_a_tie(
        pairs[tuple(torch.tril_indices(len(pairs), len(pairs), -1))], apart
    ):
        found, right = (torch.cat(torch.autograd.grad(v, x)).double() for v, x in ((value, batch), (expected, exact)))
        largest = float(right.abs().max())
        torch.testing.assert_close(found, right, rtol=0, atol=1e3 * tolerance * max(largest, 1e-6))


@given(problems(SMALL), numbers_of_kernels, rules, st.sampled_from(["biased", "unbiased"]), ways)
@settings(max_examples=1000 if thorough else 100)
def test_mmd_is_that_of_loops(problem: Problem, number: int, bandwidth: Any, estimator: str, way: Any) -> None:
    if min(len(problem.source), len(problem.target)) < 2:
        estimator = "biased"
    metric = MaximumMeanDiscrepancyLoss(number, bandwidth=bandwidth, estimator=estimator)
    with way:
        assert_right(metric, problem, PRECISIONS[problem.source.dtype], 1e-6)


@given(problems(LARGE, widths=3), st.sampled_from([1, 5]), st.sampled_from(["median", "mean"]), ways)
@settings(max_examples=50 if thorough else 8)
def test_mmd_of_many_rows_is_that_of_loops(problem: Problem, number: int, bandwidth: Any, way: Any) -> None:
    metric = MaximumMeanDiscrepancyLoss(number, bandwidth=bandwidth)
    with way:
        assert_right(metric, problem, PRECISIONS[problem.source.dtype], 1e-6)


@given(st.data(), st.sampled_from(SMALL), st.sampled_from(list(PRECISIONS)), numbers_of_kernels, rules, ways)
@settings(max_examples=500 if thorough else 60)
def test_jmmd_is_that_of_loops(
    data: st.DataObject, size: int, dtype: torch.dtype, number: int, bandwidth: Any, way: Any
) -> None:
    one, other = (data.draw(problems([size], dtype=dtype)) for _ in range(2))
    layers = [torch.cat([layer.source, layer.target]) for layer in (one, other)]
    n = len(one.source)
    metric = JointMaximumMeanDiscrepancyLoss(number, bandwidth=bandwidth)
    with way:
        value = metric([layer[:n] for layer in layers], [layer[n:] for layer in layers])
    exact = [layer.double() for layer in layers]
    expected = FORMULAS[type(metric).__name__](metric, [layer[:n] for layer in exact], [layer[n:] for layer in exact])
    torch.testing.assert_close(value.double(), expected, rtol=PRECISIONS[dtype], atol=PRECISIONS[dtype])


@given(problems(SMALL), st.integers(1, 3), st.data())
@settings(max_examples=200 if thorough else 50)
def test_pooled_mmd_is_that_of_loops_however_it_is_cut(problem: Problem, parts: int, data: st.DataObject) -> None:
    metric = MaximumMeanDiscrepancyLoss(pooled=True)
    parts = min(parts, len(problem.source), len(problem.target))
    for source, target in zip(problem.source.tensor_split(parts), problem.target.tensor_split(parts), strict=True):
        metric.update(source, target)
    exact = problem.double()
    expected = FORMULAS["MaximumMeanDiscrepancyLoss"](metric, exact.source, exact.target)
    tolerance = PRECISIONS[problem.source.dtype]
    torch.testing.assert_close(metric.compute(), expected, rtol=tolerance, atol=tolerance)
    order = torch.randperm(len(problem.source), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    shuffled = MaximumMeanDiscrepancyLoss(pooled=True)
    shuffled.update(problem.source[order], problem.target)
    torch.testing.assert_close(shuffled.compute(), metric.compute(), rtol=tolerance, atol=tolerance)
