"""CDAN: the multilinear map, and what a discriminator finds on it when classes changed places."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption import ConditionalDomainAdversarialLoss, DomainAdversarialLoss
from adaption.layers import DomainDiscriminator, MultiLinearMap
from pictures.style import BAD, GOOD, GREY, HEAT, epochs, panels
from pictures.toys import CORNERS, step

EPOCHS, STEPS = 12, 15


def swapped(size: int, turn: int) -> tuple[Tensor, Tensor]:
    """Return features and logits of three classes; class k lies at corner k + turn."""
    labels = torch.randint(3, (size,))
    features = CORNERS[(labels + turn) % 3] + 0.4 * torch.randn(size, 2)
    return features, 4.0 * torch.nn.functional.one_hot(labels, 3) + 0.5 * torch.randn(size, 3)


def discriminator_log(name: str) -> list[float]:
    """Train a discriminator on fixed features and return its loss per epoch."""
    torch.manual_seed(0)
    dann = DomainAdversarialLoss(DomainDiscriminator(2, 32, batch_norm=False))
    cdan = ConditionalDomainAdversarialLoss(DomainDiscriminator(6, 32, batch_norm=False))
    metric = dann if name == "DANN" else cdan
    optimizer, log = torch.optim.Adam(metric.parameters(), lr=5e-3), []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            (source, source_logits), (target, target_logits) = swapped(64, 0), swapped(64, 1)
            step(
                optimizer,
                dann(source, target) if name == "DANN" else cdan(source_logits, source, target_logits, target),
            )
        log.append(metric.compute().item())
        metric.reset()
    return log


def draw() -> Figure:
    """Left: the map of twelve samples; right: the loss of two discriminators on swapped classes."""
    figure, (left, right) = panels(2, ratios=[1.2, 1])
    labels = torch.arange(3).repeat_interleave(4)
    features = torch.stack([torch.linspace(0.3, 1, 5).roll(2 * i) for i in range(12)])
    logits = 4.0 * torch.nn.functional.one_hot(labels, 3) + torch.randn(12, 3)
    product = MultiLinearMap()(features, logits.softmax(1))
    left.imshow(product, cmap=HEAT, aspect="auto", interpolation="nearest")
    for edge in (4.5, 9.5):
        left.axvline(edge, color=GREY, lw=0.8)
    left.set(yticks=[1.5, 5.5, 9.5], yticklabels=["predicted A", "predicted B", "predicted C"])
    left.set(xticks=[2, 7, 12], xticklabels=["f · p(A)", "f · p(B)", "f · p(C)"], title="T(f, g) of twelve samples")
    left.spines[:].set_visible(True)
    left.tick_params(length=0)
    for name, color, label in (("DANN", BAD, "DANN sees features"), ("CDAN", GOOD, "CDAN sees features per class")):
        epochs(right, discriminator_log(name), color, label)
    right.axhline(torch.tensor(2.0).log().item(), color=GREY, ls="--", lw=1, label="a guess: log 2")
    right.set(title="the discriminator's loss, classes swapped", ylim=(0, 0.95))
    right.legend()
    return figure
