r"""Squared distances between the rows of a matrix, tile by tile, and the bandwidth they suggest.

With the rows moved to their mean, :math:`D_{ij} = |x_i|^2 + |x_j|^2 - 2 x_i^\top x_j` is one matrix product. The tiles
of its upper triangle are kept while the exact median needs them all, and made anew at each use beyond.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from adaption._median import lower_median

Rule = str | float
Span = tuple[int, int]

# The median is exact up to so many rows, and taken over about so many pairs beyond.
EXACT = 2048
PAIRS = 2**20
# Two dozen passes over a tile of half a megabyte stay in the cache. Accelerators want longer launches.
TILE = 384
ACCELERATOR_TILE = 2048
# |x|^2 + |y|^2 - 2xy loses the digits by which the bandwidth is smaller than the largest |x|^2. Beyond this ratio the
# distances are taken from the differences themselves, in float64.
_SAFE_RATIO = 1 / 32
# Between these bounds squared norms are far from the limits of float32, and the features are left in their own units.
_TINY, _HUGE = 1e-20, 1e20


class Distances:
    """The squared distances between all rows of a matrix.

    Args:
        features: shape ``(N, d)``, with at least two rows.
        rule: ``"median"`` or ``"mean"`` of the distances between different rows, or a number in their place.

    Attributes:
        tiles: the spans of rows and columns of the tiles of the upper triangle, row by row.
        rows: the centred and scaled features, in float64 where float32 would not do.
        size: what the features were divided by.
        bandwidth: in units of the rows; NaN if a feature is not finite.
    """

    def __init__(self, features: Tensor, rule: Rule) -> None:
        self.tiles = _tiles(features.shape[0], TILE if features.device.type == "cpu" else ACCELERATOR_TILE)
        self._direct = False
        self.bandwidth = math.nan
        largest = self._centre(features)
        if math.isfinite(largest):
            self.bandwidth = self._bandwidth(rule)
            if self.bandwidth < largest * _SAFE_RATIO:
                self._direct = True
                self._centre(features.double())
                self.bandwidth = self._bandwidth(rule)

    def _centre(self, features: Tensor) -> float:
        """Move the features to their mean, where products cancel least, and return their largest squared norm."""
        self._kept: dict[tuple[Span, Span], Tensor] = {}
        rows = features - features[0]  # first, for equal rows to end at 0 exactly
        self.rows = rows.sub_(rows.mean(0))
        self.size = 1.0
        self._norms = self.rows.square().sum(1)
        largest = float(self._norms.amax())
        if not _TINY < largest < _HUGE:
            self.size = float(self.rows.abs().amax()) or 1.0
            self._norms = self.rows.div_(self.size).square().sum(1)
            largest = float(self._norms.amax())
        return largest

    def tile(self, rows: Span, columns: Span) -> Tensor:
        """Return the distances between two spans of rows."""
        if (rows, columns) in self._kept:
            return self._kept[rows, columns]
        left, right = part(self.rows, rows), part(self.rows, columns)
        if self._direct:
            return _differences(left, right)
        # Rounding below 0 does no harm: it is small beside the bandwidth, or the distances are taken directly.
        distances = torch.addmm(part(self._norms, columns), left, right.T, alpha=-2)
        return distances.add_(part(self._norms, rows).unsqueeze(1))

    def _bandwidth(self, rule: Rule) -> float:
        if not isinstance(rule, str):
            return rule / self.size**2
        median = float(lower_median(self._pairs())) if rule == "median" else 0.0
        return median or self._mean() or 1.0

    def _mean(self) -> float:
        """The mean distance: as the x have mean 0, the sum over i < j of |x_i - x_j|^2 is N times that of |x_i|^2."""
        return 2 * float(self.rows.square().sum(dtype=torch.float64)) / (len(self.rows) - 1)

    def _pairs(self) -> Tensor:
        """The distances of all pairs, or of many."""
        if self.rows.shape[0] > EXACT:
            return self._sample()
        parts = []
        for rows, columns in self.tiles:
            self._kept[rows, columns] = tile = self.tile(rows, columns)
            parts.append(tile.flatten())
            if rows == columns:  # each pair once
                parts[-1] = parts[-1].index_select(0, _above_diagonal(tile.shape[0], tile.device))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _sample(self) -> Tensor:
        """The distances of about `PAIRS` different pairs, evenly over all rows, and the same ones each time.

        The rows are dealt like cards to an even number of hands, so that each hand is like the whole, and each hand
        meets the one next to it.
        """
        hands = 2 * math.ceil(len(self.rows) ** 2 / (4 * PAIRS))
        dealt = len(self.rows) // hands * hands
        rows = self.rows[:dealt].unflatten(0, (-1, hands)).transpose(0, 1)  # (hands, N // hands, d)
        if self._direct:
            return _differences(rows[::2], rows[1::2]).flatten()
        norms = self._norms[:dealt].unflatten(0, (-1, hands)).T
        distances = torch.baddbmm(norms[1::2, None], rows[::2], rows[1::2].mT, alpha=-2)
        return distances.add_(norms[::2, :, None]).flatten()


def part(tensor: Tensor, span: Span) -> Tensor:
    """``tensor[start:stop]``, without a view of a whole."""
    return tensor if span == (0, tensor.shape[0]) else tensor[slice(*span)]


def _tiles(number: int, step: int) -> list[tuple[Span, Span]]:
    spans = [(start, min(start + step, number)) for start in range(0, number, step)]
    return [(rows, columns) for i, rows in enumerate(spans) for columns in spans[i:]]


@functools.lru_cache(maxsize=4)  # a step of training has the sizes of the one before
def _above_diagonal(size: int, device: torch.device) -> Tensor:
    """Where the entries above the diagonal of a square stand in its memory."""
    above = torch.triu_indices(size, size, offset=1, device=device)
    return above[0] * size + above[1]


def _differences(left: Tensor, right: Tensor) -> Tensor:
    distances: Tensor = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square_()
    return distances
