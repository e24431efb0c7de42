"""One style for all pictures: colours and greys that read on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

SOURCE, TARGET = "#3a86d8", "#ee7f2d"  # the two domains, on every page
GOOD, BAD, THIRD = "#2a9d6f", "#d64560", "#9067d6"  # a run that works, one that fails, and what is neither
GREY = "#7c8087"
MARKERS = "o^sD"  # the classes
DOMAINS = LinearSegmentedColormap.from_list("domains", [SOURCE, "#b9b4b0", TARGET])
HEAT = LinearSegmentedColormap.from_list("heat", ["#7c808700", THIRD])

STYLE: dict[str, Any] = {
    "svg.hashsalt": "adaption",  # the same picture is the same file
    "savefig.transparent": True,
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}


def panels(
    count: int, *, height: float = 2.7, width: float = 8.2, ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """Return a figure and a row of axes."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, count, squeeze=False, width_ratios=ratios)[0]


def scatter(axes: Axes, points: Tensor, color: str, labels: Tensor | None = None, label: str | None = None) -> None:
    """Draw samples in the colour of their domain, with the marker of their class."""
    labels = torch.zeros(len(points)) if labels is None else labels
    for k, each in enumerate(labels.unique().tolist()):
        chosen = points[labels == each].detach()
        named = label if k == 0 else None
        axes.scatter(*chosen.T, s=14, c=color, marker=MARKERS[int(each)], alpha=0.65, lw=0, label=named)


def over_batch_sizes(axes: Axes, logged: Callable[[int], tuple[float, float]]) -> None:
    """Draw the mean of the values of batches of equal domains, and the epoch value, over the size of the batches."""
    sizes = [8, 16, 32, 64, 128, 256]
    blocks, pooled = zip(*map(logged, sizes), strict=True)
    axes.plot(sizes, blocks, color=BAD, marker="o", ms=3, label="mean of batches")
    axes.plot(sizes, pooled, color=GOOD, marker="o", ms=3, label="pooled, as logged")
    axes.set(xscale="log", xlabel="batch size", title="equal domains", ylim=(0, None))
    axes.set_xticks(sizes, map(str, sizes))
    axes.legend()


def epochs(axes: Axes, log: Sequence[float], color: str, label: str, **settings: Any) -> None:
    """Draw the logged value of a run, epoch by epoch."""
    axes.plot(range(1, len(log) + 1), log, color=color, label=label, **settings)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", title="the epoch value")


def bare(axes: Axes, title: str = "") -> None:
    """Leave nothing but a frame."""
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(True)


def grid(axes: Axes, size: int = 60) -> Tensor:
    """Return the places of the axes' window, `(size * size, 2)`, row by row."""
    x, y = (torch.linspace(*limits, size) for limits in (axes.get_xlim(), axes.get_ylim()))
    return torch.cartesian_prod(y, x).flip(1)


def field(axes: Axes, values: Tensor, **settings: Any) -> Any:
    """Draw values at the places of `grid` behind everything else."""
    size = round(len(values) ** 0.5)
    extent = (*axes.get_xlim(), *axes.get_ylim())
    picture = values.detach().view(size, size)
    look = {"origin": "lower", "interpolation": "bilinear", "aspect": "auto", "zorder": 0}
    return axes.imshow(picture, extent=extent, **look, **settings)


def boundaries(axes: Axes, logits: Tensor) -> None:
    """Draw the lines where the class changes, from logits at the places of `grid`."""
    for k in range(logits.shape[1]):
        others = logits[:, [j for j in range(logits.shape[1]) if j != k]].amax(1)
        boundary(axes, logits[:, k] - others, linewidths=0.8)


def boundary(axes: Axes, values: Tensor, color: str = GREY, **settings: Any) -> None:
    """Draw the line where values at the places of `grid` are 0."""
    size = round(len(values) ** 0.5)
    x, y = (torch.linspace(*limits, size) for limits in (axes.get_xlim(), axes.get_ylim()))
    axes.contour(x, y, values.detach().view(size, size), [0.0], colors=color, **settings)
