"""ADVENT: entropy maps of the source and of the target, before and after."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import DomainAdversarialEntropyLoss
from adaption.functional import entropy_map
from adaption.layers import SegmentationDiscriminator
from pictures.style import BAD, GOOD, HEAT, SOURCE, TARGET, bare, epochs, panels
from pictures.toys import step

EPOCHS, STEPS = 10, 8


def images(contrast: float, size: int = 4) -> tuple[Tensor, Tensor]:
    """Return squares on a dark ground; the target is pale."""
    labels = torch.zeros(size, 32, 32, dtype=torch.long)
    for image in labels:
        top, left = torch.randint(3, 14, (2,)).tolist()
        image[top : top + 14, left : left + 14] = 1
    return contrast * (labels - 0.5).unsqueeze(1) + 0.3 * torch.randn(size, 1, 32, 32), labels


def entropy(network: nn.Module, pictures: Tensor) -> Tensor:
    """Return the entropy of each pixel's prediction, in 0 to 1."""
    return entropy_map(network(pictures)).sum(1).detach()


def train(weight: float, pictures: Tensor) -> tuple[nn.Module, list[float]]:
    """Train with the adversarial term times a weight; return the network and the mean entropy of the target."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    game = DomainAdversarialEntropyLoss(SegmentationDiscriminator(num_classes=2, ndf=4))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    disc_optimizer = torch.optim.Adam(game.parameters(), lr=1e-3)
    log = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            (source, labels), (target, _) = images(2.0), images(0.5)
            game.eval()
            source_logits, target_logits = network(source), network(target)
            task = nn.functional.cross_entropy(source_logits, labels)
            step(optimizer, task + weight * game(target_logits, "source"))
            game.train()
            disc_loss = game(source_logits.detach(), "source") + game(target_logits.detach(), "target")
            step(disc_optimizer, 0.5 * disc_loss)
        log.append(entropy(network, pictures).mean().item())
    return network, log


def draw() -> Figure:
    """Maps on the left, the mean entropy on the right."""
    figure, (one, two, three, four) = panels(4, ratios=[1, 1, 1, 1.7], height=2.3)
    source, target = images(2.0, 16)[0], images(0.5, 16)[0]
    alone, flat = train(0.0, target)
    adapted, falling = train(0.1, target)
    shown = (
        (one, "source", alone, source),
        (two, "target, before", alone, target),
        (three, "target, after", adapted, target),
    )
    for axes, title, network, pictures in shown:
        axes.imshow(entropy(network, pictures)[0], cmap=HEAT, vmin=0, vmax=1)
        bare(axes, title)
        axes.set_xlabel(f"mean entropy {entropy(network, pictures).mean():.2f}")
        axes.xaxis.label.set_color(SOURCE if pictures is source else TARGET)
    epochs(four, flat, BAD, "weight 0")
    epochs(four, falling, GOOD, "with ADVENT")
    four.set(title="mean entropy of the target", ylim=(0, None))
    four.legend()
    return figure
