"""PADA: the class weights from look to look, in a run that works and in one that fails."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import ClassWeightModule, DomainAdversarialLoss
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer
from pictures.style import BAD, GREY, TARGET, epochs, panels
from pictures.toys import small_net, step

CORNERS = torch.tensor([[-3.0, -3.0], [-3.0, 3.0], [3.0, -3.0], [3.0, 3.0]])
LOOKS, STEPS = 15, 15


def batch(classes: int, shift: Tensor | float, size: int) -> tuple[Tensor, Tensor]:
    """Return samples at the first corners."""
    labels = torch.randint(classes, (size,))
    return CORNERS[labels] + shift + 0.5 * torch.randn(size, 2), labels


def looks(shift: Tensor) -> Tensor:
    """Train PADA and return the class weights after each look, `(LOOKS, 4)`."""
    torch.manual_seed(0)
    extractor, classifier = small_net(2, 32, 16), nn.Linear(16, 4)
    grl = WarmStartGradientReversalLayer(alpha=10.0, max_iters=LOOKS * STEPS, auto_step=True)
    dann = DomainAdversarialLoss(DomainDiscriminator(16, 32), grl=grl)
    optimizer = torch.optim.Adam(nn.ModuleList([extractor, classifier, dann]).parameters(), lr=5e-3)
    metric, weights, seen = ClassWeightModule(temperature=0.1), torch.ones(4), []
    for _ in range(LOOKS):
        for _ in range(STEPS):
            (source, labels), (target, _) = batch(4, 0.0, 64), batch(2, shift, 48)
            features = extractor(source)
            task = nn.functional.cross_entropy(classifier(features), labels, weight=weights)
            step(optimizer, task + dann(features, extractor(target), weights[labels]))
        metric.update(classifier(extractor(batch(2, shift, 300)[0])).detach())
        weights = metric.compute().float()
        seen.append(weights)
        metric.reset()
    return torch.stack(seen)


def curves(axes: Axes, weights: Tensor, title: str) -> None:
    """Draw one line for each class."""
    for k, (color, style) in enumerate(((TARGET, "-"), (TARGET, "--"), (GREY, "-"), (GREY, "--"))):
        name = f"class {'ABCD'[k]}, " + ("in the target" if k < 2 else "source only")
        epochs(axes, weights[:, k].tolist(), color, name, ls=style)
    axes.set(xlabel="look", title=title, ylim=(-0.04, 1.09))


def draw() -> Figure:
    """Left: a moderate shift; right: one that puts a class where another was."""
    figure, (left, right) = panels(2)
    curves(left, looks(torch.tensor([1.0, 1.0])), "works: the groups part")
    curves(right, looks(torch.tensor([3.6, 0.0])), "fails: shared classes are taken for others")
    right.title.set_color(BAD)
    left.legend(loc="center right")
    return figure
