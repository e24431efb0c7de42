"""Exchanging tensors between ranks whose shapes and dtypes differ, and the loss of a batch that is spread over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adaption.layers.gradient_reversal import gradient_reversal

Part = tuple[Any, list[Tensor]]

_WORD = 8  # bytes: each tensor starts at a multiple, as its dtype needs it


def world_size(group: Any = None) -> int:
    """The number of ranks of `group`; 1 where no process group is initialised."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """`tensor` of every rank of `group`, in rank order, each in its own shape and dtype."""
    return [tensors[0] for _, tensors in _exchange("`compute` or `sync`", None, [tensor], group)]


def gather_batch(caller: str, batch: dict[str, Any], group: Any = None) -> tuple[Any, ...]:
    r"""The arguments of a batch, each a tensor, a list of tensors or None, with the rows of all ranks in rank order.

    The value of a loss `L` of the result is that of the global batch, on every rank; and the *mean* of the gradients
    over the ranks, which is what DDP takes, is the gradient of that value:

    All R ranks share the parameters φ of the network that made the rows X_r(φ) of rank r, and the parameters θ of
    modules that the rows pass through after they were gathered. So L = L(X_1(φ), .., X_R(φ), θ) and

        dL/dφ = Σ_r ∂L/∂X_r · dX_r/dφ.

    Each rank evaluates the whole of L, so it knows ∂L/∂X_r for its own rows, and nothing needs to be sent on the way
    back: the rows of the others are constants to it. The mean over ranks, 1/R Σ_r g_r, is dL/dφ if rank r hands over
    g_r = R · ∂L/∂X_r · dX_r/dφ: the gradient of the own rows is multiplied by R. The modules behind see all rows on
    every rank: each g_r is all of dL/dθ, and the mean of R equal gradients is right without a factor.

    Whatever a rank passes is exchanged before anything is refused. So a fault on one rank raises the same error on
    all, where an error on one alone would leave the others waiting for it. A rank may pass 0 rows.
    """
    own = {name: _tensors(value) for name, value in batch.items()}
    kinds = [_kind(value) for value in batch.values()]
    parts = _exchange(f"`forward` or `update` of {caller}", kinds, [t for ts in own.values() for t in ts], group)
    for name, per_rank in zip(batch, zip(*(kinds for kinds, _ in parts), strict=True), strict=True):
        if len(set(per_rank)) > 1:
            msg = (
                f"`{name}` must be of the same kind on every rank, but got {', '.join(per_rank)}. Pass it on every "
                "rank or on none; a rank without samples passes a slice of 0 rows, such as `features[:0]`."
            )
            raise ValueError(msg)
    flat = iter(zip(*(tensors for _, tensors in parts), strict=True))  # one tuple over the ranks for each tensor
    rows = {name: [list(next(flat)) for _ in tensors] for name, tensors in own.items()}
    _check_rows(rows)
    rank = dist.get_rank(group)
    for name, tensors in own.items():
        for over_ranks, tensor in zip(rows[name], tensors, strict=True):
            over_ranks[rank] = gradient_reversal(tensor, -len(parts)) if tensor.requires_grad else tensor
    whole = {name: [_joined(over_ranks, rank) for over_ranks in tensors] for name, tensors in rows.items()}
    return tuple(whole[name][0] if isinstance(value, Tensor) else whole[name] or value for name, value in batch.items())


def _exchange(purpose: str, note: Any, tensors: Sequence[Tensor], group: Any) -> list[Part]:
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


def _tensors(value: Any) -> list[Tensor]:
    """What there is to gather of an argument; nothing of what is no tensor, which the loss will refuse."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    return items if all(isinstance(item, Tensor) for item in items) else []


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of ({', '.join(map(_kind, value))})"
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _check_rows(rows: dict[str, list[list[Tensor]]]) -> None:
    """The tensors of an argument agree over the ranks in all but their rows, those of a domain in their rows."""
    sizes: dict[str, tuple[str, list[int]]] = {}
    for name, tensors in rows.items():
        for over_ranks in tensors:
            shapes = [tuple(part.shape) for part in over_ranks]
            if len({shape[1:] if shape else None for shape in shapes if shape != (0,)}) > 1:
                msg = (
                    f"`{name}` must have the same shape after the first dimension on every rank, but got "
                    f"{', '.join(map(str, shapes))}. Pass the same layer of the same model on every rank."
                )
                raise ValueError(msg)
            numbers = [shape[0] if shape else 0 for shape in shapes]
            other, others = sizes.setdefault(name.split("_")[0], (name, numbers))
            if numbers != others:
                msg = (
                    f"`{name}` must have as many rows on every rank as `{other}` ({', '.join(map(str, others))}), but "
                    f"got {', '.join(map(str, numbers))}. Pass both of one and the same batch."
                )
                raise ValueError(msg)


def _joined(over_ranks: list[Tensor], rank: int) -> Tensor:
    own = over_ranks[rank]
    return torch.cat(over_ranks) if own.ndim else own  # a scalar has no rows, and the loss will refuse it
