"""CDD: where its first sum and both together pull the target samples, and both sums over a run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from adaption import ContrastiveDomainDiscrepancyLoss, LocalMaximumMeanDiscrepancyLoss
from adaption.functional import contrastive_domain_discrepancy, local_maximum_mean_discrepancy
from pictures.style import BAD, GOOD, SOURCE, TARGET, THIRD, bare, epochs, panels, scatter
from pictures.toys import batch, small_net, step

SHIFT = torch.tensor([1.0, 0.8])
FAR = torch.tensor([1.7, 0.9])  # close to the other classes


def certain(classes: Tensor) -> Tensor:
    """Return logits that leave no doubt: the mean over classes of LMMD is then the first sum of CDD."""
    return 200 * torch.eye(3)[classes]


def pulled(
    axes: Axes, name: str, loss: Callable[[Tensor], Tensor], source: Tensor, labels: Tensor, target: Tensor
) -> None:
    """Draw two domains, and at each class of the target the direction in which a loss moves it."""
    moved = target.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(moved), moved)
    scatter(axes, source, SOURCE, labels)
    scatter(axes, target, TARGET, labels)
    for k in range(3):
        start, way = target[labels == k].mean(0), -gradient[labels == k].sum(0)
        axes.annotate(
            "", (start + 9 * way).tolist(), start.tolist(), arrowprops={"arrowstyle": "->", "color": THIRD, "lw": 2.5}
        )
    bare(axes, name)


def sums() -> tuple[list[float], list[float]]:
    """Train with CDD, the target's classes those of the nearest means; return both sums, epoch by epoch."""
    torch.manual_seed(0)
    extractor, classifier = small_net(2, 32, 8), torch.nn.Linear(8, 3)
    cdd, own = ContrastiveDomainDiscrepancyLoss(), LocalMaximumMeanDiscrepancyLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], lr=2e-3)
    log: tuple[list[float], list[float]] = ([], [])
    for _ in range(12):
        for _ in range(12):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            features, target_features = extractor(source), extractor(target)
            means = torch.stack([features[labels == k].mean(0) for k in range(3)])
            guesses = torch.cdist(target_features, means).argmin(1)
            value = cdd(features, labels, target_features, guesses)
            own.update(features, labels, target_features, certain(guesses))
            step(optimizer, torch.nn.functional.cross_entropy(classifier(features), labels) + value)
        log[0].append(own.compute().item())
        log[1].append((own.compute() - cdd.compute()).item())
        cdd.reset()
        own.reset()
    return log


def draw() -> Figure:
    """Left and middle: the forces; right: the sums of a run."""
    figure, (left, middle, right) = panels(3, ratios=[1, 1, 1.2])
    source, labels = batch(size=150)
    target = source + FAR

    def within(moved: Tensor) -> Tensor:
        return local_maximum_mean_discrepancy(source, labels, moved, certain(labels), bandwidth=8.0)

    def both(moved: Tensor) -> Tensor:
        return contrastive_domain_discrepancy(source, labels, moved, labels, bandwidth=8.0)

    pulled(left, "the first sum", within, source, labels, target)
    pulled(middle, "CDD", both, source, labels, target)
    own, others = sums()
    epochs(right, others, BAD, "to the other classes")
    epochs(right, own, GOOD, "to the own class")
    right.set(title="squared distance of a class", ylim=(0, None))
    right.legend(loc="center right")
    return figure
