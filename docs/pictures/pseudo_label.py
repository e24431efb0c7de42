"""Pseudo labels: which target samples a network is confident of, before and after, and their share by the epoch."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from adaption import PseudoLabelLoss
from pictures.style import BAD, GOOD, GREY, TARGET, bare, boundaries, grid, panels, scatter
from pictures.toys import accuracy, batch, small_net, step

SHIFT = torch.tensor([1.5, 0.8])


def draw() -> Figure:
    """Train on the source, then with pseudo labels; log the share of confident samples and the accuracy."""
    figure, (left, middle, right) = panels(3, height=3.0)
    network, pseudo_label = small_net(2, 32, 3), PseudoLabelLoss(0.9)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    shares, accuracies = [], []
    samples, labels = batch(SHIFT, size=240)
    for epoch in range(8):
        for _ in range(50):
            (source, source_labels), (target, _) = batch(), batch(SHIFT)
            with torch.no_grad():
                weak = network(target)
            loss = pseudo_label(network(target + 0.4 * torch.randn_like(target)), weak)
            step(optimizer, F.cross_entropy(network(source), source_labels) + (epoch >= 2) * loss)
        shares.append(pseudo_label.confident_share.item())
        accuracies.append(accuracy(network(samples), labels))
        pseudo_label.reset()
        if epoch == 1:
            panel(left, "before", network, samples)
    panel(middle, "after", network, samples)
    left.legend(loc="upper left", handletextpad=0.2)
    right.plot(range(1, 9), shares, color=TARGET, label="confident share")
    right.plot(range(1, 9), accuracies, color=GOOD, label="target accuracy")
    right.axvline(2.5, color=GREY, ls=":", lw=1)
    right.set(xlabel="epoch", title="the share to log", ylim=(0, 1.05))
    right.legend(loc="lower right")
    return figure


def panel(axes: Axes, title: str, network: nn.Module, samples: torch.Tensor) -> None:
    """Draw confident and other target samples, and the boundaries."""
    confident = network(samples).softmax(1).amax(1) >= 0.9
    scatter(axes, samples[confident], GOOD, label="confident")
    scatter(axes, samples[~confident], BAD, label="not confident")
    axes.set(xlim=(-2.5, 5), ylim=(-1.5, 6))
    boundaries(axes, network(grid(axes)))
    bare(axes, title)
