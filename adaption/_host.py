"""What the host may ask of a tensor. On an accelerator it would wait for everything that is queued there."""

from __future__ import annotations

import torch
from torch import Tensor

# The tests set it, so that the way without a question is taken on the CPU too.
_NEVER_ASKS = False


def readable(tensor: Tensor) -> bool:
    """Whether a check may look at values: on the CPU, and not while `torch.compile` traces."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def asks(tensor: Tensor) -> bool:
    """Whether the host decides by values how to compute; if not, the device computes what is right in all cases."""
    return tensor.device.type == "cpu" and not _NEVER_ASKS
