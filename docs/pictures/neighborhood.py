"""SND: a perfect model that collapses step by step, and what three scores say of it on the way."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from adaption import EnsembleAgreement, InformationMaximizationLoss, SoftNeighborhoodDensity
from pictures.style import BAD, GOOD, GREY, THIRD, panels

CLASSES, EACH = 10, 20


def draw() -> Figure:
    """Classes are called by the name of the first, one after another."""
    labels = torch.arange(CLASSES * EACH) % CLASSES
    perfect = 20.0 * F.one_hot(labels, CLASSES)
    scores = (SoftNeighborhoodDensity(), InformationMaximizationLoss(), EnsembleAgreement())
    values: list[list[float]] = [[], [], []]
    for forgotten in range(CLASSES):
        logits = 20.0 * F.one_hot(labels.where(labels > forgotten, 0), CLASSES)
        for score, log in zip(scores, values, strict=True):
            score(logits, perfect) if isinstance(score, EnsembleAgreement) else score(logits)
            log.append(score.compute().item())
            score.reset()
    figure, axes = panels(3, height=2.6)
    titles = ("soft neighborhood density rises", "minus InfoMax falls", "agreement falls")
    for axis, title, log, color in zip(axes, titles, values, (BAD, GOOD, THIRD), strict=True):
        shown = [-value for value in log] if "minus" in title else log
        axis.plot(range(CLASSES), shown, "o-", color=color, ms=4)
        axis.set(title=title, xlabel="classes that are forgotten", ylim=(0, None))
        axis.axhline(shown[0], color=GREY, lw=0.8, ls=":")
    return figure
