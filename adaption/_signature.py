"""How a metric is called: `forward` takes the arguments of `update`, and errors name the method that was called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import torch

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class _Metric(Protocol[P, R_co]):
    @property
    def update(self) -> Callable[P, None]: ...
    @property
    def compute(self) -> Callable[[], R_co]: ...


class LikeUpdate(Protocol):
    """To a type checker, the type of a call that takes what `update` takes and returns what `compute` returns."""

    @overload
    def __get__(self, metric: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, metric: _Metric[P, R_co], owner: type) -> Callable[P, R_co]: ...
    def __get__(self, metric: Any, owner: type) -> Any: ...


def named(function: Callable[..., Any], owner: type, name: str) -> Any:
    """`function` as the method `name` of a class, so that errors for wrong calls use this name.

    It is a copy, because a wrapper would take time in every call.
    """
    assert isinstance(function, FunctionType)  # noqa: S101 - for mypy
    copied = FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, closure=function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(copied, function)
    del copied.__wrapped__  # type: ignore[attr-defined] # where a signature would be looked for
    copied.__name__, copied.__qualname__, copied.__module__ = name, f"{owner.__qualname__}.{name}", owner.__module__
    return copied


def like_update(forward: Callable[..., Any], owner: type[Any]) -> Any:
    """`forward` of a class of metrics, with the arguments of its `update` and the result of its `compute`."""
    mine = named(forward, owner, "forward")
    result = inspect.signature(owner.compute).return_annotation
    mine.__signature__ = inspect.signature(owner.update).replace(return_annotation=result)
    return torch.jit.unused(mine)  # as torchmetrics' own is
