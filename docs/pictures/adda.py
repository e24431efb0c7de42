"""ADDA: target features that move to where the source features stay, and the two games."""

from __future__ import annotations

import copy

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from adaption import AdversarialDiscriminativeLoss
from adaption.layers import DomainDiscriminator
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, bare, boundaries, epochs, grid, panels, scatter
from pictures.toys import accuracy, batch, small_net, step

SHIFT = torch.tensor([1.6, 0.8])
EPOCHS, STEPS = 12, 25


def show(axes: Axes, title: str, source_encoder: nn.Module, target_encoder: nn.Module, classifier: nn.Module) -> None:
    """Draw what both encoders say, and the classifier's boundaries."""
    (source, labels), (target, target_labels) = batch(size=120), batch(SHIFT, size=120)
    scatter(axes, source_encoder(source), SOURCE, labels, "source encoder")
    scatter(axes, target_encoder(target), TARGET, target_labels, "target encoder")
    axes.set(xlim=(-8, 14), ylim=(-9, 12))
    boundaries(axes, classifier(grid(axes)))
    bare(axes, title)
    axes.set_xlabel(f"target accuracy {accuracy(classifier(target_encoder(target)), target_labels):.0%}")


def play(source_encoder: nn.Module, target_encoder: nn.Module, disc_lr: float) -> tuple[list[float], list[float]]:
    """Play both games and return their logs."""
    torch.manual_seed(1)
    domain_disc = DomainDiscriminator(2, 32, batch_norm=False)
    disc_game, encoder_game = AdversarialDiscriminativeLoss(), AdversarialDiscriminativeLoss()
    disc_optimizer = torch.optim.Adam(domain_disc.parameters(), lr=disc_lr)
    encoder_optimizer = torch.optim.Adam(target_encoder.parameters(), lr=1e-3)
    logs: tuple[list[float], list[float]] = ([], [])
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            source, target = source_encoder(batch()[0]), target_encoder(batch(SHIFT)[0])
            logits = domain_disc(source.detach()), domain_disc(target.detach())
            step(disc_optimizer, 0.5 * (disc_game(logits[0], "source") + disc_game(logits[1], "target")))
            step(encoder_optimizer, encoder_game(domain_disc(target), "source"))
        for log, game in zip(logs, (disc_game, encoder_game), strict=True):
            log.append(game.compute().item())
            game.reset()
    return logs


def draw() -> Figure:
    """Before, after, and the logs of two runs."""
    figure, (before, after, log) = panels(3, ratios=[1, 1, 1.2], height=2.9)
    encoder, classifier = small_net(2, 32, 2), nn.Linear(2, 3)
    optimizer = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()], lr=1e-2)
    for _ in range(200):
        samples, labels = batch()
        step(optimizer, nn.functional.cross_entropy(classifier(encoder(samples)), labels))
    show(before, "step 1: a copy", encoder, encoder, classifier)
    before.legend(loc="upper left", handletextpad=0.1)
    target_encoder = copy.deepcopy(encoder)
    disc, enc = play(encoder, target_encoder, disc_lr=3e-3)
    show(after, "step 2: it moves", encoder, target_encoder, classifier)
    won = play(encoder, copy.deepcopy(encoder), disc_lr=1e-1)
    epochs(log, disc, GOOD, "discriminator's game")
    epochs(log, enc, GOOD, "encoder's game", ls="--")
    epochs(log, won[0], BAD, "discriminator too fast: its game")
    epochs(log, won[1], BAD, "the encoder's then", ls="--")
    log.axhline(torch.tensor(2.0).log().item(), color=GREY, lw=0.8)
    log.set_ylim(0, 4.4)
    log.legend(loc="upper right")
    return figure
