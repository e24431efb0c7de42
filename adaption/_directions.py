"""Random directions that are computed from a counter, without a random generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adaption._draws import BITS, Draws


class Directions(Draws):
    """Uniformly distributed directions: normal vectors, by the transform of Box and Muller, scaled to length 1."""

    def forward(self, width: int, number: int, features: Tensor) -> Tensor:
        """Return a matrix of that shape, with columns of length 1, for some features."""
        half = (width * number + 1) // 2
        uniform = ((self.draw(2 * half, features.device) + 1).to(torch.float32) / 2**BITS).view(2, half)  # above 0
        lengths, angles = (-2 * uniform[0].log()).sqrt(), 2 * math.pi * uniform[1]
        normal = torch.cat([lengths * angles.cos(), lengths * angles.sin()])[: width * number].view(width, number)
        columns: Tensor = normal / torch.linalg.vector_norm(normal, dim=0)
        return columns  # in float32 for all features, so that a loss has the same ones in every precision
