"""Keeps states independent of the torch mode in which a batch is added."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_functorch = torch._C._functorch  # noqa: SLF001 - torch.func has no public way to look through its wrappers
AS_IS = nullcontext()


def outside_modes() -> AbstractContextManager[Any]:
    """A context in which tensors are plain: usable outside of inference mode and of the transforms of `torch.func`."""
    return way_out() or AS_IS


def way_out() -> AbstractContextManager[Any] | None:
    """How to leave these modes; None where neither is active, and in a compiled step."""
    if torch.compiler.is_compiling():
        return None
    if inside_transforms():
        from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack  # noqa: PLC0415

        return temporarily_clear_interpreter_stack()
    return torch.inference_mode(mode=False) if torch.is_inference_mode_enabled() else None


def inside_transforms() -> bool:
    """Whether a transform of `torch.func` is active."""
    return _functorch.peek_interpreter_stack() is not None


def mapped() -> bool:
    """Whether `torch.vmap` is active, under which no value can be read."""
    levels = _functorch.get_interpreter_stack()
    return levels is not None and any(level.key() == _functorch.TransformType.Vmap for level in levels)


def unwrapped(caller: str, value: Any) -> Any:
    """A statistic without the wrappers of `torch.func` transforms, which end before the epoch."""
    while isinstance(value, Tensor) and _functorch.is_functorch_wrapped_tensor(value):
        if _functorch.is_batchedtensor(value):
            msg = (
                f"{caller} must not be called under `torch.vmap`, which makes many batches of one where an epoch can "
                "add but one, but was. Map its function from `adaption.functional` instead."
            )
            raise RuntimeError(msg)
        value = _functorch.get_unwrapped(value)
    return value
