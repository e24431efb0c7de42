"""Precision and devices: each loss in half precision, under autocast, and where there is one on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, Case, cast, looked_at, tensors, tree_map, where_looked_at, with_gradient
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from adaption._precision import full_precision

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"))
on_every_device = pytest.mark.parametrize("device", ["cpu", cuda])
in_half_precision = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])


def far_out(tensor: Tensor) -> Tensor:
    """The samples at a distance of 1,000 from the origin; probabilities as they are."""
    flat = tensor.reshape(len(tensor), -1)
    sums = tensor.sum(1) if tensor.ndim > 1 else tensor
    probabilities = torch.allclose(sums, torch.ones_like(sums))
    return tensor if probabilities else (1e3 * F.normalize(flat)).view_as(tensor)


at_both_norms = pytest.mark.parametrize("moved", [lambda tensor: tensor, far_out], ids=["norm 1", "norm 1000"])


def batch_on(device: str, case: Case, moved: Any) -> tuple[Any, ...]:
    batch: tuple[Any, ...] = tree_map(lambda tensor: tensor.to(device), where_looked_at(case, moved, case.batch(8, 8)))
    return batch


def assert_gradients_within(case: Case, share: float, batch: Any, exact: Any) -> None:
    """Gradients apart by no more than a share of the largest entry, and what float16 calls zero or infinite."""
    for left, right in zip(looked_at(case, batch), looked_at(case, exact), strict=True):
        assert left.grad is not None
        assert right.grad is not None
        allowed = share * right.grad.abs().max().item() + torch.finfo(torch.float16).smallest_normal * 1e-3
        torch.testing.assert_close(left.grad.double(), right.grad.to(left.grad.dtype).double(), rtol=0, atol=allowed)


@every_loss
@on_every_device
@in_half_precision
@at_both_norms
def test_half_precision_loses_no_more_than_the_rounding_of_the_inputs(
    case: Case, device: str, dtype: torch.dtype, moved: Any
) -> None:
    batch = with_gradient(case, cast(batch_on(device, case, moved), dtype))
    exact = with_gradient(case, cast(batch, torch.float64))
    value, expected = case.build().to(device)(*batch), case.build().double().to(device)(*exact)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    assert_gradients_within(case, torch.finfo(dtype).eps, batch, exact)


@every_loss
@on_every_device
@in_half_precision
@at_both_norms
def test_autocast_keeps_the_loss_in_float32(case: Case, device: str, dtype: torch.dtype, moved: Any) -> None:
    """Only the layers inside compute in half precision, as autocast has them do."""
    if moved is far_out and case.name.startswith("WDGRL"):
        pytest.skip("the critic saturates there, and its gradient is the rounding of its layers")
    batch = with_gradient(case, batch_on(device, case, moved))
    exact = with_gradient(case, cast(batch, torch.float64))
    with torch.autocast(device, dtype=dtype):
        value = case.build().to(device)(*batch)
    expected = case.build().double().to(device)(*exact)
    assert value.dtype == torch.float32
    layers = any(isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) for module in case.build().modules())
    rounding = torch.finfo(dtype if layers else torch.float32).eps
    torch.testing.assert_close(
        value.double(), expected, rtol=0, atol=4 * rounding * max(1, expected.abs().max().item())
    )
    value.sum().backward()
    expected.sum().backward()
    assert_gradients_within(case, 64 * rounding, batch, exact)


LOGITS = {
    "CDAN+E": (0, 2),
    "ADVENT source": (0,),
    "ADVENT target": (0,),
    "PADA": (0,),
    "MDD": (1, 3),
    "MDD weighted": (1, 3),
    "MDD dense": (1, 3),
    "MDD none": (1, 3),
    "RegDA": (1,),
    "OSBP": (0,),
    "DANCE": (0,),
    "OVANet source": (0,),
    "OVANet target": (0,),
    "MCC": (0,),
    "entropy": (0,),
    "information": (0,),
    "nuclear norm": (0,),
    "DALN": (0, 1),
    "pseudo label": (0,),
    "JDOT": (3,),
}


@pytest.mark.parametrize("case", [case for case in CASES if case.name in LOGITS], ids=str)
@pytest.mark.parametrize("size", [6e4, -6e4])
def test_large_logits_keep_the_digits_in_which_they_differ(case: Case, size: float) -> None:
    """What is added to all logits of a sample changes no probability, and so neither value nor gradient."""
    plain = list(case.batch(8, 8))
    for position in LOGITS[case.name]:
        plain[position] = (64 * plain[position]).round() / 64  # so that float32 holds them exactly, moved or not
    moved = list(plain)
    for position in LOGITS[case.name]:
        moved[position] = plain[position] + size
    exact = with_gradient(case, cast(tuple(plain), torch.float64))
    batch = with_gradient(case, tuple(moved))
    value, expected = case.build()(*batch), case.build().double()(*exact)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    assert_gradients_within(case, 1e-5, batch, exact)


@every_loss
@pytest.mark.parametrize("device", [cuda])
def test_a_device_gives_the_values_of_the_cpu(case: Case, device: str) -> None:
    metric, expected = case.build().double().to(device), case.build().double()
    plain = with_gradient(case, cast(case.batch(8, 8), torch.float64))
    moved = tree_map(lambda tensor: tensor.detach().to(device).requires_grad_(tensor.requires_grad), plain)
    for one, batch in ((metric, moved), (expected, plain)):
        one(*batch).sum().backward()
    for left, right in zip(looked_at(case, moved), looked_at(case, plain), strict=True):
        assert left.grad is not None
        torch.testing.assert_close(left.grad.cpu(), right.grad)
    assert {state.device.type for state in tensors(list(metric.metric_state.values()))} == {device}
    torch.testing.assert_close(metric.compute().cpu(), expected.compute())
    metric.cpu().update(*plain)  # the epoch moves with the metric
    expected.update(*plain)
    torch.testing.assert_close(metric.compute(), expected.compute())


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_autocast_is_off_inside_on_every_kind_of_device(kind: str) -> None:
    """Apple's, too, which a machine without one imitates."""
    computed = full_precision(lambda x: (x, torch.is_autocast_enabled(kind)))
    with FakeTensorMode(), torch.autocast(kind, dtype=torch.float16):
        for passed in ((torch.empty(3, 2, device=kind),), ([torch.empty(3, 2, device=kind)],)):
            assert torch.is_autocast_enabled(kind)
            assert not computed(*passed)[1]
