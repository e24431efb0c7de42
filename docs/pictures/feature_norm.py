"""AFN: the norms of both domains in a run without and one with it."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from adaption import AdaptiveFeatureNormLoss
from pictures.style import SOURCE, TARGET, epochs, panels
from pictures.toys import batch, small_net, step


def norms_of_a_run(weight: float) -> list[list[float]]:
    """Train with AFN times a weight; return the mean norms of source and target, epoch by epoch."""
    torch.manual_seed(0)
    extractor, classifier = torch.nn.Sequential(*small_net(2, 32), torch.nn.Linear(32, 16)), torch.nn.Linear(16, 3)
    feature_norm = AdaptiveFeatureNormLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], lr=3e-3)
    log = []
    for _ in range(12):
        for _ in range(15):
            (source, labels), (target, _) = batch(), batch()
            features = extractor(source)
            task = torch.nn.functional.cross_entropy(classifier(features), labels)
            step(optimizer, task + weight * feature_norm(features, extractor(0.4 * target)))
        log.append(feature_norm.mean_norms.tolist())
        feature_norm.reset()
    return log


def draw() -> Figure:
    """Left: without; right: with."""
    figure, both = panels(2)
    for axes, weight in zip(both, (0.0, 0.05), strict=True):
        log = norms_of_a_run(weight)
        for domain, color, name in ((0, SOURCE, "source"), (1, TARGET, "target")):
            epochs(axes, [means[domain] for means in log], color, name)
        axes.set(title="mean norms, " + (f"weight {weight:g}" if weight else "only logged"), ylim=(0, None))
        axes.legend(loc="lower right")
    return figure
