"""Random directions that are computed from a counter, without a random generator."""

from __future__ import annotations

import torch
from torch import Tensor

from adaption._draws import Draws

# Scales integers of 64 bits to between -1 and 1, where the inverse of the error function is finite.
_TO_OPEN_INTERVAL = (1 - 2**-22) / 2**63


class Directions(Draws):
    """Uniformly distributed directions: normal vectors, by the inverse of the error function, scaled to length 1."""

    def forward(self, width: int, number: int, features: Tensor) -> Tensor:
        """Return a matrix of that shape, with columns of length 1, for some features."""
        # in float32 for all features, so that a loss has the same ones in every precision
        uniform = self.draw(number * width, features.device).to(torch.float32).mul_(_TO_OPEN_INTERVAL)
        rows = uniform.erfinv_().view(number, width)  # normal, with mean 0 and variance 1/2
        columns: Tensor = (rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)).T
        return columns
