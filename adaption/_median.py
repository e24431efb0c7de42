"""The exact median of values that may be too many to store, and its position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Place = tuple[int, int]  # the part, and the index in it
_DIGIT, _MASK = 16, 2**16 - 1


def lower_median(parts: Callable[[], Iterable[Tensor]], number: int, pilot: Tensor) -> tuple[float, Place]:
    """The median of `number` values without NaN that come in parts, and its position; the lower one of an even number.

    One pass over the parts is enough. The pilot, a sample of about the same distribution, brackets the median; values
    below the bracket are counted, and the few inside are stored. A bracket of three standard deviations of the pilot's
    rank rarely misses, more often if the pilot is not representative; then a wider one on that side is tried. The
    result is always exact.
    """
    rank = (number - 1) // 2
    pilot = pilot.sort().values
    margin = int(1.5 * len(pilot) ** 0.5)
    low, high = len(pilot) // 2 - margin, len(pilot) // 2 + margin
    while True:
        bracket = _Bracket(
            float(pilot[low]) if low >= 0 else -torch.inf,
            float(pilot[high]) if high < len(pilot) else torch.inf,
        )
        for values in parts():
            bracket.add(values)
        found = bracket.find(rank)
        if found is not None:
            return found
        margin *= 8
        low, high = (low - margin, low) if rank < bracket.below else (high, high + margin)


class _Bracket:
    """The values between two bounds. Those at a bound are only counted, since there may be any number of equal ones.

    The others are in one growing buffer. As many small tensors between large temporary ones they would fragment the
    memory by ten times their size.
    """

    def __init__(self, low: float, high: float) -> None:
        self._bounds = (low, high) if low < high else (low,)
        self._low, self._high = low, high
        self.below = 0
        self._counts = [0, 0]
        self._places: list[Place] = [(0, 0), (0, 0)]
        self._inside: list[Tensor] = []  # values and their indices, with room for more
        self._ends: list[int] = []  # how many values are inside after each part

    def add(self, values: Tensor) -> None:
        # a comparison into floats, summed, is three times faster than one into booleans, counted
        self.below += int(torch.lt(values, self._low, out=torch.empty_like(values)).sum())
        indices = ((values >= self._low) & (values <= self._high)).nonzero().squeeze(1)
        kept = values[indices]
        for side, bound in enumerate(self._bounds):
            same = kept == bound
            if count := int(same.sum()):
                self._counts[side] += count
                self._places[side] = (len(self._ends), int(indices[same][0]))
                kept, indices = kept[~same], indices[~same]
        filled = self._ends[-1] if self._ends else 0
        buffers = self._inside or [kept[:0], indices[:0]]
        self._inside = [_placed(buffers[0], filled, kept), _placed(buffers[1], filled, indices)]
        self._ends.append(filled + len(kept))

    def find(self, rank: int) -> tuple[float, Place] | None:
        """The value of this rank among all, counted from 0, and its position, unless it lies outside."""
        values, indices = (buffer[: self._ends[-1]] for buffer in self._inside)
        rank -= self.below
        if 0 <= rank < self._counts[0]:
            return self._low, self._places[0]
        rank -= self._counts[0]
        if 0 <= rank < len(values):
            nth = values.kthvalue(rank + 1)
            index = int(nth.indices)
            return float(nth.values), (bisect_right(self._ends, index), int(indices[index]))
        rank -= len(values)
        return (self._high, self._places[1]) if 0 <= rank < self._counts[1] else None


def _placed(buffer: Tensor, filled: int, more: Tensor) -> Tensor:
    """The buffer with more values after the first `filled`, twice as large if they do not fit."""
    end = filled + len(more)
    if end > len(buffer):
        buffer = torch.cat([buffer[:filled], buffer.new_empty(2 * end - filled)])
    buffer[filled:end] = more
    return buffer


def rank_of_many(parts: Callable[[], Iterable[tuple[Tensor, int]]], rank: int, device: torch.device) -> Tensor:
    """The value of this rank, counted from 0, among non-negative float64 values that come in parts with multiplicities.

    The device counts, and the host reads nothing. The bit patterns are ordered like the numbers, so the first sixteen
    bits of the result are found by counting how often each combination occurs, and then the next ones among the values
    that share them. With NaN among the values the result is arbitrary.
    """
    found: Tensor | int = 0
    below: Tensor | int = 0
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(_MASK + 2, dtype=torch.int64, device=device)
        for values, times in parts():
            bits = values.flatten().view(torch.int64) >> shift
            digits = torch.where(bits >> _DIGIT == found, bits & _MASK, _MASK + 1)
            counts.index_add_(0, digits, torch.full_like(digits, times))
        reached = below + counts[:-1].cumsum(0)
        before = reached <= rank
        below = torch.where(before, reached, below).amax()
        found = found << _DIGIT | before.sum()
    return torch.as_tensor(found).view(torch.float64)
