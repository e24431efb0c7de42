"""BSP: the spectrum of adversarial features with and without the penalty."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import BatchSpectralPenalizationLoss, DomainAdversarialLoss
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer
from pictures.style import BAD, GOOD, THIRD, epochs, panels
from pictures.toys import SHIFT, batch, step

EPOCHS, STEPS = 10, 20


def run(weight: float) -> tuple[Tensor, list[float]]:
    """Train DANN with BSP times a weight; return the spectrum of the target and BSP's epoch values."""
    torch.manual_seed(0)
    extractor, classifier = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16)), nn.Linear(16, 3)
    grl = WarmStartGradientReversalLayer(alpha=10.0, max_iters=EPOCHS * STEPS, auto_step=True)
    dann = DomainAdversarialLoss(DomainDiscriminator(16, 32, batch_norm=False), grl=grl)
    bsp = BatchSpectralPenalizationLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters(), *dann.parameters()], lr=5e-3)
    log = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            features, target_features = extractor(source), extractor(target)
            task = nn.functional.cross_entropy(classifier(features), labels)
            loss = task + dann(features, target_features) + weight * bsp(features, target_features)
            step(optimizer, loss)
        log.append(bsp.compute().item())
        bsp.reset()
    return torch.linalg.svdvals(extractor(batch(SHIFT, size=64)[0]).detach()), log


def draw() -> Figure:
    """Left: singular values; right: the logged value."""
    figure, (left, right) = panels(2)
    for shift, weight, color, label in ((-0.2, 0.0, BAD, "DANN alone"), (0.2, 1e-4, GOOD, "with BSP, weight 1e-4")):
        spectrum, log = run(weight)
        left.bar(torch.arange(1, 9) + shift, spectrum[:8], width=0.38, color=color, label=label)
        epochs(right, log, color, label)
    epochs(right, run(0.1)[1], THIRD, "weight 0.1: the features vanish")
    left.set(xlabel="rank", title="singular values of the target features")
    right.set(yscale="log", ylim=(1, 1e7))
    left.legend()
    right.legend()
    return figure
