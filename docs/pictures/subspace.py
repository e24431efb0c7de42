"""RSD: two planes and the angle between them, and what the distance sees of turning and of scaling."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption.functional import correlation_alignment, representation_subspace_distance
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, bare, panels, scatter

OBLIQUE = torch.tensor([[1.0, 0.0], [0.55, 0.4], [0.0, 1.0]])


def plane(degrees: float) -> Tensor:
    """Return two directions, the first shared by all planes, the second turned upwards."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, angle.cos(), angle.sin()]])


def draw() -> Figure:
    """Left: the planes; middle: the value over the angle; right: over the size of the target's features."""
    figure, (left, turned, scaled) = panels(3)
    for degrees, color in ((0.0, SOURCE), (50.0, TARGET)):
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) @ plane(degrees) @ OBLIQUE
        left.fill(*corners.T, color=color, alpha=0.2, lw=0)
        scatter(left, (2 * torch.rand(25, 2) - 1) @ plane(degrees) @ OBLIQUE, color)
    left.plot([-1, 1], [0, 0], color=GREY, lw=1, ls="--")
    bare(left, "what the features span")
    angles = torch.arange(0.0, 91.0, 3.0).tolist()
    ends = [(plane(0.0), plane(angle)) for angle in angles]
    turned.plot(angles, [representation_subspace_distance(*pair, bases_weight=0.0) for pair in ends], color=GOOD)
    turned.set(xlabel="angle in degrees", title="the value", xticks=[0, 30, 60, 90])
    source, target = torch.randn(16, 64), torch.randn(16, 64)
    factors = torch.linspace(0.25, 2, 30).tolist()
    values = [
        [loss(source, factor * target).item() for factor in factors]
        for loss in (representation_subspace_distance, correlation_alignment)
    ]
    for curve, color, name in zip(values, (GOOD, BAD), ("RSD", "CORAL"), strict=True):
        scaled.plot(factors, [value / curve[-1] for value in curve], color=color, label=name)
    scaled.set(xlabel="factor of the target's features", title="over the value at 2", ylim=(0, 1.1))
    scaled.legend()
    return figure
