"""Every loss gives the answer that is known on paper, over shapes, dtypes and settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from property.problems import PROBLEMS, Problem
from torch import Tensor

# problems whose gradient is not worked out
VALUE_ONLY = {
    "mixtures_of_points",
    "classes_at_points",
    "joint_point_masses",
    "two_conditions",
    "two_entropies",
    "two_regressors",
    "two_frequencies",
    "two_classes_of_the_target",
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


def assert_right(value: Tensor, answer: Tensor, dtype: torch.dtype) -> None:
    exact = dtype == torch.float64
    torch.testing.assert_close(value.double(), answer, rtol=1e-9 if exact else 2e-5, atol=1e-10 if exact else 1e-5)


def computed_in(problem: Problem) -> torch.dtype:
    return torch.float64 if getattr(problem.batch[0], "dtype", None) == torch.float64 else torch.float32


@every_problem
@given(data=st.data())
def test_value_is_the_answer(name: str, data: st.DataObject) -> None:
    problem = data.draw(PROBLEMS[name])
    value = problem.metric(*problem.batch)
    assert value.dtype == computed_in(problem)
    assert_right(value, problem.answer, value.dtype)
    assert_right(problem.metric.compute(), problem.answer, value.dtype)


@every_problem
@given(data=st.data())
def test_an_epoch_of_equal_batches_has_the_answer_too(name: str, data: st.DataObject) -> None:
    problem = data.draw(PROBLEMS[name])
    pooled = getattr(problem.metric, "pooled", False)
    assume(not (pooled and isinstance(problem.metric.bandwidth, str)))  # the bandwidth is that of the epoch then
    for _ in range(data.draw(st.integers(2, 4))):
        problem.metric.update(*problem.batch)
    value = problem.metric.compute()
    reduction = getattr(problem.metric, "reduction", "mean")
    if reduction == "sum":
        value = value / problem.metric.update_count
    elif reduction == "none":
        value = value.view(problem.metric.update_count, -1).mean(0)
    assert_right(value, problem.answer, computed_in(problem))


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in VALUE_ONLY])
@given(data=st.data())
def test_gradient_is_the_answers(name: str, data: st.DataObject) -> None:
    problem = data.draw(PROBLEMS[name])
    assume(problem.gradients)
    batch: list[Any] = list(problem.batch)
    for position in problem.gradients:
        batch[position] = batch[position].detach().clone().requires_grad_()
    problem.metric(*batch).sum().backward()
    for position, gradient in problem.gradients.items():
        found = batch[position].grad
        assert found.dtype == batch[position].dtype
        size = max(1.0, gradient.abs().max().item())  # entries come of sums, and round as the largest does
        if found.dtype in (torch.float32, torch.float64):
            assert_right(found / size, gradient / size, found.dtype)
        else:
            torch.testing.assert_close(found.double(), gradient, rtol=1e-2, atol=1e-3)
