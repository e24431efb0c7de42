"""Looking at a network without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Without gradients and in evaluation mode; afterwards every submodule is in the mode it was in."""
    if not isinstance(network, nn.Module):
        with torch.no_grad():
            yield
        return
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(modes[0][1])
        for module, training in modes:  # some may have been in another mode than the whole
            module.training = training
