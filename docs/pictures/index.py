"""The landing page: the features of two domains before, during and after adaptation."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import MaximumMeanDiscrepancyLoss
from pictures.style import SOURCE, TARGET, bare, boundaries, grid, panels, scatter
from pictures.toys import accuracy, batch, small_net, step

Samples = tuple[Tensor, Tensor]
SHIFT = torch.tensor([1.9, 0.9])


def draw() -> Figure:
    """Train on the source alone, then with MMD; stop three times."""
    extractor, classifier, mmd = small_net(2, 64, 2), small_net(2, 3), MaximumMeanDiscrepancyLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], lr=5e-3)
    stops = {250: "trained on the source alone", 290: "a few steps with MMD", 700: "adapted"}
    figure, axes = panels(3, height=3.0)
    seen = iter(axes)
    shown, shown_target = batch(size=200), batch(SHIFT, size=200)
    for number in range(1, 701):
        (source, labels), (target, _) = batch(), batch(SHIFT)
        features = extractor(source)
        loss = torch.nn.functional.cross_entropy(classifier(features), labels)
        if number > 250:
            loss = loss + 2.0 * mmd(features, extractor(target))
        step(optimizer, loss)
        if number in stops:
            panel(next(seen), stops[number], nn.Sequential(extractor, classifier), shown, shown_target)
    axes[0].legend(loc="lower left", handletextpad=0.2)
    return figure


def panel(axes: Axes, title: str, network: nn.Sequential, source: Samples, target: Samples) -> None:
    """Draw the features of both domains and the classifier's boundaries."""
    for (samples, labels), color, name in ((source, SOURCE, "source"), (target, TARGET, "target")):
        scatter(axes, network[0](samples), color, labels, name)
    axes.margins(0.12)
    boundaries(axes, network[1](grid(axes, 120)))
    right = accuracy(network(target[0]), target[1])
    bare(axes, title)
    axes.set_xlabel(f"target accuracy {right:.0%}")
