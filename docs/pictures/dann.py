"""DANN: what the discriminator sees before and after, and the logged value of three runs."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from adaption import DomainAdversarialLoss
from adaption.layers import DomainDiscriminator, GradientReversalLayer, WarmStartGradientReversalLayer
from pictures.style import BAD, DOMAINS, GOOD, GREY, SOURCE, TARGET, THIRD, bare, epochs, field, grid, panels, scatter
from pictures.toys import SHIFT, batch, small_net, step

EPOCHS, STEPS = 16, 25


class Run:
    """A network with features in the plane, and DANN on them."""

    def __init__(self, grl: nn.Module) -> None:
        torch.manual_seed(0)
        self.extractor, self.classifier = small_net(2, 32, 2), nn.Linear(2, 3)
        self.dann = DomainAdversarialLoss(DomainDiscriminator(2, 32, batch_norm=False), grl=grl)
        modules = nn.ModuleList([self.extractor, self.classifier, self.dann])
        self.optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)

    def epoch(self, steps: int = STEPS) -> float:
        """Train, and return what DANN logs."""
        for _ in range(steps):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            features = self.extractor(source)
            task = nn.functional.cross_entropy(self.classifier(features), labels)
            step(self.optimizer, task + self.dann(features, self.extractor(target)))
        value: float = self.dann.compute().item()
        self.dann.reset()
        return value

    def show(self, axes: Axes, title: str) -> None:
        """Draw the features over the discriminator's probability of the target."""
        for shift, color, label in ((0.0, SOURCE, "source"), (SHIFT, TARGET, "target")):
            samples, labels = batch(shift, size=120)
            scatter(axes, self.extractor(samples), color, labels, label)
        axes.margins(0.1)
        probability = self.dann.domain_disc(grid(axes)).sigmoid()
        field(axes, probability, vmin=0, vmax=1, cmap=DOMAINS, alpha=0.5)
        bare(axes, title)


def draw() -> Figure:
    """Two looks at one run, and the logs of three."""
    figure, (before, after, log) = panels(3, ratios=[1, 1, 1.25])
    alone = Run(GradientReversalLayer(0.0))
    without = [alone.epoch() for _ in range(EPOCHS)]
    alone.show(before, "without the reversal")
    before.legend(loc="best", handletextpad=0.1)
    warm = Run(WarmStartGradientReversalLayer(alpha=10.0, max_iters=EPOCHS * STEPS, auto_step=True))
    values = [warm.epoch() for _ in range(EPOCHS)]
    warm.show(after, "with it")
    epochs(log, values, GOOD, "warm start: falls, rises, blends")
    epochs(log, without, BAD, "the features do not answer")
    torn = Run(GradientReversalLayer(20.0))
    epochs(log, [torn.epoch() for _ in range(EPOCHS)], THIRD, "reversal 20 times too strong")
    log.axhline(torch.tensor(2.0).log().item(), color=GREY, ls="--", lw=1, label="a guess: log 2")
    log.set_ylim(0, 1.9)
    log.legend()
    return figure
