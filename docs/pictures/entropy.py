"""Entropy minimisation: boundaries that leave the target's clusters, and one that crosses a whole cluster."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import EntropyMinimizationLoss
from pictures.style import HEAT, TARGET, bare, boundaries, field, grid, panels, scatter
from pictures.toys import accuracy, batch, small_net, step


def train(weight: float, shift: Tensor) -> nn.Module:
    """Train a network, with the loss from the second epoch on."""
    torch.manual_seed(0)
    network, entropy = small_net(2, 32, 3), EntropyMinimizationLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for number in range(400):
        (source, labels), (target, _) = batch(), batch(shift)
        weighted = weight * (number >= 100) * entropy(network(target))
        step(optimizer, F.cross_entropy(network(source), labels) + weighted)
    return network


def panel(axes: Axes, title: str, network: nn.Module, shift: Tensor) -> None:
    """Draw target samples, boundaries and entropies over the plane of inputs."""
    samples, labels = batch(shift, size=240)
    scatter(axes, samples, TARGET, labels)
    axes.set(xlim=(-2.5, 6), ylim=(-1.5, 6))
    logits = network(grid(axes)).detach()
    field(axes, torch.special.entr(logits.softmax(1)).sum(1), cmap=HEAT, vmin=0, vmax=1.1)
    boundaries(axes, logits)
    bare(axes, title)
    axes.set_xlabel(f"target accuracy {accuracy(network(samples), labels):.0%}")


def draw() -> Figure:
    """Left: without; middle: with the loss; right: with the loss, from farther away."""
    near, far = torch.tensor([1.5, 0.8]), torch.tensor([2.3, 1.0])
    figure, axes = panels(3, height=3.0)
    runs = (("source only", 0.0, near), ("with entropy", 0.3, near), ("with entropy, farther away", 0.3, far))
    for each, (title, weight, shift) in zip(axes, runs, strict=True):
        panel(each, title, train(weight, shift), shift)
    return figure
