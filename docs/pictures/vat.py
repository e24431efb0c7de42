"""VAT: a boundary that leaves a cluster, and the direction in which a prediction changes most."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import EntropyMinimizationLoss, VirtualAdversarialLoss
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, bare, panels, scatter
from pictures.toys import batch

SHIFT = torch.tensor([1.6, 0.8])
LENGTH = 0.5


def trained(weight: float) -> nn.Sequential:
    """Return a network of the source, with VAT and the entropy on the target at a weight."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 3))
    vat, entropy = VirtualAdversarialLoss(network, LENGTH), EntropyMinimizationLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(400):
        (source, labels), (target, _) = batch(), batch(SHIFT)
        loss = F.cross_entropy(network(source), labels)
        if step >= 100:
            logits = network(target)
            loss = loss + weight * (vat(target, logits) + entropy(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def changed(network: nn.Module, samples: Tensor) -> Tensor:
    """Return the samples after the change that the loss finds, seen from outside: where the model is asked last."""
    asked: list[Tensor] = []
    handle = network.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0].detach()))
    VirtualAdversarialLoss(network, LENGTH).eval()(samples)
    handle.remove()
    return asked[-1]


def landscape(axes: Axes, network: nn.Module, target: Tensor, labels: Tensor, title: str) -> None:
    """Draw the classes of the plane, and the samples with their changes."""
    grid = torch.cartesian_prod(torch.linspace(-2.5, 5.5, 120), torch.linspace(-2, 6, 120))
    with torch.no_grad():
        classes = network(grid).argmax(1).view(120, 120).T
    axes.contour(classes, levels=[0.5, 1.5], extent=(-2.5, 5.5, -2, 6), colors=GREY, linewidths=0.9)
    for start, end in zip(target, changed(network, target), strict=True):
        axes.plot(*torch.stack([start, end]).T, color=BAD, lw=0.9, zorder=0)
    scatter(axes, batch()[0], SOURCE)
    scatter(axes, target, TARGET, labels)
    bare(axes, title)


def draw() -> Figure:
    """Left and middle: the boundary without and with the loss; right: one sample over all directions."""
    figure, (left, middle, right) = panels(3, height=2.9)
    plain, smooth = trained(0.0), trained(1.0)
    torch.manual_seed(1)
    target, labels = batch(SHIFT, 90)
    landscape(left, plain, target, labels, "source alone")
    landscape(middle, smooth, target, labels, "with VAT and entropy")
    with torch.no_grad():
        doubt = (plain(target).softmax(1).amax(1) - 0.8).abs().argmin()
    sample = target[doubt : doubt + 1]
    angles = torch.linspace(-math.pi, math.pi, 200)
    around = sample + LENGTH * torch.stack([angles.cos(), angles.sin()], 1)
    found = changed(plain, sample)
    with torch.no_grad():
        log_p = plain(sample).log_softmax(1)
        costs, cost = ((log_p.exp() * (log_p - plain(x).log_softmax(1))).sum(1) for x in (around, found))
    where = torch.atan2(*(found - sample)[0].flip(0))
    right.plot(angles, costs, color=GREY)
    right.plot(where, cost, "o", color=GOOD, label="one step")
    right.set(xlabel="direction of the change", title="divergence of one sample", xticks=[-math.pi, 0, math.pi])
    right.set_xticklabels(["-π", "0", "π"])
    right.legend()
    return figure
