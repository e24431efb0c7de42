"""LMMD: where it pulls the target samples, beside MMD, and the accuracy of two runs."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from adaption import LocalMaximumMeanDiscrepancyLoss, MaximumMeanDiscrepancyLoss
from adaption.functional import local_maximum_mean_discrepancy, maximum_mean_discrepancy
from pictures.style import BAD, GOOD, SOURCE, TARGET, THIRD, bare, epochs, panels, scatter
from pictures.toys import accuracy, batch, small_net, step

SHIFT = torch.tensor([1.6, 0.3])
EPOCHS = 12


def pulled(axes: Axes, name: str, source: Tensor, labels: Tensor, target: Tensor, classes: Tensor) -> None:
    """Draw two domains, and at each class of the target the direction in which a loss moves it."""
    moved = target.clone().requires_grad_()
    if name == "LMMD":
        loss = local_maximum_mean_discrepancy(source, labels, moved, 200 * torch.eye(3)[classes], bandwidth=4.0)
    else:
        loss = maximum_mean_discrepancy(source, moved, bandwidth=4.0)
    (gradient,) = torch.autograd.grad(loss, moved)
    scatter(axes, source, SOURCE, labels)
    scatter(axes, target, TARGET, classes)
    for k in range(3):
        start, way = target[classes == k].mean(0), -gradient[classes == k].sum(0)
        axes.annotate(
            "", (start + 14 * way).tolist(), start.tolist(), arrowprops={"arrowstyle": "->", "color": THIRD, "lw": 2.5}
        )
    bare(axes, name)


def accuracies(loss: str) -> list[float]:
    """Train with a loss; return the accuracy on the target, epoch by epoch."""
    torch.manual_seed(0)
    extractor, classifier = small_net(2, 32, 8), torch.nn.Linear(8, 3)
    lmmd, mmd = LocalMaximumMeanDiscrepancyLoss(), MaximumMeanDiscrepancyLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], lr=5e-3)
    log = []
    for epoch in range(EPOCHS):
        for _ in range(12):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            features, target_features = extractor(source), extractor(target)
            task = torch.nn.functional.cross_entropy(classifier(features), labels)
            if loss == "LMMD":
                value = lmmd(features, labels, target_features, classifier(target_features))
            else:
                value = mmd(features, target_features)
            step(optimizer, task + epoch / EPOCHS * value)
        samples, labels = batch(SHIFT, size=1000)
        log.append(100 * accuracy(classifier(extractor(samples)), labels))
    return log


def draw() -> Figure:
    """Left and middle: the forces; right: two runs."""
    figure, (left, middle, right) = panels(3, ratios=[1, 1, 1.2])
    source, labels = batch(size=150)
    target, classes = batch(SHIFT, size=150)
    pulled(left, "MMD", source, labels, target, classes)
    pulled(middle, "LMMD", source, labels, target, classes)
    for name, color in (("MMD", BAD), ("LMMD", GOOD)):
        epochs(right, accuracies(name), color, name)
    right.set(title="target samples that are right, %")
    right.legend(loc="lower right")
    return figure
