"""What the host may read from a tensor. On an accelerator it would wait for everything that is queued there."""

from __future__ import annotations

import torch
from torch import Tensor

from adaption._modes import mapped

# The tests set it, so that the way without a question is taken on the CPU too.
_NEVER_ASKS = False
# The count of launches sets it, so that the checks that only the CPU has are not counted.
_NEVER_READS = False


def readable(tensor: Tensor) -> bool:
    """Whether a check may read values: on the CPU, not while `torch.compile` traces, and not under `torch.vmap`."""
    return tensor.is_cpu and not (_NEVER_READS or torch.compiler.is_compiling() or mapped())


def asks(tensor: Tensor) -> bool:
    """Whether the host reads values to choose a method; otherwise the device uses one that is always right."""
    return tensor.is_cpu and not _NEVER_ASKS
