"""Sliced Wasserstein: two samples, and their sorted projections on two lines."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure

from adaption.functional import sliced_wasserstein
from pictures.style import GREY, SOURCE, TARGET, panels, scatter


def draw() -> Figure:
    """Left: the samples and two directions; right: who goes where on each of them."""
    figure, (left, *lines) = panels(3, ratios=[1, 1, 1])
    source, target = torch.randn(16, 2), 0.6 * torch.randn(16, 2) + torch.tensor([2.0, 0.5])
    scatter(left, source, SOURCE)
    scatter(left, target, TARGET)
    left.set(xticks=[], yticks=[], title="two directions")
    for axes, degrees in zip(lines, (15, 100), strict=True):
        direction = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
        left.axline((0.5, 0.0), slope=float(direction[1] / direction[0]), color=GREY, lw=1, ls="--")
        ends = [(rows @ direction).sort().values for rows in (source, target)]
        for x, y in zip(*ends, strict=True):
            axes.plot([x, y], [1, 0], color=GREY, lw=0.8, zorder=0)
        for row, (sample, color) in enumerate(zip(ends, (SOURCE, TARGET), strict=True)):
            axes.scatter(sample, torch.full((16,), 1.0 - row), s=14, c=color)
        value = sliced_wasserstein(source, target, direction[:, None])
        axes.set(yticks=[], xlabel="projection", title=f"at {degrees}°: {value:.2f}")
    return figure
