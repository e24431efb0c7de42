"""MMD over the batch size: the mean of the values of batches and the pooled value, for four shifts."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption import MaximumMeanDiscrepancyLoss
from pictures.style import GREY, panels

SIZES = [8, 16, 32, 64, 128, 256, 512, 1024]
SHIFTS = {0.0: GREY, 0.5: "#b79be8", 1.0: "#9067d6", 2.0: "#d64fa0"}


def logged(source: Tensor, target: Tensor, size: int, **settings: object) -> float:
    """Return what the metric logs for an epoch in batches of one size."""
    metric = MaximumMeanDiscrepancyLoss(**settings)  # type: ignore[arg-type] # settings of the picture
    for batch in zip(source.split(size), target.split(size), strict=True):
        metric.update(*batch)
    return metric.compute().item()


def draw() -> Figure:
    """Draw a colour for each shift, a kind of line for each way to log it."""
    source, noise = torch.randn(2048, 16), torch.randn(2048, 16)
    figure, (axes,) = panels(1, height=4.0, width=6.8)
    for shift, color in SHIFTS.items():
        target = noise + shift * torch.eye(16)[0]
        biased = [logged(source, target, size) for size in SIZES]
        unbiased = [logged(source, target, size, estimator="unbiased") for size in SIZES]
        axes.plot(SIZES, biased, "o-", color=color, label=f"shift {shift:g}")
        axes.plot(SIZES, unbiased, ".:", color=color)
        axes.axhline(logged(source, target, 2048, pooled=True), color=color, linestyle="--", linewidth=1)
    for line, label in (("o-", "block mean, biased"), (".:", "block mean, unbiased"), ("--", "pooled, biased")):
        axes.plot([], [], line, color=GREY, label=label)
    axes.set(xscale="log", xlabel="batch size per domain", ylabel="MMD² of the epoch")
    axes.set_xticks(SIZES, map(str, SIZES))
    axes.minorticks_off()
    axes.legend()
    return figure
