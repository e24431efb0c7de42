"""IWAN: the weights of source samples beside the density ratio, and how many samples they leave."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import DomainAdversarialLoss, ImportanceWeightModule
from adaption.layers import DomainDiscriminator
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, epochs, panels
from pictures.toys import step

EPOCHS, STEPS = 12, 20


def source(size: int) -> Tensor:
    """Return two clusters."""
    return torch.where(torch.rand(size, 1) < 0.5, -2.0, 1.0) + 0.7 * torch.randn(size, 1)


def target(size: int) -> Tensor:
    """Return one cluster, near one of the source's."""
    return 1.5 + 0.7 * torch.randn(size, 1)


def ratio(x: Tensor) -> Tensor:
    """Return the target's density over that of the even mixture of both domains, which a perfect discriminator has."""
    peak = [torch.exp(-((x - centre) ** 2) / (2 * 0.7**2)) for centre in (-2.0, 1.0, 1.5)]
    return peak[2] / (peak[2] + 0.5 * (peak[0] + peak[1]))


def learn(train: tuple[Tensor, Tensor] | None, lr: float) -> tuple[nn.Module, list[float]]:
    """Train the first discriminator, on fresh batches or on a few samples; return it and the effective shares."""
    torch.manual_seed(0)
    loss = DomainAdversarialLoss(DomainDiscriminator(1, 64, batch_norm=False))
    importance = ImportanceWeightModule(loss.domain_disc)
    optimizer, log = torch.optim.Adam(loss.parameters(), lr=lr), []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            step(optimizer, loss(*(train or (source(64), target(48)))))
        weights = importance.get_importance_weight(source(400) if train is None else train[0])
        log.append((weights.sum() ** 2 / weights.square().sum() / len(weights)).item())
    return loss.domain_disc, log


def draw() -> Figure:
    """Left: weights; right: the effective share of the source."""
    figure, (left, right) = panels(2, ratios=[1.25, 1])
    discriminator, log = learn(None, lr=5e-3)
    _, vain = learn((source(64) - 1.5, target(48) + 1.5), lr=5e-3)
    x = source(300)
    weights = ImportanceWeightModule(discriminator).get_importance_weight(x)
    for sample, color, label in ((source(2000), SOURCE, "source"), (target(2000), TARGET, "target")):
        left.hist(sample.flatten().numpy(), bins=40, range=(-4.5, 4), density=True, color=color, alpha=0.4, label=label)
    left.scatter(x, weights, s=9, color=GREY, lw=0, label="weight of a source sample")
    places = torch.linspace(-4.5, 4, 200).unsqueeze(1)
    left.plot(
        places, ratio(places) / ratio(source(20000)).mean(), color=GREY, lw=1, ls="--", label="with the true densities"
    )
    left.set(xlabel="feature", title="the weights")
    left.legend(loc="upper left")
    epochs(right, log, GOOD, "works")
    epochs(right, vain, BAD, "fails: domains too far apart")
    right.axhline(0.25, color=GREY, ls="--", lw=1)
    right.set(title="effective share of the source samples", ylim=(0, 1.05))
    right.legend()
    return figure
