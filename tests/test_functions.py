"""The laws of the pure functions, each over every loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from cases import CASES, FUNCTIONS, Case, cast, looked_at, where_looked_at, with_gradient
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from adaption import MaximumMeanDiscrepancyLoss
from adaption._metric import AdditiveMetric

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
every_function = pytest.mark.parametrize("case", FUNCTIONS, ids=str)


def assert_same_gradients(case: Case, left: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    for one, other in zip(looked_at(case, left), looked_at(case, right), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def graph_breaks(metric: AdditiveMetric, batch: tuple[Any, ...]) -> int:
    """In a step that goes on after the metric: what comes after a break counts as a graph of its own."""

    def step() -> Tensor:
        return 2 * metric(*batch)

    found: int = torch._dynamo.explain(step)().graph_break_count
    return found


@every_function
def test_function_compiles_whole_and_once(case: Case) -> None:
    """Once for ten batches of one size, and once more for all other sizes."""
    torch.compiler.reset()  # else the rows count as recompilations of one function
    metric, counter = case.build(), CompileCounter()
    compiled = torch.compile(lambda *batch: case.function(metric, *batch), fullgraph=True, backend=counter)
    sizes = [(4, 4)] * 10 + ([(6, 6), (5, 5)] if case.paired else [(6, 5), (3, 7)])
    for step, (n, m) in enumerate(sizes):
        traced = with_gradient(case, case.batch(n, m))
        plain = with_gradient(case, traced)
        value, expected = compiled(*traced), case.function(metric, *plain)
        torch.testing.assert_close(value, expected)
        value.sum().backward()
        expected.sum().backward()
        assert_same_gradients(case, traced, plain)
        assert counter.frame_count == (1 if step < 10 else 2)


@every_function
def test_function_compiles_whole_without_gradients(case: Case) -> None:
    torch.compiler.reset()
    metric, batch = case.build().requires_grad_(requires_grad=False), case.batch(4, 4)
    compiled = torch.compile(lambda *batch: case.function(metric, *batch), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*batch), case.function(metric, *batch))


@every_loss
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, at a graph break
def test_training_step_with_the_metric_compiles_whole(case: Case) -> None:
    """But for what keeps samples: lists that grow break the graph once."""
    torch.compiler.reset()
    plain, counter = case.build(), CompileCounter()
    metric = copy.deepcopy(plain)
    keeps_samples = any(isinstance(state, list) for state in metric.metric_state.values())
    if keeps_samples:
        assert graph_breaks(case.build(), case.batch(4, 4)) == 1
    compiled = torch.compile(lambda *batch: 2 * metric(*batch), fullgraph=not keeps_samples, backend=counter)
    frames = []
    for _ in range(12):
        batch = with_gradient(case, case.batch(4, 4))
        twin = with_gradient(case, batch)
        (2 * plain(*twin)).sum().backward()
        compiled(*batch).sum().backward()
        assert_same_gradients(case, batch, twin)
        frames.append(counter.frame_count)
    assert frames[2:] == frames[2:3] * 10  # the first step may have met states without their shape
    assert metric.update_count == 12
    torch.testing.assert_close(metric.compute(), plain.compute())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_asking_whether_a_value_is_finite_breaks_the_graph_once() -> None:
    torch.compiler.reset()
    metric = MaximumMeanDiscrepancyLoss(nan_strategy="ignore")
    batch = torch.randn(4, 3, requires_grad=True), torch.full((4, 3), torch.nan)
    assert graph_breaks(metric, batch) == 1
    assert metric.num_ignored.item() == metric.update_count == 1


@every_loss
def test_functional_gradient_is_that_of_autograd(case: Case) -> None:
    metric, batch = case.build(), with_gradient(case, case.batch(4, 4))
    case.function(metric, *batch).sum().backward()
    leaves = looked_at(case, batch)

    def function(*moved: Tensor) -> Tensor:
        remaining = iter(moved)
        value: Tensor = case.function(metric, *where_looked_at(case, lambda _: next(remaining), batch))
        return value.sum()

    detached = [leaf.detach() for leaf in leaves]
    gradients = torch.func.grad(function, argnums=tuple(range(len(leaves))))(*detached)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(gradient, leaf.grad)


# In their gradients a part of the value is constant: a regularisation, a plan, a norm, a prediction.
# `test_gradients.py` compares them with those of the formula.
CONSTANT_PARTS = ("Sinkhorn", "JDOT", "AFN", "VAT")


@pytest.mark.parametrize("case", [case for case in CASES if not case.name.startswith(CONSTANT_PARTS)], ids=str)
def test_function_has_the_gradient_of_its_value(case: Case) -> None:
    """Probabilities leave their simplex by less than the input rule allows."""
    metric = case.build().double()
    batch = with_gradient(case, cast(case.batch(2, 2), torch.float64))
    leaves = looked_at(case, batch)

    def function(*moved: Tensor) -> Tensor:
        remaining = iter(moved)
        value: Tensor = case.function(metric, *where_looked_at(case, lambda _: next(remaining), batch))
        return value

    assert torch.autograd.gradcheck(function, leaves)
