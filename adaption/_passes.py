"""Passes through a network of the user without side effects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from adaption._precision import autocasts


def constants(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module without a gradient, by all of their names.

    Parameters of other types (shards, or not yet initialised) are left out.
    """
    return {
        name: parameter.detach()
        for name, parameter in _at_each_place(module, nn.Module.named_parameters)
        if type(parameter) is nn.Parameter
    }


def spare_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers of a module, which a pass may change instead."""
    return {name: buffer.detach().clone() for name, buffer in _at_each_place(module, nn.Module.named_buffers)}


def _at_each_place(module: nn.Module, named: Any) -> Iterator[tuple[str, Tensor]]:
    for path, part in module.named_modules():
        for name, tensor in named(part, recurse=False, remove_duplicate=False):
            yield f"{path}.{name}".lstrip("."), tensor


def passed(module: nn.Module, tensors: dict[str, Tensor], samples: Tensor) -> Any:
    """The output of a module for samples, with these tensors in place of its own."""
    if not tensors:
        return module(samples)
    # each place once: torch, left to find the places itself, leaves the constants in a module that is used twice
    return torch.func.functional_call(module, tensors, (samples,), tie_weights=False)


def unmoved_generators(module: nn.Module, samples: Tensor) -> AbstractContextManager[None]:
    """Restore torch's random generators afterwards: two passes have the same dropout masks.

    This has no effect in a compiled step.
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
    """No autocast, and full float32: by default NVIDIA devices round it in convolutions."""
    exact = _unrounded() if device.type == "cuda" and not torch.compiler.is_compiling() else nullcontext()
    plain = torch.autocast(device.type, enabled=False) if autocasts(device.type) else nullcontext()
    with plain, exact:
        yield


@contextmanager
def _unrounded() -> Iterator[None]:
    """Torch has an old and a new name for the same settings, and raises an error where they differ."""
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
