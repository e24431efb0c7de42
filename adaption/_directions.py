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
        # in float32 for all features, so that a loss has the same ones in every precision
        uniform = self.draw(2 * half, features.device).add_(1).to(torch.float32).div_(2**BITS)  # above 0
        lengths, angles = uniform[:half].log_().mul_(-2).sqrt_(), uniform[half:].mul_(2 * math.pi)
        normal = torch.cat([angles.cos().mul_(lengths), angles.sin_().mul_(lengths)])[: width * number]
        rows = normal.view(width, number).T.contiguous()  # each in one piece, as samples are
        columns: Tensor = (rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)).T
        return columns
