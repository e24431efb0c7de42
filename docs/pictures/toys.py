"""The small world of the pictures: a few classes in the plane, and a target that is moved."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

CORNERS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
SHIFT = torch.tensor([1.2, 0.6])


def batch(shift: Tensor | float = 0.0, size: int = 64, classes: int = 3, spread: float = 0.4) -> tuple[Tensor, Tensor]:
    """Return samples and labels; classes lie at the corners, moved by the shift."""
    labels = torch.randint(classes, (size,))
    return CORNERS[labels] + shift + spread * torch.randn(size, 2), labels


def small_net(*widths: int) -> nn.Sequential:
    """Return linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of right classes."""
    return (logits.argmax(1) == labels).float().mean().item()


def leaning_logits(share: float, size: float, classes: int = 4) -> Tensor:
    """Return the logits of 400 samples, of balanced classes at a share of 0 and of the first class alone at 1."""
    spare = round(400 * (1 - share) / classes)
    counts = [400 - (classes - 1) * spare, *[spare] * (classes - 1)]
    return size * torch.eye(classes)[torch.arange(classes).repeat_interleave(torch.tensor(counts))]
