"""The precision of computations: losses in float32 at least, modules in that of their parameters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")

HALF = (torch.float16, torch.bfloat16)
_COMPUTED = {*HALF, torch.float32, torch.float64}


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Let `function` compute in float32 under autocast and on half-precision tensors; float64 stays float64."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = tensors_in((*args, *kwargs.values()))
        if any(tensor.dtype in HALF for tensor in tensors):
            args = cast("Any", _at_least_float32(args))
            kwargs = cast("Any", {name: _at_least_float32(arg) for name, arg in kwargs.items()})
        device_type = "cpu" if not tensors or tensors[0].is_cpu else tensors[0].device.type
        if not autocasts(device_type):
            return function(*args, **kwargs)
        with torch.autocast(device_type, enabled=False):
            return function(*args, **kwargs)

    return wrapped


def autocasts(device_type: str) -> bool:
    """Whether autocast is active on a kind of device."""
    # not every kind has it, and then torch raises where it is asked whether it is on
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def tensors_in(args: Iterable[Any]) -> list[Tensor]:
    """The tensors among some arguments, also those in lists and tuples."""
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found += tensors_in(arg)
    return found


def _at_least_float32(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return arg.float() if arg.dtype in HALF else arg
    return type(arg)(map(_at_least_float32, arg)) if type(arg) in (list, tuple) else arg


def as_parameters(module: object, features: Tensor) -> Tensor:
    """`features` in the precision of the parameters of `module`, as it needs them outside autocast.

    If these have several floating types, or a type for storage alone, the features are not cast; integer parameters, as
    in quantised layers, are ignored.
    """
    if not isinstance(module, nn.Module) or autocasts(features.device.type):
        return features
    parameters = module.parameters()
    first = next(parameters, None)
    if first is None or first.dtype == features.dtype:  # as nearly always: there is nothing to cast, agreed or not
        return features
    floating = {p.dtype for p in itertools.chain([first], parameters) if p.is_floating_point()}
    return features.to(floating.pop()) if len(floating) == 1 and floating <= _COMPUTED else features


def power_of_two(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A divisor that makes the entries of a tensor at most 2 without rounding; NaN if one is not finite."""
    largest = torch.linalg.vector_norm(tensor, torch.inf, dtype=dtype).clamp(min=torch.finfo(dtype).tiny)
    mantissa, _ = torch.frexp(largest)
    size: Tensor = largest / mantissa
    return size


def log_probability(probabilities: Tensor) -> Tensor:
    """The logarithm of probabilities that may be exactly 0, finite and with a finite gradient.

    It is at least that of float32's smallest normal number, in every dtype, so that the value of a batch in float32 and
    that of the epoch in float64 agree.
    """
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


def log_odds(logit: Tensor, others: Tensor) -> Tensor:
    """``log(p / (1 - p))`` of the class with this logit ``(N, ..)``, against all others ``(N, C, ..)`` together.

    The largest logit is subtracted first: otherwise the logarithm of the sum would lose small differences of large
    logits to rounding, in the value and in the gradient.
    """
    largest = others.detach().amax(1, keepdim=True)
    return (logit - largest.squeeze(1)) - (others - largest).exp().sum(1).log()
