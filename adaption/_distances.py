r"""Squared distances between the rows of a matrix, tile by tile, and the bandwidth from them.

With centred rows, :math:`D_{ij} = |x_i|^2 + |x_j|^2 - 2 x_i^\top x_j` is one matrix product. If there are few, the
tiles of its upper triangle are stored between the median and the kernels; otherwise they are recomputed.

The bandwidth `b` depends on the rows. The median is the distance of one pair (p, q), the mean that of all pairs:

.. math:: \nabla_{x_p} b = 2 (x_p - x_q) = -\nabla_{x_q} b, \qquad
          \nabla_{x_i} b = \frac4{N - 1} \Bigl(x_i - \frac1N \sum_j x_j\Bigr).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adaption._median import Place, lower_median

Rule = str | float
Span = tuple[int, int]

# Up to so many rows the tiles are kept from the median to the kernels.
FEW = 4096
# A pilot for the median takes so many of the distances that are kept, or the distances of each row to so many others.
_PILOT, _PARTNERS = 4096, 16
# Up to so many values partitioning all of them is at least as fast as a pilot.
_PARTITION = 2**15
# Two dozen passes over a tile of half a megabyte stay in the cache. Accelerators want longer launches.
TILE = 384
ACCELERATOR_TILE = 2048
# |x|^2 + |y|^2 - 2xy loses the digits by which the bandwidth is smaller than the largest |x|^2. Below this ratio, or
# the second one for that of the narrowest kernel, the distances are taken from the differences themselves, in float64.
_SAFE_RATIO, _SAFE_NARROW_RATIO = 1 / 32, 1 / 512
# Between these bounds squared norms are far from the limits of float32, and between the others from those of float64.
_TINY, _HUGE = 1e-20, 1e20
TINIEST, HUGEST = 1e-100, 1e100


class Distances:
    """The squared distances between all rows of a matrix.

    Args:
        features: shape ``(N, d)``, with at least two rows.
        rule: ``"median"`` or ``"mean"`` of the distances between different rows, or a number.
        narrowest: the narrowest scale on which the distances will be used, in bandwidths.

    Attributes:
        tiles: the spans of rows and columns of the tiles of the upper triangle, row by row.
        rows: the centred features, in float64 and scaled where float32 is not accurate enough.
        size: what the features were divided by.
        bandwidth: in units of the rows; NaN if a feature is not finite.
        moves: whether the bandwidth depends on the rows.
        exact: whether the distances come from differences, so that only equal rows have distance 0.
    """

    def __init__(self, features: Tensor, rule: Rule, narrowest: float = 1.0) -> None:
        self.tiles = tiles(features.shape[0], TILE)
        self.size = 1.0
        self._rule = rule
        self.moves = isinstance(rule, str)
        self.exact = False
        self._kept: dict[tuple[Span, Span], Tensor] = {}
        rows = features - features[0]  # first, for equal rows to end at 0 exactly
        self.rows = rows.sub_(rows.mean(0))
        self._norms = self.rows.square().sum(1)
        largest = float(self._norms.amax())
        safe = largest * max(_SAFE_RATIO, _SAFE_NARROW_RATIO / narrowest)
        # asked of the rounded bandwidth before another takes the place of a 0
        if not (_TINY < largest < _HUGE and self._find_bandwidth() >= safe):
            self._take_differences(features.double())

    def _take_differences(self, rows: Tensor) -> None:
        """Compute distances without a product, and so without a centre that one far row could spoil."""
        self.exact = True
        self._kept = {}
        size = float(rows.abs().amax())
        if not math.isfinite(size):
            self.bandwidth = math.nan
            return
        if size and not TINIEST < size < HUGEST:
            self.size = size
            rows = rows / size
        self.rows = rows - rows.median(0).values  # pairs far from 0 would round in the gradient
        if not self._find_bandwidth() and self._rule == "median":
            self._rule = "mean"
            self._find_bandwidth()
        self.bandwidth = self.bandwidth or 1.0

    def tile(self, rows: Span, columns: Span) -> Tensor:
        """Return the distances between two spans of rows."""
        if (rows, columns) in self._kept:
            return self._kept[rows, columns]
        left, right = part(self.rows, rows), part(self.rows, columns)
        if self.exact:
            return differences(left, right)
        # Rounding below 0 does no harm: it is small beside the bandwidth, or the distances are taken directly.
        distances = torch.addmm(part(self._norms, columns), left, right.T, alpha=-2)
        return distances.add_(part(self._norms, rows).unsqueeze(1))

    def add_bandwidth_gradient(self, total: Tensor, factor: Any) -> None:
        """Add `factor` times the derivative of the bandwidth with respect to the rows."""
        if self._rule == "median":
            p, q = self._pair
            apart = self.rows[p] - self.rows[q]
            total[p].add_(apart, alpha=2 * factor)
            total[q].sub_(apart, alpha=2 * factor)
        elif self.moves:
            total.add_(self.rows - self.rows.mean(0), alpha=4 * factor / (len(self.rows) - 1))

    def _find_bandwidth(self) -> float:
        """Set the bandwidth by the rule, and return it."""
        if self._rule == "median":
            self.bandwidth, self._pair = self._median()
        elif isinstance(self._rule, str):
            # the sum over i < j of |x_i - x_j|^2 is N times that of |x_i - mean|^2
            self.bandwidth = 2 * float(self.rows.var(0).sum(dtype=torch.float64))
        else:
            self.bandwidth = min(max(self._rule / self.size / self.size, TINIEST), HUGEST)
        return self.bandwidth

    def _median(self) -> tuple[float, tuple[int, int]]:
        """The median of the distances of all pairs, and a pair that has it."""
        rows = self.rows.shape[0]
        number = rows * (rows - 1) // 2
        if rows <= FEW:
            self._kept = {spans: self.tile(*spans) for spans in self.tiles}
        if number <= _PARTITION and len(self.tiles) == 1:
            found = next(self._pairs()).median(0)
            median, place = float(found.values), (0, int(found.indices))
        else:
            median, place = lower_median(self._pairs, number, self._pilot(number))
        return median, self._pair_at(place)

    def _pair_at(self, place: Place) -> tuple[int, int]:
        """The two rows of a distance."""
        tile, index = place
        rows, columns = self.tiles[tile]
        width = columns[1] - columns[0]
        if rows != columns:
            return rows[0] + index // width, columns[0] + index % width
        # above the diagonal, counted from the end, row r has r entries: 1 + 2 + .. up to r - 1 stand behind it
        behind = width * (width - 1) // 2 - 1 - index
        row = width - 2 - (math.isqrt(8 * behind + 1) - 1) // 2
        column = width - 1 - (behind - (width - 2 - row) * (width - 1 - row) // 2)
        return rows[0] + row, columns[0] + column

    def _pairs(self) -> Iterator[Tensor]:
        """The distances of all pairs, each once, tile by tile."""
        for rows, columns in self.tiles:
            distances = self.tile(rows, columns).flatten()
            if rows == columns:
                distances = distances.index_select(0, _above_diagonal(rows[1] - rows[0], distances.device))
            yield distances

    def _pilot(self, number: int) -> Tensor:
        """The distances of a fixed sample of the pairs, in which each row occurs about equally often."""
        if self._kept:
            step = number // _PILOT | 1  # odd, so as not to walk down a column
            return torch.cat([distances[::step] for distances in self._pairs()])
        order = _fixed_order(self.rows.shape[0]).to(self.rows.device)
        rows = self.rows[order]
        return torch.cat([(rows - rows.roll(shift, 0)).square_().sum(1) for shift in range(1, _PARTNERS + 1)])


def part(tensor: Tensor, span: Span) -> Tensor:
    """``tensor[start:stop]``, without a view of the whole tensor."""
    return tensor if span == (0, tensor.shape[0]) else tensor[slice(*span)]


def tiles(number: int, step: int) -> list[tuple[Span, Span]]:
    spans = [(start, min(start + step, number)) for start in range(0, number, step)]
    return [(rows, columns) for i, rows in enumerate(spans) for columns in spans[i:]]


@functools.lru_cache(maxsize=4)  # a step of training has the sizes of the one before
def _above_diagonal(size: int, device: torch.device) -> Tensor:
    """The memory positions of the entries above the diagonal of a square matrix."""
    above = torch.triu_indices(size, size, offset=1, device=device)
    return above[0] * size + above[1]


@functools.lru_cache(maxsize=4)
def _fixed_order(number: int) -> Tensor:
    """The numbers below `number` in a fixed order that is unrelated to that of a batch."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))


def differences(left: Tensor, right: Tensor) -> Tensor:
    distances: Tensor = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square_()
    return distances
