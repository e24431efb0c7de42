"""Draw the block mean and the pooled value of MMD over batch size, for `docs/methods/mmd.md`.

Run ``python docs/examples/block_or_pooled.py``; it writes ``docs/_static/block_or_pooled.svg``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from adaption import MaximumMeanDiscrepancyLoss

SIZES = [8, 16, 32, 64, 128, 256, 512, 1024]
SHIFTS = [0.0, 0.5, 1.0, 2.0]
PICTURE = Path(__file__).parents[1] / "_static" / "block_or_pooled.svg"


def epoch_value(source: Tensor, target: Tensor, size: int, *, pooled: bool = False, estimator: str = "biased") -> float:
    """Return what the metric logs for an epoch in batches of `size`."""
    metric = MaximumMeanDiscrepancyLoss(pooled=pooled, estimator=estimator)
    for batch in zip(source.split(size), target.split(size), strict=True):
        metric.update(*batch)
    return metric.compute().item()


def main() -> None:
    """Write the picture."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "adaption"  # the same picture is the same file
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    torch.manual_seed(0)
    source, noise = torch.randn(2048, 16), torch.randn(2048, 16)
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for shift, color in zip(SHIFTS, ("C0", "C1", "C2", "C3"), strict=True):
        target = noise + shift * torch.eye(16)[0]
        biased = [epoch_value(source, target, size) for size in SIZES]
        unbiased = [epoch_value(source, target, size, estimator="unbiased") for size in SIZES]
        axes.plot(SIZES, biased, "o-", color=color, label=f"shift {shift:g}")
        axes.plot(SIZES, unbiased, ".:", color=color)
        axes.axhline(epoch_value(source, target, 2048, pooled=True), color=color, linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="batch size per domain", ylabel="MMD² of the epoch")
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.plot([], [], "ko-", label="block mean, biased")
    axes.plot([], [], "k.:", label="block mean, unbiased")
    axes.plot([], [], "k--", linewidth=1, label="pooled, biased")
    axes.legend(frameon=False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"wrote {PICTURE.name}")


if __name__ == "__main__":
    main()
