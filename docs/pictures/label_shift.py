"""Label shift: true and estimated weights of four classes, and the error over the number of samples."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption.functional import label_shift_weights
from pictures.style import BAD, GOOD, GREY, panels

PROPORTIONS = torch.tensor([1.0, 2.0, 3.0, 9.0]) / 15
METHODS = {"bbse": (GOOD, "counts (BBSE)"), "em": (BAD, "likelihood (EM)")}


def draw() -> Figure:
    """Left: bars; right: errors, with right and with too certain logits."""
    torch.manual_seed(0)
    figure, axes = panels(2)
    found = {method: weights(2000, method, 1.0) for method in METHODS}
    for place, (color, label, values) in enumerate(
        [(GREY, "true", 4 * PROPORTIONS), *((*METHODS[method], found[method]) for method in METHODS)]
    ):
        axes[0].bar([k + 0.27 * (place - 1) for k in range(4)], values.tolist(), width=0.25, color=color, label=label)
    axes[0].set(xlabel="class", xticks=range(4), title="weights")
    axes[0].legend()
    sizes = [100, 300, 1000, 3000]
    for method, (color, label) in METHODS.items():
        for scale, style in ((1.0, "-"), (3.0, "--")):
            errors = [
                torch.stack([(weights(size, method, scale) - 4 * PROPORTIONS).abs().mean() for _ in range(8)]).mean()
                for size in sizes
            ]
            axes[1].plot(sizes, errors, style, color=color, label=label if style == "-" else None)
    axes[1].set(xscale="log", yscale="log", xlabel="samples of each domain", title="mean error of a weight")
    axes[1].legend()
    return figure


def weights(number: int, method: str, scale: float) -> Tensor:
    """From so many samples of each domain, with logits that are right at scale 1."""
    labels = torch.arange(number) % 4
    truth = torch.multinomial(PROPORTIONS, number, replacement=True)
    source, target = (scale * 4 * (2 * torch.eye(4)[y] + torch.randn(number, 4)) / 2 for y in (labels, truth))
    return label_shift_weights(source, labels, target, method=method)
