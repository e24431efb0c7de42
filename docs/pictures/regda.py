"""RegDA: a prediction, its ground truth and ground false, and the two losses between them."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption import RegressionDisparity
from adaption.layers import JointsKLLoss, PseudoLabelGenerator2d
from pictures.style import BAD, GOOD, GREY, HEAT, TARGET, bare, panels

SIZE = 48
PLACES = torch.tensor([[40, 24], [28, 12], [20, 20], [18, 29], [26, 38]])  # a palm and four finger tips, row and column


def blobs(places: Tensor, width: float) -> Tensor:
    """Return Gaussians of a width at places, `(1, K, SIZE, SIZE)`."""
    rows, columns = (torch.arange(SIZE) - places[:, i : i + 1] for i in (0, 1))
    return torch.exp(-(rows[:, :, None] ** 2 + columns[:, None, :] ** 2) / (2 * width**2)).unsqueeze(0)


def draw() -> Figure:
    """Three heatmaps, then what the adversarial head is told as its peak moves from a joint to its neighbour."""
    figure, axes = panels(4, ratios=[1, 1, 1, 1.6], height=2.5)
    prediction = blobs(PLACES, 3.5) + 0.02 * torch.rand(1, 5, SIZE, SIZE)
    generator = PseudoLabelGenerator2d(5, SIZE, SIZE)
    truth, false = generator(prediction)
    joint = 2
    shown = (
        (prediction.amax(1), "prediction y, five joints"),
        (truth[:, joint], "T(y) of one joint"),
        (false[:, joint], "F(y) of it"),
    )
    for axis, (heatmap, title) in zip(axes, shown, strict=False):
        axis.imshow(heatmap[0], cmap=HEAT, vmin=0, vmax=1)
        axis.plot(*PLACES[joint].flip(0).tolist(), "+", color=TARGET, ms=9)
        bare(axis, title)
    disparity = RegressionDisparity(generator, JointsKLLoss(epsilon=1e-7))
    way = torch.linspace(0, 1, 33)
    values: dict[str, list[float]] = {"min": [], "max": []}
    for share in way.tolist():
        moved = PLACES.double()
        moved[joint] = (1 - share) * moved[joint] + share * PLACES[joint + 1]
        output_adv = 12 * blobs(moved, 2.0)
        weight = torch.zeros(1, 5)
        weight[0, joint] = 5.0  # the mean over five joints is then this joint's
        for mode, log in values.items():
            log.append(disparity(prediction, output_adv.float(), weight, mode=mode).item())
    axes[3].plot(way, values["min"], color=GOOD, label="D min: to T(y), step C")
    axes[3].plot(way, values["max"], color=BAD, label="D max: to F(y), step B")
    axes[3].set(
        xticks=[0, 1],
        xticklabels=["the joint", "its neighbour"],
        title="where the adversarial head sees it",
        ylim=(0, None),
    )
    axes[3].axhline(0, color=GREY, lw=0.6)
    axes[3].legend(loc="lower center")
    return figure
