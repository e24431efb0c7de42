"""DALN: singular values of both domains' predictions without and with the reversal, and the logs of three runs."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from adaption import NuclearWassersteinDiscrepancyLoss
from adaption.layers import GradientReversalLayer
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, THIRD, epochs, panels
from pictures.toys import batch, small_net, step

EPOCHS, STEPS = 12, 25
SHIFT = torch.tensor([1.6, 0.8])


class Run:
    """A network whose classifier tells the domains apart."""

    def __init__(self, strength: float) -> None:
        torch.manual_seed(0)
        self.extractor, self.classifier = small_net(2, 32, 8), nn.Linear(8, 3)
        self.reverse, self.discrepancy = GradientReversalLayer(strength), NuclearWassersteinDiscrepancyLoss()
        modules = nn.ModuleList([self.extractor, self.classifier])
        self.optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2, betas=(0.5, 0.999))

    def epoch(self) -> float:
        """Train, and return what is logged."""
        for _ in range(STEPS):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            features = self.extractor(torch.cat([source, target]))
            task = nn.functional.cross_entropy(self.classifier(features[: len(source)]), labels)
            logits = self.classifier(self.reverse(features)).split(len(source))
            step(self.optimizer, task + self.discrepancy(*logits))
        value: float = self.discrepancy.compute().item()
        self.discrepancy.reset()
        return value

    def show(self, axes: Axes, title: str) -> None:
        """Draw the singular values of both domains side by side."""
        for side, (shift, color, label) in enumerate(((0.0, SOURCE, "source"), (SHIFT, TARGET, "target"))):
            p = self.classifier(self.extractor(batch(shift, size=600)[0])).softmax(1).detach()
            values = torch.linalg.svdvals(p) / p.numel() ** 0.5
            places = torch.arange(3) + 1 + 0.4 * (side - 0.5)
            axes.bar(places, values, width=0.38, color=color, label=f"{label}, norm {values.sum():.2f}")
        axes.set(xticks=range(1, 4), xlabel="singular value", title=title, ylim=(0, 0.62))
        axes.legend(loc="upper right")


def draw() -> Figure:
    """Two looks at predictions, and the logs of three runs."""
    figure, (before, after, log) = panels(3, ratios=[1, 1, 1.25])
    for strength, axes, title, color, label in (
        (0.0, before, "without the reversal", BAD, "the features do not answer"),
        (1.0, after, "with it", GOOD, "with the reversal: the gap closes"),
        (30.0, None, "", THIRD, "reversal 30 times too strong"),
    ):
        run = Run(strength)
        epochs(log, [run.epoch() for _ in range(EPOCHS)], color, label)
        if axes is not None:
            run.show(axes, title)
    log.axhline(0, color=GREY, ls="--", lw=1)
    log.set_ylim(top=0.75)
    log.legend(loc="upper left")
    return figure
