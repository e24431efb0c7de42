"""Agreement: candidates of every quality, their accuracy, and how often each agrees with the mean of all."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption import EnsembleAgreement
from pictures.style import BAD, GREY, THIRD, panels

CANDIDATES, SAMPLES, CLASSES = 30, 600, 5


def draw() -> Figure:
    """Left: mistakes of their own; right: a mistake that all but a few share."""
    torch.manual_seed(0)
    labels = torch.arange(SAMPLES) % CLASSES
    figure, axes = panels(2, height=2.9)
    for axis, shared in zip(axes, (False, True), strict=True):
        taken_for = labels.where(labels > 0, 1) if shared else labels  # class 0 is taken for class 1
        logits = []
        for noise in torch.linspace(0.5, 3, CANDIDATES).tolist():
            right = len(logits) % 6 == 0 or not shared
            means = 3.0 * torch.eye(CLASSES)[labels if right else taken_for]
            logits.append(means + noise * torch.randn(SAMPLES, CLASSES))
        logits += [9.0 * torch.eye(CLASSES)[:1].expand(SAMPLES, CLASSES)]  # it has collapsed
        scores = [EnsembleAgreement() for _ in logits]
        for score, own in zip(scores, logits, strict=True):
            score.update(own, logits)
        accuracy = [(own.argmax(1) == labels).double().mean().item() for own in logits]
        agreement = [score.compute().item() for score in scores]
        axis.scatter(agreement[:-1], accuracy[:-1], s=16, color=THIRD, lw=0, label="candidates")
        axis.scatter(agreement[-1:], accuracy[-1:], s=40, color=BAD, marker="x", label="collapsed")
        best = max(range(len(scores)), key=agreement.__getitem__)
        axis.scatter(agreement[best], accuracy[best], s=90, facecolors="none", edgecolors=GREY, label="kept")
        title = "a mistake that most share" if shared else "mistakes of their own"
        axis.set(title=title, xlabel="agreement with the ensemble", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
        axis.legend(loc="upper left")
    return figure
