"""Random directions that follow from a count, and from no generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from adaption._modes import outside_modes
from adaption._unmoved import recomputing

_SEED = 20_190_304
_MASK = 2**32 - 1


class Directions(nn.Module):
    """Directions that are evenly distributed, new ones at each call in training and always the same ones elsewhere.

    They are a function of how often they were drawn: a hash of it and of the place in the matrix, made normal by the
    transform of Box and Muller. So no generator is touched, nothing is read from a device, and a run that is resumed
    goes on with the directions it would have had.
    """

    draws: Tensor

    def __init__(self) -> None:
        super().__init__()
        with outside_modes():
            self.register_buffer("draws", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Begin anew, as a framework asks for whose memory came from ``to_empty``."""
        self.draws.zero_()

    def forward(self, width: int, number: int, features: Tensor) -> Tensor:
        """Return a matrix of that shape, with columns of length 1, for some features."""
        if not self.training:
            return _drawn(torch.zeros_like(self.draws), width, number, features)
        if not recomputing():
            self.draws.add_(1)
        return _drawn(self.draws, width, number, features)


@torch.no_grad()
def _drawn(count: Tensor, width: int, number: int, features: Tensor) -> Tensor:
    half = (width * number + 1) // 2
    places = torch.arange(2 * half, device=features.device)
    bits = _hashed(places + _hashed(count.to(features.device) + _SEED))
    uniform = ((bits + 1).to(torch.float32) / 2**32).view(2, half)  # above 0
    lengths, angles = (-2 * uniform[0].log()).sqrt(), 2 * math.pi * uniform[1]
    normal = torch.cat([lengths * angles.cos(), lengths * angles.sin()])[: width * number].view(width, number)
    columns: Tensor = normal / torch.linalg.vector_norm(normal, dim=0)
    return columns  # in float32 for all features, so that a loss has the same ones in every precision


def _hashed(number: Tensor) -> Tensor:
    """Scatter integers over those of 32 bits. Products stay below 2^63."""
    for _ in range(2):
        number = (number >> 16).bitwise_xor_(number).mul_(0x45D9F3B).bitwise_and_(_MASK)
    return (number >> 16).bitwise_xor_(number)
