"""No call of a training step reads a value of a tensor that is on an accelerator, which would wait for the device.

The device `lazy` has a kernel of no operation in this build of torch, but tensors that have only a shape can be on it:
a read of a value raises, and so does a tensor that was left on the CPU.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import CASES, EVERY_METRIC, Case, tree_map
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

import adaption
from adaption import functional

DEVICE = torch.device("lazy:0")
SHAPES_ALONE = FakeTensorMode()  # one for all: constants on a device are made once
# `compute` of these is a solution, which `forward` has to find too; their pages say so
SOLVED = ("label shift by EM",)


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """torch would copy the mode of the tensor with it."""
    copy = tensor.detach().clone()
    memo[id(tensor)] = copy
    if isinstance(tensor, nn.Parameter):
        memo[id(tensor)] = copy = nn.Parameter(copy, tensor.requires_grad)
    return copy


@pytest.fixture(autouse=True)
def _shapes_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(FakeTensor, "__deepcopy__", _copied, raising=False)
    with SHAPES_ALONE, DEVICE:
        yield


def there(tensor: Tensor) -> Tensor:
    """A tensor of this shape on the device, whose gradient is asked for."""
    tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
    return tensor.requires_grad_(tensor.is_floating_point())


def batch_of(case: Case, size: int = 8) -> tuple[Any, ...]:
    with torch.device("cpu"):
        batch: tuple[Any, ...] = tree_map(there, case.batch(size, size))
        return batch


def first(value: Any) -> Tensor:
    scalar: Tensor = next(iter(value.values())) if isinstance(value, dict) else value
    return scalar


def test_a_read_is_noticed() -> None:
    with pytest.raises(DataDependentOutputException):
        float(torch.empty(3).sum())


@pytest.mark.parametrize("case", [case for case in EVERY_METRIC if case.name not in SOLVED], ids=str)
def test_a_step_of_training_reads_nothing(case: Case) -> None:
    metric = case.build()
    value = first(metric(*batch_of(case)))
    assert value.device == DEVICE
    if metric.is_differentiable:
        value.sum().backward()
    metric.update(*batch_of(case))
    metric.reset()
    with torch.no_grad():
        metric(*batch_of(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_function_reads_nothing(case: Case) -> None:
    assert case.function(case.build(), *batch_of(case)).device == DEVICE


MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MMD": functional.maximum_mean_discrepancy,
    "MMD of one bandwidth": lambda s, t: functional.maximum_mean_discrepancy(s, t, bandwidth=2.0),
    "JMMD": lambda s, t: functional.joint_maximum_mean_discrepancy([s, s], [t, t]),
    "median": functional.median_bandwidth,
    "BSP": lambda s, t: functional.batch_spectral_penalization(s, t, num_singular_values=2),
}


@pytest.mark.parametrize("rows", [300, 3000])
@pytest.mark.parametrize("loss", MANY.values(), ids=MANY.keys())
def test_large_batches_read_nothing(loss: Callable[[Tensor, Tensor], Tensor], rows: int) -> None:
    source, target = there(torch.empty(rows, 4)), there(torch.empty(rows, 4))
    loss(source, target).backward()
    assert source.grad is not None
    assert source.grad.device == DEVICE


def test_a_schedule_moves_without_a_read() -> None:
    layer = adaption.layers.WarmStartGradientReversalLayer(auto_step=True)
    for _ in range(3):
        layer(there(torch.empty(2, 3))).sum().backward()
