"""The laws of the pure functions, each over every loss."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case, cast, looked_at, where_looked_at, with_gradient
from torch import Tensor

# the bandwidth of MMD is a constant of differentiation, which finite differences cannot know
WITHOUT_CONSTANTS = [case for case in CASES if not hasattr(case.build(), "bandwidth")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_function_compiles_whole(case: Case) -> None:
    torch.compiler.reset()  # else the rows count as recompilations of one function
    metric, batch = case.build(), case.batch(4, 4)
    compiled = torch.compile(lambda *batch: case.function(metric, *batch), fullgraph=True, backend="aot_eager")
    traced, plain = with_gradient(case, batch), with_gradient(case, batch)
    value, expected = compiled(*traced), case.function(metric, *plain)
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    expected.sum().backward()
    for left, right in zip(looked_at(case, traced), looked_at(case, plain), strict=True):
        torch.testing.assert_close(left.grad, right.grad)


@pytest.mark.parametrize("case", WITHOUT_CONSTANTS, ids=str)
def test_function_has_the_gradient_of_its_value(case: Case) -> None:
    """Probabilities leave their simplex by less than the input rule allows."""
    metric = case.build().double()
    batch = with_gradient(case, cast(case.batch(2, 2), torch.float64))
    leaves = looked_at(case, batch)

    def function(*moved: Tensor) -> Tensor:
        remaining = iter(moved)
        return case.function(metric, *where_looked_at(case, lambda _: next(remaining), batch))

    assert torch.autograd.gradcheck(function, leaves)
