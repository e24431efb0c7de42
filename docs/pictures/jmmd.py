"""JMMD: classes that change places, which MMD cannot see."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption.functional import joint_maximum_mean_discrepancy, maximum_mean_discrepancy
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, panels


def samples(size: int, swapped: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return one feature with a cluster for each of two classes, and predictions; a share of classes changes places."""
    labels = torch.arange(size) % 2
    sides = torch.where(torch.arange(size) // 2 < swapped * size / 2, 1 - labels, labels)
    features = (2.0 * sides - 1.0 + 0.3 * torch.randn(size)).unsqueeze(1)
    logits = (2.0 * labels - 1.0) * 2.5 + torch.randn(size)
    return features, torch.stack([-logits / 2, logits / 2], 1).softmax(1)


def draw() -> Figure:
    """Two layers side by side; both distances over the share that changed places."""
    figure, (left, middle, right) = panels(3, ratios=[1, 1, 1.3])
    source = samples(120)
    for axes, share, title in ((left, 0.0, "classes on classes"), (middle, 1.0, "classes swapped")):
        for (features, predictions), color, label in (
            (source, SOURCE, "source"),
            (samples(120, share), TARGET, "target"),
        ):
            axes.scatter(features[:, 0], predictions[:, 1], s=12, c=color, alpha=0.6, lw=0, label=label)
        axes.set(xlabel="layer 1: feature", title=title, yticks=[0, 1])
    left.set(ylabel="layer 2: probability of class 1")
    left.legend(loc="upper left", handletextpad=0.1)
    shares = torch.linspace(0, 1, 9).tolist()
    source = samples(400)
    targets = [samples(400, share) for share in shares]
    joint = [joint_maximum_mean_discrepancy(list(source), list(target)) for target in targets]
    single = [maximum_mean_discrepancy(source[0], target[0]) for target in targets]
    right.plot(shares, joint, color=GOOD, label="JMMD of both layers")
    right.plot(shares, single, color=BAD, label="MMD of the feature")
    right.axhline(0, color=GREY, lw=0.6)
    right.set(xlabel="share of the target on the wrong class", title="what the two distances see")
    right.legend()
    return figure
