"""Sinkhorn divergence: a plan between two samples, and values over their distance beside MMD."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption._transport import Transport, scale, solve, squared_distances
from adaption.functional import maximum_mean_discrepancy, sinkhorn_divergence
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, bare, panels, scatter


def draw() -> Figure:
    """Left: who goes where; right: what each distance sees."""
    figure, (left, right) = panels(2, ratios=[1, 1.2])
    source, target = torch.randn(14, 2), 0.5 * torch.randn(12, 2) + torch.tensor([4.0, 1.0])
    weights = torch.full((14,), 1 / 14), torch.full((12,), 1 / 12)
    cost = squared_distances(source, target)
    problem = Transport(cost / (0.02 * scale(cost, *weights)), *weights)
    solve([problem], 500)
    plan = problem.plan() / problem.plan().amax()
    for start, row in zip(source, plan, strict=True):
        for end, share in zip(target, row.tolist(), strict=True):
            left.plot(*torch.stack([start, end]).T, color=GREY, alpha=share, lw=1, zorder=0)
    scatter(left, source, SOURCE)
    scatter(left, target, TARGET)
    bare(left, "the plan")
    sample, other = torch.randn(100, 2), torch.randn(100, 2)
    ways = torch.linspace(0, 6, 40).tolist()
    moved = [other + torch.tensor([way, 0.0]) for way in ways]
    kernels = [maximum_mean_discrepancy(sample, each, bandwidth=1.0) for each in moved]
    right.plot(ways, [sinkhorn_divergence(sample, each) / 36 for each in moved], color=GOOD, label="Sinkhorn / 36")
    right.plot(ways, [value / 2 for value in kernels], color=BAD, label="MMD / 2, bandwidth 1")
    right.set(xlabel="how far one sample is moved", title="the value")
    right.legend()
    return figure
