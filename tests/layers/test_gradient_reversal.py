"""Gradient reversal: identity forward, the stated factor backward, and schedules that are kept."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from adaption.functional import gradient_reversal
from adaption.layers import GradientReversalLayer, WarmStartGradientLayer, WarmStartGradientReversalLayer

WARM = [WarmStartGradientLayer, WarmStartGradientReversalLayer]


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0, -1.0])
def test_identity_forward_reversed_backward(weight: float) -> None:
    for reverse in (GradientReversalLayer(weight), lambda x: gradient_reversal(x, torch.tensor(weight))):
        x = torch.randn(3, 2, requires_grad=True)
        y = reverse(x)
        assert torch.equal(x, y)
        (y * torch.arange(6.0).view(3, 2)).sum().backward()
        torch.testing.assert_close(x.grad, -weight * torch.arange(6.0).view(3, 2))


def test_second_derivatives_are_reversed_twice() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    (first,) = torch.autograd.grad(gradient_reversal(x, 3.0) ** 3, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    assert first.item() == -3 * 12
    assert second.item() == 3 * 3 * 12


@pytest.mark.parametrize("weight", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_what_is_not_finite_passes_unchanged(weight: Any, compiled: bool) -> None:
    torch._dynamo.reset()
    reverse = torch.compile(gradient_reversal, fullgraph=True, backend="eager") if compiled else gradient_reversal
    x = torch.tensor([1.0, math.inf, -math.inf, math.nan], requires_grad=True)
    y = reverse(x, weight)
    torch.testing.assert_close(y, x, rtol=0, atol=0, equal_nan=True)
    y.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(x.grad, -0.5 * torch.tensor([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("weight", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_every_transform_reverses(weight: Any) -> None:
    def cubes(x: Tensor) -> Tensor:
        return gradient_reversal(x, weight).pow(3).sum()

    x, tangent = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    reversed_ = -0.5 * 3 * x.square()
    torch.testing.assert_close(torch.func.grad(cubes)(x), reversed_)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(cubes))(x), reversed_)
    torch.testing.assert_close(torch.func.jvp(cubes, (x,), (tangent,))[1], (reversed_ * tangent).sum())
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(cubes))(x), reversed_)
    torch.testing.assert_close(torch.func.hessian(cubes)(x[0]), torch.diag(0.25 * 6 * x[0]))


def test_weights_of_their_own_in_a_batch() -> None:
    weights, x = torch.tensor([0.5, 2.0]), torch.ones(2, 3)
    gradients = torch.func.vmap(torch.func.grad(lambda x, w: gradient_reversal(x, w).sum()))(x, weights)
    torch.testing.assert_close(gradients, -weights[:, None].expand(2, 3))


def test_a_layer_that_works_in_place_may_follow() -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    torch.nn.ReLU(inplace=True)(GradientReversalLayer()(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, -1.0]))
    torch.testing.assert_close(x.detach(), torch.tensor([-1.0, 2.0]))


@pytest.mark.parametrize("layer_class", WARM)
@pytest.mark.parametrize(("alpha", "lo", "hi", "max_iters"), [(1.0, 0.0, 1.0, 1000), (10.0, 0.1, 0.7, 20)])
def test_schedule(layer_class: Any, alpha: float, lo: float, hi: float, max_iters: int) -> None:
    layer = layer_class(alpha, lo, hi, max_iters)
    sign = -1 if layer_class is WarmStartGradientReversalLayer else 1
    for i in range(25):
        expected = 2 * (hi - lo) / (1 + math.exp(-alpha * i / max_iters)) - (hi - lo) + lo
        assert layer.coefficient.item() == pytest.approx(expected, abs=1e-6)
        x = torch.ones(2, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None
        assert x.grad[0].item() == pytest.approx(sign * expected, abs=1e-6)
        layer.step()


@pytest.mark.parametrize("layer_class", WARM)
def test_steps_count_in_training_only_and_are_kept(layer_class: Any) -> None:
    layer = layer_class(auto_step=True)
    for _ in range(3):
        layer(torch.ones(1))
    layer.eval()
    layer(torch.ones(1))
    layer.step()
    assert layer.iteration == 3
    fresh = layer_class()
    fresh.load_state_dict(layer.state_dict())
    for kept in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.half(), layer.double()):
        assert kept.iteration == 3
        assert not kept.iteration.is_floating_point()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_keep_their_dtype(dtype: torch.dtype) -> None:
    x = torch.ones(2, dtype=dtype, requires_grad=True)
    WarmStartGradientReversalLayer(lo=0.5)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert (x.grad == -0.5).all()


def test_compiles_whole_without_compiling_anew_as_the_schedule_rises() -> None:
    layer = WarmStartGradientReversalLayer(max_iters=10)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(lambda x, weight: gradient_reversal(x, weight).sum(), fullgraph=True, backend=counter)
    for _ in range(10):
        layer.step()
        x = torch.ones(2, requires_grad=True)
        compiled(x, layer.coefficient).backward()
        torch.testing.assert_close(x.grad, -layer.coefficient.expand(2))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": math.nan}, ValueError, "`alpha` must be a finite number, but got nan"),
        ({"lo": math.inf}, ValueError, "`lo` must be a finite number"),
        ({"hi": "1"}, TypeError, "`hi` must be a number, but got str"),
        ({"max_iters": 0}, ValueError, "`max_iters` must be at least 1"),
        ({"max_iters": 2**31}, ValueError, "`max_iters` must be at most 2147483647, but got 2147483648"),
        ({"max_iters": True}, TypeError, "`max_iters` must be an integer, but got bool"),
        ({"auto_step": 1}, TypeError, "`auto_step` must be True or False"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    for layer_class in WARM:
        with pytest.raises(error, match=message):
            layer_class(**arguments)


def test_bad_input() -> None:
    assert WarmStartGradientReversalLayer(max_iters=2**31 - 1).max_iters == 2**31 - 1  # the most that is allowed
    with pytest.raises(ValueError, match="`grad_weight` must be a finite number"):
        GradientReversalLayer(math.nan)
    with pytest.raises(TypeError, match="`features` must be a floating-point tensor"):
        gradient_reversal(torch.ones(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="`grad_weight` must be a number"):
        gradient_reversal(torch.ones(2), None)  # type: ignore[arg-type] # the point of the test


def test_repr_shows_the_settings() -> None:
    assert repr(GradientReversalLayer(0.5)) == "GradientReversalLayer(grad_weight=0.5)"
    assert "alpha=1.0, lo=0.0, hi=0.1, max_iters=7" in repr(WarmStartGradientLayer(hi=0.1, max_iters=7))


@pytest.mark.parametrize("step", [1, 2, 5, 1000, 10**6, 3 * 10**6, 10**8])
def test_first_steps_of_a_long_schedule_keep_their_digits(step: int) -> None:
    layer = WarmStartGradientReversalLayer(max_iters=1_000_000)
    layer.iteration.fill_(step)
    assert layer.coefficient.item() == pytest.approx(math.tanh(step / 2e6), rel=3e-7)


@pytest.mark.parametrize("layer_class", WARM)
@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_schedules_do_not_depend_on_the_default_dtype(layer_class: Any, default: torch.dtype) -> None:
    """In float16, 10 times step 6,600 is infinite."""
    layer = layer_class(alpha=10.0, max_iters=100_000)
    layer.iteration.fill_(6600)
    expected = layer.coefficient
    try:
        torch.set_default_dtype(default)
        torch.testing.assert_close(layer.coefficient, expected, rtol=0, atol=0)
        x = torch.ones(2, dtype=torch.float32, requires_grad=True)
        layer(x).sum().backward()
        torch.testing.assert_close(x.grad, layer._sign * expected.expand(2), rtol=0, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def trained(layer: Any, calls: int) -> None:
    for _ in range(calls):
        layer(torch.ones(1, requires_grad=True))


@pytest.mark.parametrize("layer_class", WARM)
@pytest.mark.parametrize("lo", [0.0, 0.25])
def test_a_schedule_that_never_moves_is_said_aloud_once(layer_class: Any, lo: float) -> None:
    layer = layer_class(lo=lo)
    trained(layer, 60)
    layer.eval()
    trained(layer, 60)
    layer.train()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    trained(copied, 39)
    message = f"{layer_class.__name__} was called 100 times in training without a step, .* its start, {lo:g}\\. Pass"
    with pytest.warns(UserWarning, match=message):
        trained(copied, 1)
    trained(copied, 200)


@pytest.mark.parametrize("layer_class", WARM)
@pytest.mark.parametrize(
    "arguments", [{"auto_step": True}, {"lo": 0.5, "hi": 0.5}, {"alpha": 0.0}], ids=["auto_step", "level", "flat"]
)
def test_schedules_that_move_or_have_nowhere_to_go_are_silent(layer_class: Any, arguments: dict[str, Any]) -> None:
    trained(layer_class(**arguments), 150)


@pytest.mark.parametrize("layer_class", WARM)
def test_schedules_that_were_moved_are_silent(layer_class: Any) -> None:
    """By hand after 90 batches, by a checkpoint, and where no gradient comes through anyway."""
    accumulating, resumed, detached = layer_class(), layer_class(), layer_class()
    for _ in range(2):
        trained(accumulating, 90)
        accumulating.step()
    resumed.load_state_dict(accumulating.state_dict())
    trained(resumed, 150)
    for _ in range(150):
        detached(torch.ones(1))


def test_steps_of_the_optimizer_are_counted_by_hand() -> None:
    """Gradients of four batches are accumulated: `auto_step` counts each of them."""
    by_hand, by_itself = WarmStartGradientReversalLayer(), WarmStartGradientReversalLayer(auto_step=True)
    for index in range(12):
        trained(by_hand, 1)
        trained(by_itself, 1)
        if (index + 1) % 4 == 0:
            by_hand.step()
    assert (int(by_hand.iteration), int(by_itself.iteration)) == (3, 12)
