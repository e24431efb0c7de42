r"""Squared distances and their bandwidth without reading a value on the host, for accelerators.

`adaption/_distances.py` reads the rows and then chooses: between a matrix product and differences, float32 and float64,
a rule and what replaces it. Here all distances come from differences in float64, which are right for every input, the
bandwidth is a tensor, and `torch.where` replaces a bandwidth of 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from adaption._distances import ACCELERATOR_TILE, FEW, HUGEST, TINIEST, Rule, Span, differences, part, tiles
from adaption._median import rank_of_many
from adaption._precision import power_of_two

# Up to so many rows one kernel finds the median at once. It takes one block of threads for all distances.
_AT_ONCE = 512


def centred(features: Tensor) -> tuple[Tensor, float | Tensor]:
    """The features in float64 minus their median, because pairs far from 0 would round, and what they were divided by.

    The squares can overflow only for features that come in float64.
    """
    rows = features.double()
    size: float | Tensor = 1.0
    if features.dtype == torch.float64:
        size = power_of_two(features, torch.float64)
        rows = rows / size
    return rows - rows.median(0).values, size


def fixed(bandwidth: float, size: float | Tensor) -> float | Tensor:
    """A bandwidth that is a number, for rows that were divided by `size`."""
    found = bandwidth / size / size
    return found.clamp(TINIEST, HUGEST) if isinstance(found, Tensor) else min(max(found, TINIEST), HUGEST)


class QueuedDistances:
    """The squared distances between all rows of a matrix, with the attributes of `adaption._distances.Distances`.

    The bandwidth and the size are tensors where they depend on the features.
    """

    def __init__(self, features: Tensor, rule: Rule) -> None:
        self.tiles = tiles(len(features), ACCELERATOR_TILE)
        self.moves = isinstance(rule, str)
        self.exact = True
        self._kept: dict[tuple[Span, Span], Tensor] = {}
        self.rows, self.size = centred(features)
        self.bandwidth: float | Tensor
        if isinstance(rule, str):
            bandwidth = self._mean()
            if rule == "median":
                median, self._pair = self._median()
                self._degenerate = median == 0
                # the mean knows of every feature, the median may not see that one is not finite
                bandwidth = torch.where(self._degenerate, bandwidth, median + 0 * bandwidth)
            self.bandwidth = torch.where(bandwidth == 0, 1.0, bandwidth)
        else:
            self.bandwidth = fixed(rule, self.size)
        self._rule = rule

    def tile(self, rows: Span, columns: Span) -> Tensor:
        """Return the distances between two spans of rows."""
        if (rows, columns) not in self._kept:
            distances = differences(part(self.rows, rows), part(self.rows, columns))
            if len(self.rows) > FEW:
                return distances
            self._kept[rows, columns] = distances
        return self._kept[rows, columns]

    def add_bandwidth_gradient(self, total: Tensor, factor: float | Tensor) -> None:
        """Add `factor` times the derivative of the bandwidth with respect to the rows."""
        by_mean = 4 / (len(self.rows) - 1) * factor
        if self._rule == "median":
            ends = self.rows.index_select(0, self._pair)
            total.index_add_(0, self._pair, (ends - ends.flip(0)) * (2 * factor * ~self._degenerate))
            by_mean = by_mean * self._degenerate
        total.add_((self.rows - self.rows.mean(0)) * by_mean)

    def _mean(self) -> Tensor:
        """The mean of the distances between different rows."""
        return 2 * self.rows.var(0).sum()

    def _median(self) -> tuple[Tensor, Tensor]:
        """The median of the distances between different rows, and the two rows that have it.

        In the whole matrix each distance occurs twice, so for an even number the median is the lower one. The zeros of
        the diagonal come before all others.
        """
        number = len(self.rows)
        rank = number + (number * (number - 1) - 1) // 2
        if number <= _AT_ONCE:
            (span,) = self.tiles
            median, place = self.tile(*span).flatten().kthvalue(rank + 1)
            return median, torch.stack([place // number, place % number])
        median = rank_of_many(self._distances, rank, self.rows.device)
        pair = torch.zeros(2, dtype=torch.int64, device=self.rows.device)
        for (rows, columns), (distances, _) in zip(self.tiles, self._distances(), strict=True):
            found = (distances == median).flatten()
            index, width = found.to(torch.uint8).argmax(), columns[1] - columns[0]
            place = torch.stack([rows[0] + index // width, columns[0] + index % width])
            pair = torch.where(found.any(), place, pair)
        return median, pair

    def _distances(self) -> Iterator[tuple[Tensor, int]]:
        """The distances of each tile, and how often they occur in the whole matrix."""
        for rows, columns in self.tiles:
            yield self.tile(rows, columns), 1 if rows == columns else 2
