"""Modules inside of the losses that move with every call, as batch normalisation and schedules do."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from cases import CASES, Case, tensors
from torch import Tensor, nn

from adaption._metric import AdditiveMetric


class Moving(nn.Module):
    """Calls a function, and moves three kinds of buffers: running statistics, one in place, one that is replaced.

    When `spoiled`, it answers what nobody can use.
    """

    spoiled = False

    in_place: Tensor
    replaced: Tensor

    def __init__(self, inner: Callable[..., Any]) -> None:
        super().__init__()
        self.inner = inner
        self.norm = nn.BatchNorm1d(1)
        self.register_buffer("in_place", torch.tensor(0))
        self.register_buffer("replaced", torch.tensor(0))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            self.in_place += 1
            self.replaced = self.replaced + 1
            self.norm(tensors(args)[0].detach().float().reshape(-1, 1))
        return torch.zeros(2, 3, 5, 7, 11) if self.spoiled else self.inner(*args, **kwargs)


def asked(metric: AdditiveMetric) -> dict[str, Any]:
    """The settings of a metric that it calls."""
    found = {}
    for name, parameter in inspect.signature(type(metric).__init__).parameters.items():
        if name == "self" or parameter.kind == parameter.VAR_KEYWORD:
            continue
        value = getattr(metric, name)
        called = value if isinstance(value, nn.ModuleList) else [value]
        if value is not None and all(callable(item) for item in called):
            found[name] = value
    return found


def moving(case: Case, **more: Any) -> AdditiveMetric:
    """A metric of a row, with a module that moves around each setting that it calls."""
    metric = case.build()
    names = [n for n, p in inspect.signature(type(metric).__init__).parameters.items() if p.kind != p.VAR_KEYWORD][1:]
    settings = {name: getattr(metric, name) for name in names}
    for name, value in asked(metric).items():
        several = isinstance(value, nn.ModuleList)
        settings[name] = [Moving(item) for item in value] if several else Moving(value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`critic` must not normalise over the batch")  # it normalises something else
        built: AdditiveMetric = type(metric)(**settings | more)
    return built


WITH_MODULES = [case for case in CASES if asked(case.build())]
