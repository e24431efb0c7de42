"""MCC: the class confusion of a network trained on the source alone, the same with the loss, and the epoch value."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import MinimumClassConfusionLoss
from pictures.style import BAD, GOOD, HEAT, epochs, panels
from pictures.toys import accuracy, batch, small_net, step

SHIFT = torch.tensor([1.9, 0.9])


def train(weight: float) -> tuple[nn.Module, list[float]]:
    """Train, the loss from the second epoch on; return the network and the logged values."""
    torch.manual_seed(0)
    network, confusion, values = small_net(2, 32, 3), MinimumClassConfusionLoss(), []
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for epoch in range(5):
        for _ in range(100):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            step(
                optimizer, F.cross_entropy(network(source), labels) + weight * (epoch > 0) * confusion(network(target))
            )
        values.append(confusion.compute().item())
        confusion.reset()
    return network, values


def draw() -> Figure:
    """Left and middle: the matrices; right: the logged values."""
    figure, (left, middle, right) = panels(3, ratios=[1, 1, 1.4], height=2.9)
    samples, labels = batch(SHIFT, size=2000)
    for axes, weight, color, name in ((left, 0.0, BAD, "source only"), (middle, 1.0, GOOD, "with MCC")):
        network, values = train(weight)
        logits = network(samples).detach()
        matrix(axes, (logits / 2.5).softmax(1), f"{name}, accuracy {accuracy(logits, labels):.0%}")
        epochs(right, values, color, name)
    right.set_ylim(bottom=0)
    right.legend()
    return figure


def matrix(axes: Axes, p: Tensor, title: str) -> None:
    """Draw how much of each class is confused with which."""
    weights = 1 + (p * p.log()).sum(1, keepdim=True).exp()
    confusion = p.T @ (weights * p)
    confusion = confusion / confusion.sum(1, keepdim=True)
    axes.imshow(confusion, cmap=HEAT, vmin=0, vmax=2)
    for row, values in enumerate(confusion.tolist()):
        for column, value in enumerate(values):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center")
    axes.set(xticks=range(3), yticks=range(3), xlabel="class", ylabel="class", title=title)
