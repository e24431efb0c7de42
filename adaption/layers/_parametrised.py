"""Weights that a network computes from others, such as normalised ones: how a moving average handles them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

M = TypeVar("M", bound=nn.Module)

# what the older functions hang before the forward of a module: each computes a weight and sets it as an attribute
_HOOKS = (SpectralNorm, WeightNorm)


def _prunes(hook: object) -> bool:
    """Whether it is a method of torch's pruning, a module that is imported only when used."""
    return any(kind.__name__ == "BasePruningMethod" for kind in type(hook).__mro__)


def copied(model: M) -> M:
    """A copy, also of a model with weights computed by torch's older functions, which deepcopy refuses."""
    computed = (
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    )
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers by their names."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


def vectors(model: nn.Module) -> set[str]:
    """The names of the singular vectors of spectral normalisation, which fit only its own weights."""
    found = set()
    for name, module in model.named_modules():
        if type(module).__name__ == "_SpectralNorm":
            found |= {f"{name}._u", f"{name}._v"}
        for hook in _hooks(module):
            if isinstance(hook, SpectralNorm):
                found |= {f"{name}.{hook.name}_{vector}".removeprefix(".") for vector in "uv"}
    return found


def settings(model: nn.Module) -> set[str]:
    """The names of the buffers of other parametrisations, such as masks of pruned weights."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, ParametrizationList):
            found |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers()}
        for hook in _hooks(module):
            if _prunes(hook):
                found.add(f"{name}.{hook._tensor_name}_mask".removeprefix("."))  # noqa: SLF001 - there is no other way
    return found - vectors(model)


def computing(model: nn.Module) -> list[nn.Module]:
    """The modules with a weight that must be recomputed when others have changed."""
    return [module for module in model.modules() if _spectral(module) or _hooks(module)]


def renew(modules: list[nn.Module]) -> None:
    """Recompute such weights; spectral normalisation takes a step of its power iteration, as in training."""
    for module in modules:
        with _training(module, *_spectral(module)):
            if isinstance(module, ParametrizationList):
                module()
            for hook in _hooks(module):
                hook(module, ())


def _spectral(module: nn.Module) -> list[nn.Module]:
    steps = module if isinstance(module, ParametrizationList) else ()
    return [step for step in steps if type(step).__name__ == "_SpectralNorm"]


def _hooks(module: nn.Module) -> list[Any]:
    return [hook for hook in module._forward_pre_hooks.values() if (isinstance(hook, _HOOKS) or _prunes(hook))]  # noqa: SLF001


@contextmanager
def _training(*modules: nn.Module) -> Iterator[None]:
    modes = [module.training for module in modules]
    for module in modules:
        module.training = True
    yield
    for module, mode in zip(modules, modes, strict=True):
        module.training = mode
