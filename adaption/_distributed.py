"""States over ranks, and the exchange of tensors between ranks whose shapes and dtypes differ."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.distributed import gather_all_tensors

from adaption._modes import outside_modes
from adaption._states import State, StatefulMetric, sum_dtype

Part = tuple[Any, list[Tensor]]

# By group: what its ranks said they would send, by the digests of that.
_HEARD: WeakKeyDictionary[Any, dict[tuple[int, ...], list[Any]]] = WeakKeyDictionary()
_MOST_HEARD = 64
_WORD = 8  # bytes: each tensor starts at a multiple, as its dtype needs it


class SyncedMetric(StatefulMetric):
    """A metric whose epoch is that of all ranks."""

    _computed_over = 0  # how many ranks the cached value is of

    def _agreed(self) -> tuple[int, bool]:
        """The number of ranks of the epoch, and whether all of them still have its value. All ranks must call it.

        A rank that has added a batch has no value, and would wait for those that have one. The exchanged data also
        contain a checksum of the trained parameters inside: without the wrapper that averages the gradients, each rank
        trains different networks.
        """
        over = 0 if self._computed is None else self._computed_over
        if not (self._to_sync and self.distributed_available_fn()):
            return 1, over > 0
        checksum = self._checksum()
        mine = torch.cat([checksum.new_tensor([over]), checksum])
        told = torch.stack([theirs for (theirs,) in self._over_ranks([mine])])
        if not torch.isclose(told[:, 1:], told[:1, 1:], rtol=1e-6, atol=0, equal_nan=True).all():
            rank_zero_warn(
                f"the parameters inside {type(self).__name__} differ between the ranks, each of which trains its own. "
                "Put the network and its losses into one module, and wrap that in DistributedDataParallel, or prepare "
                "it in one piece.",
                UserWarning,
            )
        return len(told), bool((told[:, 0] == len(told)).all())

    def _checksum(self) -> Tensor:
        """Two sums over the trained parameters that should be equal on all ranks, without sharded ones."""
        total = torch.zeros(2, dtype=sum_dtype(self.device), device=self.device)
        for parameter in self.parameters():
            whole = type(parameter) is nn.Parameter and not hasattr(parameter, "_fsdp_flattened")
            if whole and parameter.requires_grad:
                values = parameter.detach().to(total)
                total += torch.stack([values.abs().sum(), values.square().sum()])
        return total

    def _over_ranks(
        self, tensors: list[Tensor], dist_sync_fn: Callable[..., Any] | None = None, process_group: Any = None
    ) -> list[list[Tensor]]:
        """`tensors` of every rank, in rank order."""
        group = process_group or self.process_group
        exchange_one = dist_sync_fn or self.dist_sync_fn or gather_all_tensors
        if exchange_one is gather_all_tensors:
            return [theirs for _, theirs in exchange("`compute` or `sync`", None, tensors, group)]
        return [list(theirs) for theirs in zip(*(exchange_one(one, group=group) for one in tensors), strict=True)]

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        """Replace each state by its sum, or its samples, over all ranks.

        A rank without data holds zeros, or an empty list.
        """
        tensors = [
            state if isinstance(state, Tensor) else torch.cat(state).to(self.device) if state else self._no_samples()
            for state in self.metric_state.values()
        ]
        parts = [self._received(theirs) for theirs in self._over_ranks(tensors, dist_sync_fn, process_group)]
        with torch.no_grad():
            joined: dict[str, State] = functools.reduce(self._joined, parts)
        self.__dict__.update(joined)

    def _no_samples(self) -> Tensor:
        return torch.empty(0, dtype=sum_dtype(self.device), device=self.device)

    def _received(self, tensors: list[Tensor]) -> dict[str, State]:
        """The data of another rank, as states of this one."""
        received: dict[str, State] = {}
        for (name, default), tensor in zip(self._defaults.items(), tensors, strict=True):
            samples = tensor.cpu() if self.compute_on_cpu else tensor
            received[name] = tensor if isinstance(default, Tensor) else [samples] if len(samples) else []
        return received

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`torchmetrics.Metric.sync`; an error during the exchange does not change the local states."""
        # torchmetrics leaves its copy of them behind, which every pickle would drag along
        try:
            with outside_modes():
                super().sync(*args, **kwargs)
        finally:
            if not self._is_synced:
                self._cache = None

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        """See :meth:`torchmetrics.Metric.sync_context`; an error inside restores the local states."""
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)


def world_size(group: Any = None) -> int:
    """The number of ranks of `group`; 1 where no process group is initialised."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """`tensor` of every rank of `group`, in rank order, each in its own shape and dtype."""
    return [tensors[0] for _, tensors in exchange("`compute` or `sync`", None, [tensor], group)]


def exchange(purpose: str, note: Any, tensors: Sequence[Tensor], group: Any) -> list[Part]:
    """`note` and `tensors` of every rank, in rank order.

    The gathering of torchmetrics assumes equal numbers of dimensions and dtypes; if a rank has no data yet, and so does
    not know the shape of its state, it hangs or aborts. Here shapes and dtypes are sent first, then the numbers as flat
    bytes.
    """
    headers = _headers((purpose, note, [(tuple(t.shape), t.dtype) for t in tensors]), group)
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


def _headers(mine: tuple[Any, ...], group: Any) -> list[tuple[Any, ...]]:
    """The headers of what every rank is about to send.

    Each rank sends a digest of its header, and all headers are sent only if one of the digests is new. All ranks of a
    group have received the same headers, so either all of them know all digests or none does.
    """
    known = _HEARD.setdefault(group or dist.group.WORLD, {})
    digest = int.from_bytes(hashlib.blake2b(repr(mine).encode(), digest_size=8).digest(), signed=True)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else None
    digests = torch.empty(dist.get_world_size(group), dtype=torch.int64, device=device)
    dist.all_gather(list(digests.split(1)), digests.new_tensor([digest]), group=group)
    key = tuple(digests.tolist())
    if key not in known:
        headers: list[Any] = [None] * len(key)
        dist.all_gather_object(headers, mine, group=group)
        if len(known) == _MOST_HEARD:
            known.clear()
        known[key] = headers
    return known[key]


def _room(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.ceil(math.prod(shape) * dtype.itemsize / _WORD) * _WORD


def _read(place: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return place[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
