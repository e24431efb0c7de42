"""Scalars whose gradient is computed in the same pass as their value.

Some losses have a gradient in closed form, cheaper than that of autograd. `closed_form` passes both to autograd: no
gradient is computed where none is needed, `torch.compile` sees one opaque operator, `torch.func.grad` works, and what
is not supported (second derivatives, forward mode, vmap) raises an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# evaluate(tensors, needed, options) -> [value, *one note per needed tensor]
Evaluate = Callable[[list[Tensor], list[bool], list[float]], list[Tensor]]
# gradient(note, outer, tensor) -> what flows back into the tensor
Gradient = Callable[[Tensor, Tensor, Tensor], Tensor]

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
        compiling = torch.compiler.is_compiling()
        if compiling and not any(needed):  # torch compiles a Function only where there is something to differentiate
            value: Tensor = self._opaque(list(tensors), needed, list(options))[0]
        else:
            evaluate = self._opaque if compiling else self._eager
            value = _Value.apply((evaluate, self._gradient, needed, list(options)), *tensors)[0]
        return value


class _Value(Function):
    @staticmethod
    def forward(how: tuple[Evaluate, Gradient, list[bool], list[float]], *tensors: Tensor) -> tuple[Tensor, ...]:
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


# `Function.apply` derives the signature at each call, which takes as long as three operations on a small batch.
_Value.forward.__signature__ = inspect.signature(_Value.forward)  # type: ignore[attr-defined] # unknown to mypy


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
