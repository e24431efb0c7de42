"""Nuclear norm: singular values of three matrices of predictions, and the loss on the way to a collapse."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption.functional import nuclear_norm_maximization
from pictures.style import BAD, GOOD, GREY, THIRD, panels
from pictures.toys import leaning_logits


def draw() -> Figure:
    """Left: singular values; right: the loss over the share of one class."""
    figure, (*bars, curve) = panels(4, ratios=[1, 1, 1, 2], height=2.5)
    kinds = (
        ("uniform", leaning_logits(0.0, 0.0), THIRD),
        ("collapsed", leaning_logits(1.0, 50.0), BAD),
        ("balanced", leaning_logits(0.0, 50.0), GOOD),
    )
    for axes, (name, z, color) in zip(bars, kinds, strict=True):
        values = torch.linalg.svdvals(z.softmax(1)) / z.numel() ** 0.5
        axes.bar(range(1, 5), values, color=color, width=0.8)
        axes.set(ylim=(0, 0.6), xticks=range(1, 5), xlabel="singular value", title=name)
        axes.text(2.5, 0.53, f"loss {nuclear_norm_maximization(z):.2f}", ha="center")
    shares = torch.linspace(0, 1, 100).tolist()
    for size, style in ((50.0, "-"), (3.0, "--"), (1.5, ":")):
        name = "certain" if size == 50 else f"logits of {size:g}"
        curve.plot(
            shares,
            [nuclear_norm_maximization(leaning_logits(s, size)) for s in shares],
            color=GREY,
            ls=style,
            label=name,
        )
    curve.set(xlabel="how far to a collapse", title="the value", ylim=(-1.05, 0))
    curve.legend(loc="upper left", ncols=3)
    return figure
