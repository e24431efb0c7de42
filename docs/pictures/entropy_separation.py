"""DANCE: the loss over the entropy, and the entropies of known and unknown samples, without and with it."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import EntropySeparationLoss
from adaption.functional import entropy_minimization, entropy_separation
from pictures.style import GOOD, GREY, HEAT, TARGET, bare, boundaries, field, grid, panels, scatter
from pictures.toys import batch, small_net, step

KNOWN, MARGIN = 3, 0.2
SHIFT = torch.tensor([0.9, 0.3])
MIDDLE = torch.tensor([0.0, 0.8])  # where the unknown class lies


def target(size: int = 64) -> tuple[Tensor, Tensor]:
    """Return target samples and labels; a third belongs to the unknown class."""
    samples, labels = batch(SHIFT, size, spread=0.3)
    labels[: size // 3] = KNOWN
    samples[: size // 3] = MIDDLE + SHIFT + 0.3 * torch.randn(size // 3, 2)
    return samples, labels


def train(weight: float) -> nn.Module:
    """Train a network, with the loss from the second epoch on."""
    torch.manual_seed(0)
    network, separation = small_net(2, 32, KNOWN), EntropySeparationLoss(KNOWN, margin=MARGIN)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for number in range(500):
        source, labels = batch(spread=0.3)
        weighted = weight * (number >= 100) * separation(network(target()[0]))
        step(optimizer, F.cross_entropy(network(source), labels) + weighted)
    return network


def panel(axes: Axes, title: str, network: nn.Module) -> None:
    """Draw target samples, boundaries and entropies over the plane of inputs."""
    samples, labels = target(240)
    scatter(axes, samples[labels < KNOWN], TARGET, label="target, known")
    scatter(axes, samples[labels == KNOWN], GOOD, label="target, unknown")
    axes.set(xlim=(-3.5, 5), ylim=(-1.8, 6))
    logits = network(grid(axes)).detach()
    field(axes, entropy_minimization(logits, reduction="none"), cmap=HEAT, vmin=0, vmax=1.4)
    boundaries(axes, logits)
    above = entropy_minimization(network(samples), reduction="none") > math.log(KNOWN) / 2
    unknown = labels == KNOWN
    right = (above[unknown].float().mean() + (~above[~unknown]).float().mean()) / 2
    bare(axes, title)
    axes.set_xlabel(f"on the right side of log(K) / 2: {right:.0%}")


def draw() -> Figure:
    """The loss; the plane without it; the plane with it."""
    figure, (left, middle, right) = panels(3, ratios=[1, 1.2, 1.2], height=3.0)
    gaps = torch.linspace(-1, 12, 400, dtype=torch.float64)  # of one class before the others: all entropies
    logits = torch.stack([gaps, *[torch.zeros_like(gaps)] * (KNOWN - 1)], dim=1)
    values = [entropy_separation(z[None], margin=MARGIN) for z in logits]
    left.plot(entropy_minimization(logits, reduction="none"), values, color=GREY)
    left.axvline(math.log(KNOWN) / 2, ymax=0.8, color=GREY, ls="--", lw=1)
    left.text(math.log(KNOWN) / 2, 0.04, "log(K) / 2", ha="center")
    left.set(xlabel="entropy of a sample", title="the loss", ylim=(-0.6, 0.12))
    panel(middle, "source only", train(0.0))
    panel(right, "with entropy separation", train(0.3))
    middle.legend(loc="upper left", handletextpad=0.1)
    return figure
