"""How many kernels a training step launches on an accelerator, counted on the CPU on the way that accelerators take.

Views, allocations and the bookkeeping of autograd launch nothing and are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adaption import _host

_FREE = {
    *(torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default, torch.ops.aten.new_empty.default),
    *(torch.ops.aten._unsafe_view.default, torch.ops.aten.lift_fresh.default),
}


class _Counter(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func not in _FREE and not _is_view(func)
        return func(*args, **(kwargs or {}))


def _is_view(func: Any) -> bool:
    results = func._schema.returns
    if not results:
        return True  # promote_types and the like
    return all(result.alias_info is not None and not result.alias_info.is_write for result in results)


def launches(step: Callable[[], Any]) -> int:
    """Of a step that has been taken once before, so that what is made once is not counted."""
    with mock.patch.multiple(_host, _NEVER_ASKS=True, _NEVER_READS=True):
        step()
        counter = _Counter()
        with counter:
            step()
    return counter.number
