"""Restores the buffers that a refused or repeated call has changed in the modules inside."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Held = list[tuple[nn.Module, str, Tensor, Tensor]]


def recomputing() -> bool:
    """Whether this call comes from a backward pass, where activation checkpointing calls everything again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1  # noqa: SLF001


def hold(modules: Iterable[nn.Module]) -> Held:
    """All buffers of some modules, with copies: running statistics, the steps of schedules."""
    return [
        (module, name, buffer, buffer.detach().clone())
        for child in modules
        for module in child.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]


def put_back(held: Held) -> None:
    """Restore the buffers."""
    for module, name, buffer, copy in held:
        if getattr(module, name) is not buffer:
            setattr(module, name, buffer)
        # past the version counter: a graph of the call, which a backward pass may still need, saved the buffer
        buffer.data.copy_(copy)
