"""Losses of a batch that is spread over ranks: value and gradient are those of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adaption import _checks
from adaption._distributed import exchange, gather, world_size
from adaption._metric import AdditiveMetric
from adaption.layers.gradient_reversal import gradient_reversal


class GlobalBatchMetric(AdditiveMetric):
    """A loss whose value for a batch that is spread over ranks is not the mean of its values on the parts.

    Subclasses begin `_statistics` with `_global_batch` of the arguments.

    Args:
        gather_distributed: whether `forward` and `update` take the batches of all ranks as one. Every rank then has the
            value of the global batch, and DDP's mean of the gradients is the gradient of that value. Both calls become
            collective. Nothing changes with a single process.
        kwargs: those of :class:`AdditiveMetric`.
    """

    def __init__(self, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        _checks.flag("gather_distributed", gather_distributed)
        super().__init__(**kwargs)
        self.gather_distributed = gather_distributed

    def _global_batch(self, **batch: Any) -> tuple[Any, ...]:
        """Return the arguments in their order, with the rows of all ranks if they are to be gathered."""
        if self.gather_distributed and world_size(self.process_group) > 1:
            return gather_batch(type(self).__name__, batch, self.process_group)
        return tuple(batch.values())

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """Keep the states: each rank has added the same global batches, and already holds those of one process.

        The counts are still exchanged, to detect a rank that has left out a batch instead of waiting for it.
        """
        if not self.gather_distributed or world_size(self.process_group) == 1:
            super()._sync_dist(*args, **kwargs)
            return
        counts = [int(count) for count in gather(self.num_updates, self.process_group)]
        if len(set(counts)) > 1:
            msg = (
                f"all ranks must have added the same batches, but have added {counts}. Call `reset`, and restore a "
                "checkpoint, on every rank or on none."
            )
            raise RuntimeError(msg)


class BatchMeanMetric(GlobalBatchMetric):
    """A loss whose epoch value is the mean of its batches' values; `_statistics` returns the value and a 1."""

    def __init__(self, *, gather_distributed: bool = False, **kwargs: Any) -> None:
        super().__init__(gather_distributed=gather_distributed, **kwargs)
        self._keep_sums("values", "num_batches")

    def _value(self, *statistics: Tensor) -> Tensor:
        values, num_batches = statistics
        return values / num_batches

    def _batch_value(self, *statistics: Tensor) -> Tensor:
        """Return the value itself: a division by 1 would take a launch forward and one backward."""
        return statistics[0]


def gather_batch(caller: str, batch: dict[str, Any], group: Any = None) -> tuple[Any, ...]:
    r"""The arguments of a batch, each a tensor, a list of tensors or None, with the rows of all ranks in rank order.

    The value of a loss `L` of the result is that of the global batch, on every rank; and the *mean* of the gradients
    over the ranks, which is what DDP takes, is the gradient of that value:

    All R ranks share the parameters φ of the network that made the rows X_r(φ) of rank r, and the parameters θ of
    modules that the rows pass through after they were gathered. So L = L(X_1(φ), .., X_R(φ), θ) and

        dL/dφ = Σ_r ∂L/∂X_r · dX_r/dφ.

    Each rank evaluates the whole of L, so it knows ∂L/∂X_r for its own rows, and backward needs no communication: the
    rows of the others are constants. The mean over ranks, 1/R Σ_r g_r, is dL/dφ if rank r contributes g_r = R · ∂L/∂X_r
    · dX_r/dφ: the gradient of a rank's own rows is multiplied by R. The later modules see all rows on every rank: each
    g_r is all of dL/dθ, and the mean of R equal gradients needs no factor.

    The inputs are exchanged before they are checked. So a mistake on one rank raises the same error on all; an error on
    one rank alone would leave the others waiting. A rank may pass 0 rows.
    """
    own = {name: _tensors(value) for name, value in batch.items()}
    kinds = [_kind(value) for value in batch.values()]
    parts = exchange(f"`forward` or `update` of {caller}", kinds, [t for ts in own.values() for t in ts], group)
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


def _tensors(value: Any) -> list[Tensor]:
    """The tensors to gather from an argument; none if it is not a tensor, which the loss will refuse."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    return items if all(isinstance(item, Tensor) for item in items) else []


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of ({', '.join(map(_kind, value))})"
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _check_rows(rows: dict[str, list[list[Tensor]]]) -> None:
    """The tensors of an argument agree over the ranks except in their rows, those of a domain also in their rows."""
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
