"""The exact median of many values, without sorting them."""

from __future__ import annotations

import torch
from torch import Tensor

# Below so many values partitioning all of them is at least as fast.
_FEW = 2**15
_PILOT = 4096


def lower_median(values: Tensor) -> Tensor:
    """The median of a vector without NaN, of an even number the lower middle value, as :func:`torch.median` has it.

    A pilot of evenly spaced values brackets the median and the values below the bracket are counted, so that only the
    few inside have to be partitioned. A bracket of three standard deviations of the pilot's rank misses now and then,
    and more often for values in periodic order; then the median is looked for on its side. The answer is exact always.
    """
    if values.numel() <= _FEW:
        return values.median()
    rank = (values.numel() - 1) // 2
    step = values.numel() // _PILOT | 1  # odd, so as not to walk down a column of a matrix
    pilot = values[::step].sort().values
    middle, margin = len(pilot) // 2, int(1.5 * len(pilot) ** 0.5)
    low, high = pilot[middle - margin], pilot[middle + margin]
    # A comparison into floats, summed, is four times faster than one into booleans, counted.
    below = int(torch.lt(values, low, out=torch.empty_like(values)).sum())
    if rank < below:
        return values[values < low].kthvalue(rank + 1).values
    inside = values[(values >= low) & (values <= high)]
    if rank < below + inside.numel():
        return inside.kthvalue(rank - below + 1).values
    return values[values > high].kthvalue(rank - below - inside.numel() + 1).values
