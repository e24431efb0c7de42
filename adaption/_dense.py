r"""The quadratic form :math:`w^\top K w` of `_kernels` and its gradient from whole matrices, for accelerators.

There a step on a small batch takes as long as its kernel launches, so each layer is computed at once, in float64 and by
differences, as in `_queued`. With the exponentials :math:`e_s = e^{-c_s D / b}` of the k kernels,
:math:`S = \sum_s c_s e_s` and :math:`Q = (W W^\top) \circ S`, which the kernels of other layers multiply,

.. math:: \nabla_{x_i} F = -\frac4{k b} \sum_j Q_{ij} (x_i - x_j)

at a constant bandwidth. A bandwidth from the data is a mean of some distances, :math:`b = \sum_{ij} B_{ij} D_{ij}`: of
those that equal the median, or of all. Then :math:`Q - a B` replaces `Q`, where
:math:`a = \sum_{ij} Q_{ij} D_{ij} / b`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from adaption._distances import Rule, differences
from adaption._queued import centred, fixed

# Up to so many rows the median is found by one kernel, and up to so many kernels of them are in memory side by side.
_ROWS, _KERNELS = 512, 10


def fits(number: int, num_kernels: Sequence[int]) -> bool:
    """Whether whole matrices are worth their memory."""
    return number <= _ROWS and max(num_kernels) <= _KERNELS


def dense_form(
    layers: Sequence[Tensor], weights: Tensor, num_kernels: Sequence[int], rules: Sequence[Rule], needed: Sequence[bool]
) -> list[Tensor]:
    """``trace(W' K W)``, and the gradients of the weights and of the layers where they are needed."""
    w = weights.double()
    pairs = w @ w.T
    found = [_Layer(*settings) for settings in zip(layers, rules, num_kernels, strict=True)]
    kernels = [layer.kernel for layer in found]
    kernel = functools.reduce(torch.mul, kernels)
    results = [torch.dot(pairs.flatten(), kernel.flatten()).clamp_(min=0).to(weights.dtype)]
    if needed[0]:
        results.append((2 * kernel @ w).to(weights.dtype))
    for index, (layer, features) in enumerate(zip(found, layers, strict=True)):
        if needed[1 + index]:
            others = kernels[:index] + kernels[index + 1 :]
            results.append(layer.gradient(functools.reduce(torch.mul, others, pairs)).to(features.dtype))
    return results


class _Layer:
    """The distances of a layer, its kernel, and the sum S."""

    def __init__(self, features: Tensor, rule: Rule, num_kernels: int) -> None:
        self._rows, self._size = centred(features)
        self._rule = rule
        self._number = len(features) * (len(features) - 1)
        self._distances = differences(self._rows, self._rows)
        self._bandwidth = self._find_bandwidth()
        exponents, sums = _kernels_of(num_kernels, features.device)
        self._scaled = self._distances / self._bandwidth
        powers = (exponents * self._scaled).exp2_()
        self.kernel, self._slope = (sums @ powers.flatten(1)).view(2, *self._scaled.shape).unbind()

    def _find_bandwidth(self) -> Tensor | float:
        if not isinstance(self._rule, str):
            return fixed(self._rule, self._size)
        bandwidth = self._distances.sum() / self._number
        if self._rule == "median":
            # each distance stands twice in the matrix, and the zeros of the diagonal come before all
            rank = len(self._rows) + (self._number - 1) // 2
            self._median = self._distances.flatten().kthvalue(rank + 1).values
            self._degenerate = self._median == 0
            bandwidth = torch.where(self._degenerate, bandwidth, self._median)
        return bandwidth.clamp_(min=torch.finfo(bandwidth.dtype).tiny)  # 0 where all distances are

    def gradient(self, pairs: Tensor) -> Tensor:
        """The gradient with respect to the features of the sum of the kernel's entries times `pairs`."""
        pull = pairs * self._slope
        pull.masked_fill_(self._distances == 0, 0)  # or a huge slope would multiply rounding
        if isinstance(self._rule, str):
            along = torch.dot(pull.flatten(), self._scaled.flatten())
            if self._rule == "median":
                alike = torch.eq(self._distances, self._median, out=torch.empty_like(pull))
                pull.addcmul_(alike, along / alike.sum(), value=-1)
                along = along * self._degenerate
            pull.sub_(along / self._number)
        gradient = torch.addcmul(pull @ self._rows, pull.sum(1, keepdim=True), self._rows, value=-1)
        gradient /= self._bandwidth
        return gradient if isinstance(self._size, float) else gradient / self._size


@functools.lru_cache(maxsize=8)
def _kernels_of(number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The exponents of two, per ``D / b``, and the rows that combine the powers into the kernel and ``4 S / k``."""
    scales = [2.0 ** (s - number // 2) for s in range(number)]
    exponents = torch.tensor([-scale / math.log(2) for scale in scales], dtype=torch.float64, device=device)
    rows = [[1 / number] * number, [4 * scale / number for scale in scales]]
    return exponents.view(-1, 1, 1), torch.tensor(rows, dtype=torch.float64, device=device)
