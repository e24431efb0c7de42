"""OSBP: the compromise t, the probability of the unknown class over the plane, and the share called unknown."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import UnknownClassBinaryCrossEntropy
from adaption.functional import unknown_class_binary_cross_entropy
from adaption.layers import WarmStartGradientReversalLayer
from pictures.style import BAD, GOOD, GREY, HEAT, SOURCE, TARGET, THIRD, bare, epochs, field, grid, panels, scatter
from pictures.toys import batch, step

EPOCHS, STEPS, KNOWN = 14, 25, 3
SHIFT = torch.tensor([0.5, 0.3])
STRANGE = torch.tensor([3.5, 4.0])  # where the unknown class lies


def target(size: int = 64) -> tuple[Tensor, Tensor]:
    """Return target samples and labels; a third belongs to the unknown class."""
    samples, labels = batch(SHIFT, size)
    labels[: size // 3] = KNOWN
    samples[: size // 3] = STRANGE + 0.4 * torch.randn(size // 3, 2)
    return samples, labels


def run(t: float) -> tuple[nn.Module, list[float], list[float]]:
    """Train; return the network, the logged values, and the share of the target that is called unknown."""
    torch.manual_seed(0)
    extractor = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
    classifier = nn.Linear(16, KNOWN + 1)
    reverse = WarmStartGradientReversalLayer(alpha=10.0, hi=0.3, max_iters=EPOCHS * STEPS, auto_step=True)
    osbp = UnknownClassBinaryCrossEntropy(t)
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], lr=5e-3)
    values, shares = [], []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            source, labels = batch()
            task = nn.functional.cross_entropy(classifier(extractor(source)), labels)
            step(optimizer, task + osbp(classifier(reverse(extractor(target()[0])))))
        values.append(osbp.compute().item())
        osbp.reset()
        called = classifier(extractor(target(600)[0])).argmax(1)
        shares.append((called == KNOWN).float().mean().item())
    return nn.Sequential(extractor, classifier), values, shares


def draw() -> Figure:
    """The loss, the plane, the log."""
    figure, (left, middle, right) = panels(3, ratios=[1, 1.1, 1.2])
    places = torch.linspace(0.01, 0.99, 99)
    for t, color in ((0.2, SOURCE), (0.5, GREY), (0.8, THIRD)):
        losses = [unknown_class_binary_cross_entropy(torch.tensor([[math.log(1 - p), math.log(p)]]), t) for p in places]
        left.plot(places, losses, color=color, label=f"t = {t}")
        left.plot(t, min(losses), "o", color=color)
    left.set(xlabel="p of the unknown class", title="the loss: least at t", ylim=(0, 3.2))
    left.legend(loc="upper center")
    network, values, shares = run(0.5)
    scatter(middle, batch(size=90)[0], SOURCE, label="source")
    samples, labels = target(120)
    scatter(middle, samples[labels < KNOWN], TARGET, label="target, known")
    scatter(middle, samples[labels == KNOWN], GOOD, label="target, unknown")
    middle.set(xlim=(-3.5, 5.5), ylim=(-1.8, 7.8))
    field(middle, network(grid(middle)).softmax(1)[:, KNOWN], cmap=HEAT, vmin=0, vmax=1.3)
    bare(middle, "p of the unknown class")
    middle.legend(loc="upper left", handletextpad=0.1)
    epochs(right, values, GREY, "the loss, t = 0.5")
    epochs(right, shares, GOOD, "share called unknown, t = 0.5")
    epochs(right, run(0.02)[2], BAD, "the share, t = 0.02")
    right.axhline(1 / 3, color=GREY, ls="--", lw=1, label="true share")
    right.set(title="the log", ylim=(-0.05, 1.75))
    right.legend(loc="upper left")
    return figure
