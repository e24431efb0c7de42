"""Information maximisation: predictions of three kinds with both entropies, and the value on the way between them."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure

from adaption.functional import entropy_minimization, information_maximization
from pictures.style import BAD, GOOD, GREY, THIRD, panels
from pictures.toys import leaning_logits


def draw() -> Figure:
    """Left: the two entropies; right: the values while predictions become certain, or collapse."""
    figure, (left, middle, right) = panels(3, ratios=[1.5, 1, 1], height=2.7)
    kinds = {
        "uniform": (leaning_logits(0.0, 0.0), THIRD),
        "collapsed": (leaning_logits(1.0, 50.0), BAD),
        "balanced": (leaning_logits(0, 50.0), GOOD),
    }
    for place, (name, (z, color)) in enumerate(kinds.items()):
        entropy = entropy_minimization(z)
        value = information_maximization(z)
        left.bar(place - 0.2, entropy, width=0.36, color=color, alpha=0.5)
        left.bar(place + 0.2, entropy - value, width=0.36, color=color)
        left.text(place, 1.52, f"{name}\nloss {round(value.item(), 2) + 0.0:.2f}", ha="center", color=color)
    left.set(xticks=[-0.2, 0.2, 0.8, 1.2, 1.8, 2.2], ylim=(0, 1.9), title="mean entropy, and entropy of the mean")
    left.set_xticklabels(["H", "H(mean)"] * 3, fontsize=7)
    sizes = torch.linspace(0, 12, 100).tolist()
    middle.plot(sizes, [information_maximization(leaning_logits(0.0, s)) for s in sizes], color=GOOD, label="balanced")
    middle.plot(sizes, [information_maximization(leaning_logits(1.0, s)) for s in sizes], color=BAD, label="one class")
    middle.set(xlabel="size of the logits", title="the value")
    shares = torch.linspace(0, 1, 100).tolist()
    right.plot(
        shares, [information_maximization(leaning_logits(s, 50.0)) for s in shares], color=GREY, label="information"
    )
    right.plot(
        shares,
        [entropy_minimization(leaning_logits(s, 50.0)) for s in shares],
        color=GREY,
        ls="--",
        label="entropy alone",
    )
    right.set(xlabel="how far to a collapse", title="certain predictions")
    for axes in (middle, right):
        axes.set_ylim(-math.log(4) - 0.1, 0.2)
        axes.legend(loc="center right" if axes is middle else "center left")
    return figure
