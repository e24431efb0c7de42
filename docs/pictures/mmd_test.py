"""The two-sample test: what the loss logs and what the test says at each batch size, with its intervals."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption import MaximumMeanDiscrepancyLoss, MaximumMeanDiscrepancyTest
from pictures.style import BAD, GREY, panels

SIZES = (8, 16, 32, 64, 128, 256)
SAMPLES, SHIFT = 2048, 0.4


def draw() -> Figure:
    """Left: distances over the batch size; right: those of the test, closer."""
    torch.manual_seed(0)
    source, same, shifted = torch.randn(3, SAMPLES, 16).unbind()
    shifted[:, 0] += SHIFT
    figure, (both, closer) = panels(2, height=2.9)
    for target, color, name in ((same, GREY, "no shift"), (shifted, BAD, f"shift of {SHIFT}")):
        logged, found = [], []
        for size in SIZES:
            loss, test = MaximumMeanDiscrepancyLoss(), MaximumMeanDiscrepancyTest()
            for batch in zip(source.split(size), target.split(size), strict=True):
                loss.update(*batch)
                test.update(*batch)
            logged.append(loss.compute().item())
            found.append({key: value.item() for key, value in test.compute().items()})
        distances = [one["mmd"] for one in found]
        both.plot(SIZES, logged, "--", color=color, lw=1, label=f"logged MMD, {name}")
        for axis in (both, closer):
            axis.plot(SIZES, distances, "o-", color=color, ms=3, label=f"mmd of the test, {name}")
        bounds = [one["low"] for one in found], [one["high"] for one in found]
        closer.fill_between(SIZES, *bounds, color=color, alpha=0.2, lw=0)
    closer.axhline(0, color=GREY, lw=0.8, ls=":")
    both.set_title("what is logged")
    closer.set_title("the test alone, with its intervals")
    for axis in (both, closer):
        axis.set(xlabel="batch size", xscale="log")
        axis.set_xticks(SIZES, [str(size) for size in SIZES])
        axis.minorticks_off()
    both.legend(loc="upper right")
    return figure
