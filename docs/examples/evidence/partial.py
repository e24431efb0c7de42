"""Digits again, but the target has only half of the source's classes: 0 to 4, as in the papers on partial adaptation.

Each seed draws 2,000 images of MNIST's training part and 1,800 of USPS's, as in the protocol of ADDA; of those of the
target, only the digits 0 to 4 stay, without labels. The score is the accuracy on the digits 0 to 4 of the target's
whole test part, which training never sees; the classifier may answer with any of the ten. Images and network are those
of the task with all digits.

DANN and PADA have the same reversal, which rises to 1; gentle DANN, gentle PADA and IWAN have that of IWAN's paper,
which ends below 0.05. So PADA differs from DANN, and gentle PADA and IWAN from gentle DANN, in the weights alone. AFN
weighs nothing: it lets the features of both domains grow.

Temperature, reversals and weights are the papers'; the 50 steps between two looks of PADA and the weight of AFN,
0.0005, were chosen with another target, optdigits, on the seeds 100 and 101: ten times as much loses there. Gentle PADA
joined the rows after plain PADA had been seen to swing. The second figure is the share of the source's weight that lies
on the digits 0 to 4.
"""

from __future__ import annotations

from pathlib import Path

import torch
from methods import Network
from partial import METHODS, SHARED, Equal, Pada, dann
from torch import Tensor
from torchmetrics import MetricCollection

from adaption import AdaptiveFeatureNormLoss
from evidence.classification import Domains, classifier
from evidence.digits import draw, images
from evidence.task import Budget, Task, Trial


class Growing(Equal):
    """AFN: the features of both domains grow, whatever their classes."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricCollection({"AFN": AdaptiveFeatureNormLoss()})
        self.weights = {"AFN": 0.0005}


ROWS = {
    **METHODS,
    "gentle PADA": lambda network, steps, target: Pada(dann(steps, alpha=1.0, hi=0.1), network, target),
    "AFN": lambda _, __, ___: Growing(),
}


def keep(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the shared classes."""
    kept = torch.isin(labels, torch.tensor(SHARED))
    return images[kept], labels[kept]


def begin(row: str, shift: str, seed: int, budget: Budget, folder: Path | None) -> Trial:
    """A row on a shift, with the images that the seed draws."""
    source, target = shift.lower().split(" to ")
    drawn = draw(folder, seed)
    unlabelled, _ = keep(*drawn[target])
    network = Network(side=16)
    method = ROWS[row](network, budget.total, unlabelled)
    domains = Domains(*drawn[source], unlabelled, *keep(*images(folder, target, "test")))
    trial = classifier(network, method, domains, 100, seed)

    def score() -> dict[str, float]:
        return {**trial.score(), "weight of shared classes %": 100 * method.notes()["share"]}

    return trial._replace(score=score)


TASK = Task(
    title="Digits, a target with half of the classes",
    about=__doc__,
    needs=("mnist", "usps"),
    shifts=("MNIST to USPS", "USPS to MNIST"),
    rows=tuple(ROWS),
    begin=begin,
    budget=Budget(epochs=12, steps=50),
    score="accuracy %",
    against=("source only", "DANN", "gentle DANN"),
)
