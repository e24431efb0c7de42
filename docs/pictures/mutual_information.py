"""Mutual information: how often two predictions name each pair of classes, and the loss on the way to a collapse."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption.functional import l2_consistency_loss, mutual_information
from pictures.style import BAD, GOOD, GREY, HEAT, bare, panels
from pictures.toys import leaning_logits


def joint(first: Tensor, second: Tensor) -> Tensor:
    """Return how often each pair of classes is named."""
    products = first.T @ second / len(first)
    return (products + products.T) / 2


def draw() -> Figure:
    """Left: four pairs of predictions; right: the loss and a distance over the share of one class."""
    figure, (*squares, curve) = panels(5, ratios=[1, 1, 1, 1, 2], height=2.5)
    certain = leaning_logits(0.0, 50.0).softmax(1)
    uniform = leaning_logits(0.0, 0.0).softmax(1)
    collapsed = leaning_logits(1.0, 50.0).softmax(1)
    kinds = (
        ("agreeing", certain, certain),
        ("by chance", certain, certain[torch.arange(400) % 4 * 100]),
        ("uniform", uniform, uniform),
        ("collapsed", collapsed, collapsed),
    )
    for axes, (name, first, second) in zip(squares, kinds, strict=True):
        axes.imshow(joint(first, second), cmap=HEAT, vmin=0, vmax=0.4)
        bare(axes, f"{name}\nloss {mutual_information(first, second).item() + 0.0:.2f}")
    shares = torch.linspace(0, 1, 100).tolist()
    leaning = [leaning_logits(share, 50.0).softmax(1) for share in shares]
    curve.plot(shares, [mutual_information(p, p) for p in leaning], color=GOOD, label="mutual information")
    curve.plot(shares, [l2_consistency_loss(p, p) for p in leaning], color=BAD, label="L2 consistency")
    curve.axhline(-math.log(4), color=GREY, lw=0.8, ls="--")
    curve.set(xlabel="how far to a collapse", title="two views that agree", ylim=(-1.5, 0.6))
    curve.legend(loc="upper left")
    return figure
