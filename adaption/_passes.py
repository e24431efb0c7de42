"""Passes of samples through a network of the user's that leave it, and all else of the user's, as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from adaption._precision import autocasts


def constants(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module without a gradient, by each of their places.

    Others than plain ones, shards or those that are not yet initialised, are held by what made them.
    """
    return {
        name: parameter.detach()
        for name, parameter in _at_each_place(module, nn.Module.named_parameters)
        if type(parameter) is nn.Parameter
    }


def spare_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers of a module, for a pass to move in their stead."""
    return {name: buffer.detach().clone() for name, buffer in _at_each_place(module, nn.Module.named_buffers)}


def _at_each_place(module: nn.Module, named: Any) -> Iterator[tuple[str, Tensor]]:
    for path, part in module.named_modules():
        for name, tensor in named(part, recurse=False, remove_duplicate=False):
            yield f"{path}.{name}".lstrip("."), tensor


def passed(module: nn.Module, tensors: dict[str, Tensor], samples: Tensor) -> Any:
    """What a module says of samples with these tensors in the place of its own."""
    # each place once: torch, left to find the places itself, leaves the constants in a module that is used twice
    return torch.func.functional_call(module, tensors, (samples,), tie_weights=False)


def unmoved_generators(module: nn.Module, samples: Tensor) -> AbstractContextManager[None]:
    """Where random numbers are drawn, and torch's generators forget it: two passes have the same masks of dropout.

    A compiled step knows no states of generators.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    devices = {tensor.device for tensor in (samples, *module.parameters(), *module.buffers())}
    with_generator = {device for device in devices if device.type not in ("cpu", "mps") and hasattr(torch, device.type)}
    kind = next((device.type for device in with_generator), "cuda")
    forked: AbstractContextManager[None] = torch.random.fork_rng(with_generator, device_type=kind)
    return forked


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Outside of autocast, and where float32 is float32: in convolutions, NVIDIA's devices round it by default."""
    exact = _unrounded() if device.type == "cuda" and not torch.compiler.is_compiling() else nullcontext()
    plain = torch.autocast(device.type, enabled=False) if autocasts(device.type) else nullcontext()
    with plain, exact:
        yield


@contextmanager
def _unrounded() -> Iterator[None]:
    """Torch has an old and a new name for the same settings, and refuses to multiply where they differ."""
    backends: Any = torch.backends
    cudnn, products = backends.cudnn, torch.get_float32_matmul_precision()
    parts = [getattr(cudnn, "conv", None), backends.cuda.matmul, getattr(backends.mkldnn, "matmul", None)]
    parts = [part for part in parts if hasattr(part, "fp32_precision")]  # since torch 2.9
    new = [part.fp32_precision for part in parts]
    old = None if parts else cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        if parts:
            parts[0].fp32_precision = "ieee"
        else:
            cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        for part, precision in zip(parts, new, strict=True):
            part.fp32_precision = precision
        if old is not None:
            cudnn.allow_tf32 = old
