"""OVANet: how far each class reaches, learnt from the source alone and made certain on the target, and the log."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import OneVersusAllLoss, OpenSetEntropyLoss
from pictures.style import BAD, GOOD, GREY, HEAT, TARGET, bare, epochs, field, grid, panels, scatter
from pictures.toys import small_net, step

EPOCHS, STEPS, KNOWN = 10, 50, 6
SHIFT = torch.tensor([0.9, 0.3])
ANGLES = torch.arange(KNOWN) * 2 * math.pi / KNOWN
CENTRES = torch.cat([3 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1), torch.zeros(1, 2)])


def batch(classes: int, shift: Tensor | float, size: int = 64) -> tuple[Tensor, Tensor]:
    """Return samples and labels; classes lie on a circle, and the unknown one in its middle."""
    labels = torch.randint(classes, (size,))
    return CENTRES[labels] + shift + 0.35 * torch.randn(size, 2), labels


def target(size: int = 64) -> tuple[Tensor, Tensor]:
    """Return target samples and labels; one of seven belongs to the unknown class."""
    return batch(KNOWN + 1, SHIFT, size)


class Network(nn.Module):
    """Features, a classifier, and a pair of outputs for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.extract = nn.Sequential(small_net(2, 32, 16), nn.Tanh())
        self.classify, self.open = nn.Linear(16, KNOWN), nn.Linear(16, 2 * KNOWN)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and pairs of them."""
        features = self.extract(samples)
        return self.classify(features), self.open(features).view(-1, 2, KNOWN)

    @torch.no_grad()
    def unknown(self, samples: Tensor) -> Tensor:
        """The probability that a sample is not of the class that it is given."""
        logits, pairs = self(samples)
        return pairs.softmax(1)[torch.arange(len(logits)), 0, logits.argmax(1)]


def train(weight: float) -> tuple[Network, list[float], list[float]]:
    """Train; return the network, the entropies of the epochs, and the shares of the target that are called unknown."""
    torch.manual_seed(0)
    network, own, certain = Network(), OneVersusAllLoss(), OpenSetEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    values, shares = [], []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            source, labels = batch(KNOWN, 0.0)
            logits, pairs = network(source)
            entropy = certain(network(target()[0])[1])
            step(optimizer, F.cross_entropy(logits, labels) + own(pairs, labels) + weight * entropy)
        values.append(certain.compute().item())
        certain.reset()
        shares.append((network.unknown(target(1000)[0]) > 0.5).float().mean().item())
    return network, values, shares


def panel(axes: Axes, title: str, network: Network) -> None:
    """Draw target samples, and over the plane the probability of being unknown."""
    samples, labels = target(240)
    scatter(axes, samples[labels < KNOWN], TARGET, label="target, known")
    scatter(axes, samples[labels == KNOWN], GOOD, label="target, unknown")
    axes.set(xlim=(-4, 5.5), ylim=(-4.5, 6))
    field(axes, network.unknown(grid(axes)), cmap=HEAT, vmin=0, vmax=1.3)
    called, unknown = network.unknown(samples) > 0.5, labels == KNOWN
    right = (called[unknown].float().mean() + (~called[~unknown]).float().mean()) / 2
    bare(axes, title)
    axes.set_xlabel(f"rightly known or unknown: {right:.0%}")


def draw() -> Figure:
    """The plane without and with the target's entropy, and the log."""
    figure, (left, middle, right) = panels(3, ratios=[1.1, 1.1, 1], height=3.0)
    for axes, weight, color, name in ((left, 0.0, BAD, "source alone"), (middle, 0.3, GOOD, "with the entropy")):
        network, values, shares = train(weight)
        panel(axes, name, network)
        epochs(right, values, color, f"entropy, {name}", ls=":")
        epochs(right, shares, color, f"called unknown, {name}")
    left.legend(loc="upper left", handletextpad=0.1)
    right.axhline(1 / (KNOWN + 1), color=GREY, ls="--", lw=1, label="true share")
    right.set(title="the log", ylim=(0, 1.2))
    right.legend(loc="upper left")
    return figure
