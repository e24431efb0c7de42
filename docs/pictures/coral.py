"""CORAL: two domains whose covariances differ, the same after training, and what the batch size does to the log."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import CorrelationAlignmentLoss
from pictures.style import BAD, GOOD, SOURCE, TARGET, THIRD, panels, scatter

SOURCE_AXES = torch.tensor([[1.0, 0.8], [0.0, 0.5]])
TARGET_AXES = torch.tensor([[0.5, -0.5], [0.0, 1.1]])


def draw_batch(size: int, axes: Tensor, centre: float = 0.0) -> Tensor:
    """Return samples of a normal distribution."""
    return torch.randn(size, 2) @ axes + centre


def trained() -> nn.Linear:
    """Return a linear map of the target that CORAL has trained, from the identity."""
    layer, coral = nn.Linear(2, 2), CorrelationAlignmentLoss()
    nn.init.eye_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=2e-2)
    for _ in range(300):
        optimizer.zero_grad()
        coral(draw_batch(128, SOURCE_AXES), layer(draw_batch(128, TARGET_AXES, 2.0))).backward()
        optimizer.step()
    return layer


def logged(size: int, **settings: object) -> float:
    """Return the epoch value of 512 samples a side of equal domains, of 16 features, in batches of a size."""
    coral = CorrelationAlignmentLoss(**settings)  # type: ignore[arg-type]
    for _ in range(512 // size):
        coral.update(torch.randn(size, 16), torch.randn(size, 16))
    return coral.compute().item()


def draw() -> Figure:
    """Left and middle: samples before and after; right: the logged value over the batch size."""
    torch.manual_seed(0)
    figure, (before, after, curve) = panels(3)
    source, target = draw_batch(300, SOURCE_AXES), draw_batch(300, TARGET_AXES, 2.0)
    moved = trained()(target).detach()
    for axes, points, title in ((before, target, "before"), (after, moved, "after")):
        scatter(axes, source, SOURCE, label="source")
        scatter(axes, points, TARGET, label="target")
        axes.set(title=title, xlim=(-4, 8), ylim=(-4, 6))
    before.legend(loc="lower right")
    sizes = [4, 8, 16, 32, 64, 128]
    for settings, color, name in (
        ({"pooled": False}, BAD, "mean of batches"),
        ({"pooled": False, "estimator": "unbiased"}, THIRD, "the same, unbiased"),
        ({}, GOOD, "pooled"),
    ):
        curve.plot(sizes, [logged(size, **settings) for size in sizes], color=color, marker="o", ms=3, label=name)
    curve.set(xscale="log", xlabel="batch size", title="equal domains, logged")
    curve.set_xticks(sizes, map(str, sizes))
    curve.legend()
    return figure
