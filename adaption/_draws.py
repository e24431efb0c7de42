"""Random numbers of a module, which do not use torch's generators and continue in a resumed run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaption._modes import outside_modes
from adaption._unmoved import recomputing

_SEED = 20_190_304
BITS = 32
_MASK = 2**BITS - 1


class Draws(nn.Module):
    """Uniformly distributed numbers, new ones at each draw in training and always the same ones in evaluation.

    They are a hash of the number of draws so far and of their position. So no random generator changes, nothing is read
    from a device, and a resumed run continues with the same numbers. A refused call, whose buffers are restored, does
    not count as a draw.
    """

    draws: Tensor

    def __init__(self) -> None:
        super().__init__()
        with outside_modes():
            self.register_buffer("draws", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Restart the counter, for frameworks that allocate memory by ``to_empty``."""
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
