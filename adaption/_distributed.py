"""Exchanging tensors between ranks whose shapes and dtypes differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Part = tuple[Any, list[Tensor]]

_WORD = 8  # bytes: each tensor starts at a multiple, as its dtype needs it


def world_size(group: Any = None) -> int:
    """The number of ranks of `group`; 1 where no process group is initialised."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """`tensor` of every rank of `group`, in rank order, each in its own shape and dtype."""
    return [tensors[0] for _, tensors in exchange("`compute` or `sync`", None, [tensor], group)]


def exchange(purpose: str, note: Any, tensors: Sequence[Tensor], group: Any) -> list[Part]:
    """`note` and `tensors` of every rank, in rank order.

    torchmetrics' own gathering presumes equal ranks and dtypes; where a rank has seen no data yet, and so does not know
    the shape of its state, it hangs or aborts. Here shapes and dtypes travel first, the numbers after, as flat bytes.
    """
    headers: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(headers, (purpose, note, [(tuple(t.shape), t.dtype) for t in tensors]), group=group)
    purposes = [header[0] for header in headers]
    if len(set(purposes)) > 1:
        msg = (
            f"all ranks must make the same calls in the same order, but they are in {', '.join(purposes)}. A rank that "
            "has run out of batches must go on with the others, with slices of 0 rows, such as `features[:0]`."
        )
        raise RuntimeError(msg)
    rooms = [[_room(*layout) for layout in layouts] for _, _, layouts in headers]
    mine = torch.zeros(max(map(sum, rooms)), dtype=torch.uint8, device=tensors[0].device if tensors else None)
    rank = dist.get_rank(group)
    for tensor, place in zip(tensors, mine[: sum(rooms[rank])].split(rooms[rank]), strict=True):
        place[: tensor.nbytes] = tensor.detach().contiguous().flatten().view(torch.uint8)
    received = [torch.empty_like(mine) for _ in headers]
    if len(mine):
        dist.all_gather(received, mine, group=group)
    return [
        (note, [_read(place, *layout) for place, layout in zip(part[: sum(room)].split(room), layouts, strict=True)])
        for part, room, (_, note, layouts) in zip(received, rooms, headers, strict=True)
    ]


def _room(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.ceil(math.prod(shape) * dtype.itemsize / _WORD) * _WORD


def _read(place: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return place[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
