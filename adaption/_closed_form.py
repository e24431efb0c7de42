"""Gradients in closed form, where they are cheaper or more accurate than those of autograd.

A `ClosedForm` is a scalar whose gradient is computed in the same pass as its value: no gradient is computed where none
is needed, `torch.compile` sees one opaque operator, `torch.func.grad` works, and what is not supported (second
derivatives, forward mode, vmap) raises an error.

A `Shortcut` has a formula, too, which autograd differentiates wherever more than a first gradient is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from adaption._modes import inside_transforms

# evaluate(tensors, needed, options) -> [value, *one note per needed tensor]
Evaluate = Callable[[list[Tensor], list[bool], list[float]], list[Tensor]]
# gradient(note, outer, tensor) -> what flows back into the tensor
Gradient = Callable[[Tensor, Tensor, Tensor], Tensor]
_How = tuple[Evaluate, Gradient, list[bool], list[float]]
Values = tuple[Tensor, ...]

_REFUSAL = "{} are not available for this loss, because its gradient is a closed form. {}"
_SCHEMA = "(Tensor[] tensors, bool[] needed, float[] options) -> Tensor[]"


def _scaled(gradient: Tensor, outer: Tensor, _tensor: Tensor) -> Tensor:
    return gradient * outer


class ClosedForm:
    """A scalar function of tensors that stores notes for its gradients while it computes its value.

    Args:
        name: of the operator that `torch.compile` sees, ``adaption::<name>``.
        evaluate: ``(tensors, needed, options) -> [value, *notes]``, one note for each tensor that needs a gradient.
        gradient: ``(note, outer, tensor) -> gradient`` of the tensor, where `outer` is the gradient of the value. By
            default the notes are the gradients.
        like: ``(tensor, options)`` to an empty tensor of the shape of its note, by default that of the tensor.
    """

    def __init__(
        self,
        name: str,
        evaluate: Evaluate,
        *,
        gradient: Gradient = _scaled,
        like: Callable[[Tensor, list[float]], Tensor] = lambda tensor, _options: torch.empty_like(tensor),
    ) -> None:
        def shapes(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
            notes = [like(tensor, options) for tensor, need in zip(tensors, needed, strict=True) if need]
            return [tensors[0].new_empty(()), *notes]

        self._eager, self._gradient = evaluate, gradient
        self._opaque = torch.library.custom_op(f"adaption::{name}", evaluate, mutates_args=(), schema=_SCHEMA)
        self._opaque.register_fake(shapes)

    def __call__(self, tensors: Sequence[Tensor], options: Sequence[float] = ()) -> Tensor:
        needed = [torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors]
        value: Tensor
        if torch.compiler.is_compiling():
            if any(needed):
                value = _Value.apply((self._opaque, self._gradient, needed, list(options)), *tensors)[0]
            else:  # torch compiles a Function only where there is something to differentiate
                value = self._opaque(list(tensors), needed, list(options))[0]
        else:
            how = self._eager, self._gradient, needed, list(options)
            value = _Value.apply(how, *tensors)[0] if inside_transforms() else _Eager.apply(how, *tensors)
        return value


class _Value(Function):
    @staticmethod
    def forward(how: _How, *tensors: Tensor) -> tuple[Tensor, ...]:
        evaluate, _, needed, options = how
        return tuple(evaluate(list(tensors), needed, options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        (_, ctx.gradient, ctx.needed, _), *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *(t for t, need in zip(tensors, ctx.needed, strict=True) if need))

    @staticmethod
    def vmap(_info: Any, _in_dims: Any, *_args: Any) -> Any:
        raise RuntimeError(_REFUSAL.format("batches by `torch.vmap`", "Loop over the batches instead."))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor | None, ...]:
        if outer[0] is None:
            return (None,) * (1 + len(ctx.needed))
        once = _Once.apply if torch.is_grad_enabled() else _Once.forward
        gradients = list(once(ctx.gradient, outer[0], *ctx.saved_tensors))
        return None, *(gradients.pop(0) if need else None for need in ctx.needed)


class _Eager(Function):
    """The same in the older form of a Function, without transforms: it saves the time of five operations."""

    @staticmethod
    def forward(ctx: Any, how: _How, *tensors: Tensor) -> Tensor:
        evaluate, ctx.gradient, ctx.needed, options = how
        value, *notes = evaluate(list(tensors), ctx.needed, options)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*notes, *(t for t, need in zip(tensors, ctx.needed, strict=True) if need))
        return value

    backward = _Value.backward


class Shortcut:
    """A function of tensors that autograd can differentiate, with a cheaper gradient for a step of training.

    Second derivatives, forward mode, the transforms of `torch.func`, `torch.compile` and `torch.jit.trace` take the
    formula itself. As for most operations of torch, the tensors must not be changed in place between the forward and
    the backward pass.

    Args:
        formula: from tensors and settings to values.
        evaluate: from the same tensors and settings to the same values, and notes for `gradients`.
        gradients: from the notes, the gradients of the values that have one and the settings to the gradients of the
            tensors, None for those that have none.
        constants: how many of the values, the last ones, have no gradient. The formula detaches them.
    """

    def __init__(
        self,
        formula: Callable[..., Values],
        evaluate: Callable[..., tuple[Values, Values]],
        gradients: Callable[..., tuple[Tensor | None, ...]],
        constants: int = 0,
    ) -> None:
        self.formula, self.evaluate, self.gradients, self.constants = formula, evaluate, gradients, constants

    def __call__(self, *tensors: Tensor, **settings: float) -> Values:
        if torch.compiler.is_compiling() or _more_than_a_gradient(tensors):
            return self.formula(*tensors, **settings)
        values: Values = _Shortcut.apply(self, settings, *tensors)
        return values


def _more_than_a_gradient(tensors: Values) -> bool:
    """Whether a transform of `torch.func`, a trace or forward mode asks for it."""
    if inside_transforms() or torch._C._get_tracing_state() is not None:  # noqa: SLF001 - the public one is not typed
        return True
    return forward_ad._current_level >= 0 and any(  # noqa: SLF001 - to ask no tensor outside forward mode
        forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


class _Shortcut(Function):
    @staticmethod
    def forward(ctx: Any, how: Shortcut, settings: dict[str, float], *tensors: Tensor) -> Values:
        values, notes = how.evaluate(*tensors, **settings)
        ctx.how, ctx.settings = how, settings
        ctx.save_for_backward(*tensors, *notes)
        if how.constants:
            ctx.set_materialize_grads(False)  # or autograd would make zeros for them
            ctx.mark_non_differentiable(*values[-how.constants :])
        return values

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[2:]  # once: checkpointing forbids to ask twice
        outer = outer[: len(outer) - ctx.how.constants]
        if outer[0] is None:
            return (None,) * (2 + len(needs))
        if not torch.is_grad_enabled():
            return None, None, *ctx.how.gradients(saved[len(needs) :], outer, **ctx.settings)
        # views, because hooks of the tensors themselves run when this gradient reaches them
        tensors = [tensor.view_as(tensor) for tensor in saved[: len(needs)]]
        values = ctx.how.formula(*tensors, **ctx.settings)[: len(outer)]
        needed = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
        gradients = list(torch.autograd.grad(values, needed, outer, create_graph=True))
        return None, None, *(gradients.pop(0) if need else None for need in needs)


class _Once(Function):
    """All gradients, tied to all tensors, so that second derivatives raise instead of missing a term."""

    @staticmethod
    def forward(gradient: Gradient, outer: Tensor, *notes_and_tensors: Tensor) -> tuple[Tensor, ...]:
        half = len(notes_and_tensors) // 2
        pairs = zip(notes_and_tensors[:half], notes_and_tensors[half:], strict=True)
        return tuple(gradient(note, outer, tensor) for note, tensor in pairs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, *_outer: Tensor) -> tuple[Tensor | None, ...]:
        repair = "Drop `create_graph=True`, or take the gradient penalty of another loss."
        raise RuntimeError(_REFUSAL.format("second derivatives", repair))
