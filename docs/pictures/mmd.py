"""MMD: the witness function of two samples, and the epoch value of three runs."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption import MaximumMeanDiscrepancyLoss
from adaption.functional import maximum_mean_discrepancy, median_bandwidth
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, epochs, panels
from pictures.toys import SHIFT, batch, small_net, step


def witness(source: Tensor, target: Tensor, places: Tensor) -> Tensor:
    """Return the function whose means over the two samples lie furthest apart."""
    bandwidth = median_bandwidth(source, target)
    means = [
        torch.exp(-((places - x.T) ** 2)[..., None] / bandwidth * 2.0 ** torch.arange(-2, 3)) for x in (source, target)
    ]
    return means[0].mean((1, 2)) - means[1].mean((1, 2))


def log_of_a_run(weight: float) -> tuple[list[float], float]:
    """Train with MMD times a weight; return what is logged per epoch, and the same between two source batches."""
    torch.manual_seed(0)
    extractor, classifier, mmd = small_net(2, 32, 8), small_net(8, 3), MaximumMeanDiscrepancyLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], lr=1e-2)
    log = []
    for _ in range(15):
        for _ in range(12):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            features = extractor(source)
            task = torch.nn.functional.cross_entropy(classifier(features), labels)
            step(optimizer, task + weight * mmd(features, extractor(target)))
        log.append(mmd.compute().item())
        mmd.reset()
    for _ in range(12):
        mmd.update(extractor(batch()[0]), extractor(batch()[0]))
    return log, mmd.compute().item()


def draw() -> Figure:
    """Left: the idea; right: the log."""
    figure, (left, right) = panels(2, ratios=[1.25, 1])
    source, target = torch.randn(200, 1), 0.7 * torch.randn(200, 1) + 1.2
    places = torch.linspace(-3.5, 4.0, 200).unsqueeze(1)
    for sample, color, label in ((source, SOURCE, "source"), (target, TARGET, "target")):
        left.hist(
            sample.flatten().numpy(), bins=30, range=(-3.5, 4.0), density=True, color=color, alpha=0.45, label=label
        )
    left.plot(places, witness(source, target, places), color=GREY, label="witness function")
    left.axhline(0, color=GREY, lw=0.6)
    left.set(
        yticks=[], ylim=(-0.5, 0.8), xlabel="feature", title=f"MMD² = {maximum_mean_discrepancy(source, target):.2f}"
    )
    left.legend(loc="upper left")
    for weight, color, label in ((0.0, BAD, "weight 0, only logged"), (1.0, GOOD, "weight 1")):
        log, floor = log_of_a_run(weight)
        epochs(right, log, color, label)
    right.axhline(floor, color=GREY, ls="--", lw=1, label="floor, source against source")
    right.set_ylim(0, 0.22)
    right.legend(loc="upper right")
    return figure
