"""JDOT: the plan of features alone, and that of features and labels."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption._transport import Transport, scale, solve, squared_distances
from pictures.style import GREY, SOURCE, TARGET, bare, panels, scatter


def draw() -> Figure:
    """Left: features decide; right: labels, too."""
    figure, both = panels(2, height=2.9)
    labels, classes = torch.arange(12) % 2, torch.arange(10) % 2
    places = torch.tensor([[0.0, 0.0], [0.0, 2.2]])
    source = places[labels] + 0.35 * torch.randn(12, 2)
    turned = torch.tensor([[2.6, 1.6], [3.4, -0.4]])  # the upper class of the source is the lower one of the target
    target = turned[classes] + 0.35 * torch.randn(10, 2)
    weights = torch.full((12,), 1 / 12), torch.full((10,), 1 / 10)
    for axes, label_weight, title in ((both[0], 0.0, "features alone"), (both[1], 20.0, "features and labels")):
        cost = squared_distances(source, target) + label_weight * (labels[:, None] != classes)
        problem = Transport(cost / (0.02 * scale(cost, *weights)), *weights)
        solve([problem], 500)
        plan = problem.plan() / problem.plan().amax()
        for start, row in zip(source, plan, strict=True):
            for end, share in zip(target, row.tolist(), strict=True):
                axes.plot(*torch.stack([start, end]).T, color=GREY, alpha=share, lw=1.2, zorder=0)
        scatter(axes, source, SOURCE, labels)
        scatter(axes, target, TARGET, classes)
        bare(axes, title)
    return figure
