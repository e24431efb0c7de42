"""Random numbers of a module's own, which torch's generators and a resumed run know nothing of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaption._modes import outside_modes
from adaption._unmoved import recomputing

_SEED = 20_190_304
BITS = 32
_MASK = 2**BITS - 1


class Draws(nn.Module):
    """Evenly distributed numbers, new ones at each draw in training and always the same ones elsewhere.

    They are a function of how often they were drawn: a hash of it and of their place. So no generator is touched,
    nothing is read from a device, and a run that is resumed goes on with the numbers it would have had. A call that is
    refused, and so put back, has drawn none.
    """

    draws: Tensor

    def __init__(self) -> None:
        super().__init__()
        with outside_modes():
            self.register_buffer("draws", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Begin anew, as a framework asks for whose memory came from ``to_empty``."""
        self.draws.zero_()

    def draw(self, number: int, device: torch.device) -> Tensor:
        """Integers from 0 to below 2^32."""
        if self.training and not recomputing():
            with outside_modes():
                self.draws.add_(1)
        count = self.draws if self.training else torch.zeros_like(self.draws)
        return _hashed(torch.arange(number, device=device) + _hashed(count.to(device) + _SEED))


def _hashed(number: Tensor) -> Tensor:
    """Scatter integers over those of 32 bits. Products stay below 2^63."""
    for _ in range(2):
        number = (number >> 16).bitwise_xor_(number).mul_(0x45D9F3B).bitwise_and_(_MASK)
    return (number >> 16).bitwise_xor_(number)
