"""Losses with a gradient in closed form that autograd can differentiate further: what a user sees of it is nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from adaption.functional import (
    classification_margin_disparity_discrepancy,
    entropy_minimization,
    entropy_separation,
    information_maximization,
    minimum_class_confusion,
    open_set_entropy,
)

MAIN = torch.randn(300, 40, dtype=torch.float64)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": entropy_minimization,
    "entropy of each": lambda logits: entropy_minimization(logits, reduction="none").square().mean(),
    "information": information_maximization,
    "DANCE": entropy_separation,
    "MCC": minimum_class_confusion,
    "OVANet": lambda logits: open_set_entropy(logits.view(300, 2, 20)),
    "MDD": lambda logits: classification_margin_disparity_discrepancy(MAIN, logits, MAIN, 2 * logits),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def logits() -> Tensor:
    """Large enough for the closed form."""
    return torch.randn(300, 40, dtype=torch.float64, requires_grad=True)


@every_loss
def test_the_gradient_is_that_of_differences(loss: Callable[[Tensor], Tensor]) -> None:
    """That of MCC is not: its weights depend on the logits, and count as constants."""
    assert loss is minimum_class_confusion or torch.autograd.gradcheck(loss, logits(), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, logits(), fast_mode=True)


@every_loss
@pytest.mark.filterwarnings("ignore")  # of the tracer, about checks, and of its age
def test_it_may_be_traced(loss: Callable[[Tensor], Tensor]) -> None:
    traced, x = torch.jit.trace(loss, logits()), logits()
    (gradient,) = torch.autograd.grad(traced(x), x)
    torch.testing.assert_close(traced(x), loss(x))
    torch.testing.assert_close(gradient, *torch.autograd.grad(loss(x), x))


@every_loss
def test_a_hook_runs_once(loss: Callable[[Tensor], Tensor]) -> None:
    """Also where a second derivative is to be taken."""
    found = []
    x = logits()
    for create_graph in (False, True):
        y = 1 * x
        y.register_hook(lambda gradient: 2 * gradient)
        y.retain_grad()
        (gradient,) = torch.autograd.grad(loss(y), x, create_graph=create_graph)
        found.append(gradient.detach())
    torch.testing.assert_close(*found)


@every_loss
def test_it_may_be_checkpointed(loss: Callable[[Tensor], Tensor]) -> None:
    x, y = logits(), logits()
    y.data = x.data
    loss(1 * x).backward()
    value = checkpoint(lambda z: loss(1 * z), y, use_reentrant=False)
    value.backward()
    torch.testing.assert_close(x.grad, y.grad)


@every_loss
def test_forward_mode_gives_the_same_derivative(loss: Callable[[Tensor], Tensor]) -> None:
    x, tangent = logits(), torch.randn(300, 40, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss(x), x)
    with forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(loss(forward_ad.make_dual(x.detach(), tangent))).tangent
    torch.testing.assert_close(derivative, (gradient * tangent).sum())


@every_loss
def test_several_gradients_at_once_are_those_one_by_one(loss: Callable[[Tensor], Tensor]) -> None:
    x, factors = logits(), torch.tensor([1.0, -2.0], dtype=torch.float64)
    value = loss(x)
    (together,) = torch.autograd.grad(value, x, factors, is_grads_batched=True, retain_graph=True)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(together, factors.view(-1, 1, 1) * gradient)


class Passed(torch.autograd.Function):
    """Passes on, and makes zeros of a gradient that is missing."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def test_the_main_head_of_mdd_stays_out_of_the_graph() -> None:
    main = torch.randn(300, 40, dtype=torch.float64, requires_grad=True)
    output = Passed.apply(main)
    classification_margin_disparity_discrepancy(output, logits(), output, logits()).backward()
    assert main.grad is None
    assert not classification_margin_disparity_discrepancy(output, MAIN, output, MAIN).requires_grad
