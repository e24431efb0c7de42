"""MDD: its value over the adversarial head's probability, and the log of two runs beside the three marks."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import ClassificationMarginDisparityDiscrepancy
from adaption.functional import classification_margin_disparity_discrepancy
from adaption.layers import GradientReversalLayer
from pictures.style import BAD, GOOD, GREY, SOURCE, TARGET, THIRD, epochs, panels
from pictures.toys import SHIFT, batch, small_net, step

EPOCHS, STEPS, MARGIN = 15, 20, 4.0


def at(probability: float, margin: float) -> float:
    """Return MDD where the adversarial head agrees with this probability on both domains."""
    main = torch.tensor([[9.0, 0.0]])
    adversarial = torch.tensor([[math.log(probability), math.log(1 - probability)]])
    return classification_margin_disparity_discrepancy(main, adversarial, main, adversarial, margin=margin).item()


def run(reversal: float) -> list[float]:
    """Train and return the epoch values."""
    torch.manual_seed(0)
    extractor, head, adversary = small_net(2, 32, 8), small_net(8, 16, 3), small_net(8, 16, 3)
    mdd, reverse = ClassificationMarginDisparityDiscrepancy(MARGIN), GradientReversalLayer(reversal)
    optimizer = torch.optim.Adam(nn.ModuleList([extractor, head, adversary]).parameters(), lr=5e-3)
    log = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            (source, labels), (target, _) = batch(), batch(SHIFT)
            both: list[Tensor] = [extractor(source), extractor(target)]
            logits, logits_adv = [head(x) for x in both], [adversary(reverse(x)) for x in both]
            task = nn.functional.cross_entropy(logits[0], labels)
            step(optimizer, task - mdd(logits[0], logits_adv[0], logits[1], logits_adv[1]))
        log.append(mdd.compute().item())
        mdd.reset()
    return log


def draw() -> Figure:
    """Left: the curve and its peak; right: the log."""
    figure, (left, right) = panels(2, ratios=[1, 1.2])
    places = torch.linspace(0.02, 0.98, 97).tolist()
    for margin, color in ((1.0, SOURCE), (2.0, THIRD), (4.0, TARGET)):
        left.plot(places, [at(p, margin) for p in places], color=color, label=f"margin {margin:.0f}")
        peak = margin / (margin + 1)
        left.plot(peak, at(peak, margin), "o", color=color)
    left.set(ylim=(-9, 0), xlabel="p, the same on both domains", title="MDD, and the best p")
    left.legend(loc="lower right")
    epochs(right, run(0.3), GOOD, "with the reversal: back to the middle line")
    epochs(right, run(0.0), BAD, "without: the adversarial head wins")
    guess = MARGIN * math.log(1 / 3) + math.log(2 / 3)
    for value, name in ((guess, "a guess"), (at(MARGIN / (MARGIN + 1), MARGIN), "domains alike"), (0.0, "head wins")):
        right.axhline(value, color=GREY, ls="--", lw=1)
        right.text(EPOCHS + 0.4, value, name, ha="right", va="bottom", fontsize=8.5)
    right.set_ylim(-5.4, 1.9)
    right.legend(loc="upper left")
    return figure
