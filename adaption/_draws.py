"""Random numbers of a module, which do not use torch's generators and continue in a resumed run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaption._modes import outside_modes
from adaption._unmoved import recomputing

_SEED = 20_190_304
# The constants of SplitMix64 (Steele et al. 2014) as signed integers; a product keeps its lowest 64 bits. The first is
# 2^64 over the golden ratio: its multiples lie far apart, so that different draws hash different integers.
_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


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
        """Integers of 64 bits, of which the highest ones are random."""
        if self.training and not recomputing():
            with outside_modes():
                self.draws.add_(1)
        # a 0 of the buffer: with a new one torch.compile would compute all integers beforehand, beyond 64 bits
        count = self.draws if self.training else self.draws & 0
        places = torch.arange(_SEED, _SEED + number, device=device).add_(count.to(device), alpha=_STEP).mul_(_FIRST)
        return (places >> 32).bitwise_xor_(places).mul_(_SECOND)
