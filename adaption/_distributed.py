"""Exchanging tensors between ranks whose shapes and dtypes differ."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """`tensor` of every rank of `group`, in rank order, each in its own shape and dtype.

    torchmetrics' own gathering presumes equal ranks and dtypes; where a rank has seen no data yet, and so does not know
    the shape of its state, it hangs or aborts. Here shapes and dtypes travel first, the numbers after, as flat bytes.
    """
    headers: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(headers, (tuple(tensor.shape), tensor.dtype), group=group)
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in headers]
    mine = torch.zeros(max(sizes), dtype=torch.uint8, device=tensor.device)
    mine[: sizes[dist.get_rank(group)]] = tensor.detach().contiguous().flatten().view(torch.uint8)
    parts = [torch.empty_like(mine) for _ in headers]
    dist.all_gather(parts, mine, group=group)
    return [
        part[:size].view(dtype).view(shape) for part, size, (shape, dtype) in zip(parts, sizes, headers, strict=True)
    ]
