"""What a loss says of a batch, with all that must hold of it whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases import Case, cast, flat, looked_at, tensors, with_gradient
from torch import Tensor

from adaption._metric import AdditiveMetric

Batch = tuple[Any, ...]

# What rounding may take, relative to the largest entry: a few hundred operations in the precision the loss is computed
# in, and for gradients the precision of the inputs, in which they come back.
VALUE = {torch.float64: 1e-9, torch.float32: 1e-4}
GRADIENT = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 4e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Outcome:
    """A value, and its gradients by all that the loss looks at."""

    value: Tensor
    gradients: list[Tensor]


def outcome(case: Case, batch: Batch, change: Callable[[AdditiveMetric], object] = lambda _: None) -> Outcome:
    """The outcome for a batch, by the metric that `change` was applied to.

    Value and gradients are finite, also those of the parameters inside; they are those in float64 of the same inputs;
    `compute()` is the value. A score has no gradient, which counts as 0. An error names an argument first and leaves
    the metric as it was.
    """
    metric, exact = case.build(), case.build().double()
    change(metric)
    change(exact)
    batch, twin = with_gradient(case, batch), with_gradient(case, cast(batch, torch.float64))
    try:
        value = metric(*batch)
    except (TypeError, ValueError) as error:
        _refused(metric, str(error))
        raise
    value, expected = told(value), told(exact(*twin))
    if metric.is_differentiable:
        value.sum().backward()
        expected.sum().backward()
    found = Outcome(value.detach(), [gradient(leaf) for leaf in looked_at(case, batch)])
    parameters = [parameter.grad for parameter in metric.parameters() if parameter.grad is not None]
    assert all(tensor.isfinite().all() for tensor in (found.value, *found.gradients, *parameters))
    close(found.value, expected.detach(), VALUE[_computed_in(metric, value, batch)])
    for mine, leaf in zip(found.gradients, looked_at(case, twin), strict=True):
        close(mine, gradient(leaf), GRADIENT[mine.dtype])
    close(told(metric.compute()), found.value, 1e-6)
    return found


def told(value: Any) -> Tensor:
    """What a batch tells: of a dict its scalars side by side, without the bounds that a single batch cannot give."""
    if not isinstance(value, dict):
        tensor: Tensor = value
        return tensor
    scalars = flat(value)
    return scalars[~scalars.isinf()]


def _computed_in(metric: AdditiveMetric, value: Tensor, batch: Batch) -> torch.dtype:
    """Sums of a kernel matrix are in float64, but not its entries."""
    if metric.is_differentiable or not hasattr(metric, "bandwidth"):
        return value.dtype
    return torch.promote_types(tensors(batch)[0].dtype, torch.float32)


def _refused(metric: AdditiveMetric, sentence: str) -> None:
    assert sentence.startswith("`"), f"an error must name the argument first: {sentence}"
    assert metric.update_count == 0
    assert not any(state.count_nonzero() for state in tensors(list(metric.metric_state.values())))


def gradient(leaf: Tensor) -> Tensor:
    """The gradient of a leaf, 0 where the loss does not depend on it."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def close(found: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal but for rounding, relative to the largest expected entry, or to 1 where all are smaller."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    scale = max(float(expected.abs().max()), 1.0)
    torch.testing.assert_close(found.double(), expected.expand_as(found), rtol=0, atol=tolerance * scale)


def same(found: Outcome, expected: Outcome) -> None:
    """Two outcomes agree but for rounding."""
    close(found.value, expected.value)
    for mine, other in zip(found.gradients, expected.gradients, strict=True):
        close(mine, other, 1e-4)


def vanishes(found: Outcome) -> None:
    """The value is 0, and so is every gradient."""
    for tensor in (found.value, *found.gradients):
        close(tensor, 0.0)
