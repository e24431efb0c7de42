"""IWV and DEV: density ratios of two normal distributions, and both estimates over many draws."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption import DeepEmbeddedValidation, ImportanceWeightedValidation
from adaption.functional import density_ratio
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, THIRD, panels

DRAWS, SAMPLES, SHIFT = 400, 200, 0.7


def draw() -> Figure:
    """Left: the densities and their ratio; right: estimates of a risk that is known."""
    torch.manual_seed(0)
    figure, (left, right) = panels(2, height=2.8)
    x = torch.linspace(-3, 3.7, 200)
    for mean, color, name in ((0.0, SOURCE, "source"), (SHIFT, TARGET, "target")):
        left.plot(x, (-(x - mean).square() / 2).exp() / (2 * torch.pi) ** 0.5, color=color, label=name)
    left.plot(x, 0.1 * density_ratio(SHIFT * x - SHIFT**2 / 2, 1, 1), color=THIRD, ls="--", label="ratio / 10")
    left.set(title="the ratio weighs the losses of the source", xlabel="x", ylim=(0, 0.75))
    left.legend()

    bins = torch.linspace(1, 4, 31).tolist()
    for metric, color, name in ((ImportanceWeightedValidation(), BAD, "IWV"), (DeepEmbeddedValidation(), GOOD, "DEV")):
        torch.manual_seed(1)
        found = []
        for _ in range(DRAWS):
            sample = torch.randn(SAMPLES)
            # the model says 0 where the label is x + 0.5: a loss of 1.25 on the source
            metric.update((sample + 0.5).square(), density_ratio(SHIFT * sample - SHIFT**2 / 2, 1, 1))
            found.append(metric.compute().item())
            metric.reset()
        right.hist(found, bins, histtype="step", color=color, lw=1.6, label=name)
    right.axvline(1.25, color=SOURCE, lw=1, ls=":", label="risk on the source")
    right.axvline(1 + (SHIFT + 0.5) ** 2, color=GREY, lw=1, label="risk on the target")
    right.set(title=f"{DRAWS} draws of {SAMPLES} source samples", xlabel="estimate")
    right.legend()
    return figure
