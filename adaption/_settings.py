"""The settings of a metric: the arguments of its constructor, read back from the attributes of the same names."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.metric import jit_distributed_available

# what every constructor takes beyond its signature, and what it is if it is not given
KEYWORDS = {
    "nan_strategy": "disable",
    "compute_on_cpu": False,
    "dist_sync_on_step": False,
    "process_group": None,
    "dist_sync_fn": None,
    "distributed_available_fn": jit_distributed_available,
    "sync_on_compute": True,
    "compute_with_cache": True,
}


def check_names(cls: type[Metric], given: dict[str, Any]) -> None:
    """Refuse arguments that are neither in the signature of the constructor nor known to torchmetrics."""
    if unknown := [name for name in given if name not in KEYWORDS]:
        own = [*_of_signature(cls), "nan_strategy"]
        likely = difflib.get_close_matches(unknown[0], [*own, *KEYWORDS], 1)
        takes = f"It takes {', '.join(f'`{name}`' for name in own)}, and what `torchmetrics.Metric` takes."
        repair = f"Did you mean `{likely[0]}`?" if likely else takes
        msg = f"`{unknown[0]}` is not an argument of {cls.__name__}. {repair}"
        raise ValueError(msg)


def keywords(metric: Metric) -> dict[str, Any]:
    """Additional keyword arguments that differ from their defaults."""
    found = {name: getattr(metric, name) for name in KEYWORDS}
    return {name: value for name, value in found.items() if value is not KEYWORDS[name] and value != KEYWORDS[name]}


def settings(metric: Metric) -> dict[str, Any]:
    """The arguments of the constructor by name, and `nan_strategy`."""
    return {name: getattr(metric, name) for name in (*_of_signature(type(metric)), "nan_strategy")}


def _of_signature(cls: type[Metric]) -> list[str]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]


def differing(left: Metric, right: Metric) -> list[str]:
    """The names of the settings in which two metrics of a class differ."""
    others = settings(right)
    return [name for name, value in settings(left).items() if not _same(value, others[name])]


def _same(left: Any, right: Any) -> bool:
    """Whether two settings mean the same.

    Copies count as equal, even without an equality operator: functions are compared by their code and closures.
    """
    if left is right:
        return True
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.equal(left, right)
    parts, others = _parts(left), _parts(right)
    if parts is None or others is None or type(left) is not type(right):
        return parts is others is None and bool(left == right)
    return len(parts) == len(others) and all(map(_same, parts, others))


def _parts(value: Any) -> Sequence[Any] | None:
    """The parts to compare of a value that equals only itself, or whose parts may be so; None for any other."""
    parts: Sequence[Any] | None = None
    if isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, dict):
        parts = [part for item in sorted(value.items()) for part in item]
    elif isinstance(value, nn.Module):
        # not its weights, which training changes; a loss of torch names what its repr leaves out
        names = sorted({"reduction", *getattr(value, "__constants__", ())})
        parts = [repr(value), *(getattr(value, name, None) for name in names), *value.children()]
    elif isinstance(value, FunctionType):
        parts = [value.__code__, value.__defaults__, *(cell.cell_contents for cell in value.__closure__ or ())]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif not any("__eq__" in vars(cls) for cls in type(value).__mro__[:-1]) and hasattr(value, "__dict__"):
        parts = [vars(value)]
    return parts


def shown(value: object) -> str:
    """A setting as `repr` of a metric shows it."""
    if isinstance(value, functools.partial):  # its own repr holds an address, which differs from process to process
        given = [*map(shown, value.args), *(f"{name}={shown(item)}" for name, item in value.keywords.items())]
        return f"{shown(value.func)}({', '.join(given)})"
    return value.__name__ if inspect.isroutine(value) else repr(value)
