"""WDGRL: a discriminator and a critic between two domains far apart, and what they say at all distances."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from adaption import DomainAdversarialLoss, WassersteinDomainLoss
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, panels
from pictures.toys import small_net, step

FAR = 4.0


def domains(shift: float, size: int = 64) -> tuple[Tensor, Tensor]:
    """Return samples in the plane, around the origin and moved along the first feature."""
    return 0.4 * torch.randn(size, 2), torch.tensor([shift, 0.0]) + 0.4 * torch.randn(size, 2)


def trained(loss: DomainAdversarialLoss | WassersteinDomainLoss, shift: float, steps: int = 150) -> float:
    """Train the adversary alone; return its value at the end."""
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-2)
    for _ in range(steps):
        step(optimizer, loss(*domains(shift)))
    loss.reset()
    value: float = loss(*domains(shift, 1000)).item()
    return value


def show(axes: Axes, color: str, places: Tensor, values: Tensor, title: str, label: str) -> None:
    """Draw a function along the first feature, and the samples below it."""
    axes.plot(places, values, color=color)
    low, high = values.min().item(), values.max().item()
    for samples, of_domain, name in zip(domains(FAR, 60), (SOURCE, TARGET), ("source", "target"), strict=True):
        floor = torch.full((len(samples),), low - 0.12 * (high - low))
        axes.scatter(samples[:, 0], floor, s=10, c=of_domain, lw=0, alpha=0.6, label=name)
    axes.set(xlabel="first feature", title=title, ylabel=label)


def draw() -> Figure:
    """The two adversaries over the line, and what they say of domains at all distances."""
    torch.manual_seed(0)
    figure, (left, middle, right) = panels(3, ratios=[1, 1, 1.25])
    places = torch.linspace(-1.5, FAR + 1.5, 200)
    line = torch.stack([places, torch.zeros(200)], dim=1)
    dann, wdgrl = (loss(small_net(2, 32, 1)) for loss in (DomainAdversarialLoss, WassersteinDomainLoss))
    trained(dann, FAR)
    trained(wdgrl, FAR)
    show(left, BAD, places, dann.domain_disc(line).sigmoid().detach(), "a discriminator: flat", "P(target)")
    show(middle, GOOD, places, wdgrl.critic(line).detach(), "a critic: a slope all the way", "score")
    left.legend(loc="center right", handletextpad=0.1)
    shifts = torch.linspace(0, FAR, 6).tolist()
    right.plot(shifts, shifts, color=GREY, ls="--", lw=1, label="true distance")
    right.plot(shifts, [-trained(WassersteinDomainLoss(small_net(2, 32, 1)), s) for s in shifts], color=GOOD)
    right.plot(shifts, [trained(DomainAdversarialLoss(small_net(2, 32, 1)), s) for s in shifts], color=BAD)
    right.lines[1].set_label("minus the value of WDGRL")
    right.lines[2].set_label("the value of DANN")
    right.set(xlabel="shift of the target", title="what the trained adversary says", ylim=(-0.2, 7))
    right.legend(loc="upper left")
    return figure
