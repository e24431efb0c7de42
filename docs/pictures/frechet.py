"""Fréchet distance: what it measures of one feature, a target moved by its gradient, and the batch size in the log."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption import FrechetDistanceLoss
from adaption.functional import frechet_distance
from pictures.style import GREY, SOURCE, TARGET, over_batch_sizes, panels, scatter

AXES = torch.tensor([[0.5, -0.5], [0.0, 1.1]])


def density(x: Tensor, mean: float, spread: float) -> Tensor:
    """Return that of a normal distribution."""
    return torch.exp(-(((x - mean) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))


def moved(source: Tensor, target: Tensor) -> Tensor:
    """Return the target samples after gradient descent: each moves, none is trained with."""
    points = target.clone().requires_grad_()
    optimizer = torch.optim.SGD([points], lr=0.05 * len(points))
    for _ in range(100):
        optimizer.zero_grad()
        frechet_distance(source, points).backward()
        optimizer.step()
    return points.detach()


def logged(size: int) -> tuple[float, float]:
    """Return the mean of the values of batches of equal domains, and the epoch value, of 1,024 samples a side."""
    frechet = FrechetDistanceLoss()
    values = [frechet(torch.randn(size, 16), torch.randn(size, 16)) for _ in range(1024 // size)]
    return torch.stack(values).mean().item(), frechet.compute().item()


def draw() -> Figure:
    """Left: two densities; middle: samples on their way; right: the logged value over the batch size."""
    torch.manual_seed(0)
    figure, (densities, points, curve) = panels(3)
    x = torch.linspace(-4, 8, 200)
    for mean, spread, color in ((0.0, 1.0, SOURCE), (3.0, 1.8, TARGET)):
        y = density(x, mean, spread)
        densities.fill_between(x, y, color=color, alpha=0.5, lw=0)
        densities.text(mean, float(y.max()) + 0.01, f"{mean:g} ± {spread:g}", ha="center")
    densities.set(title=f"(3 - 0)² + (1.8 - 1)² = {3**2 + 0.8**2:.2f}", yticks=[], xlabel="a feature", ylim=(0, 0.48))
    source = torch.randn(150, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.5]])
    target = torch.randn(150, 2) @ AXES + 4
    after = moved(source, target)
    points.quiver(
        *target.T, *(after - target).T, angles="xy", scale_units="xy", scale=1, color=GREY, alpha=0.25, width=2e-3
    )
    scatter(points, source, SOURCE, label="source")
    scatter(points, after, TARGET, label="target, moved")
    points.set(title="along the gradient")
    points.legend(loc="lower right")
    over_batch_sizes(curve, logged)
    return figure
