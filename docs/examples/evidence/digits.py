"""Handwritten digits of two origins, MNIST and USPS, by the protocol of ADDA.

Each seed draws 2,000 images of MNIST's training part and 1,800 of USPS's: those of the source with labels, those of the
target without. The score is the accuracy on the target's whole test part, which training never sees. MNIST is brought
to the 16 x 16 pixels of USPS, its margin included. The network has two convolutions and 64 features; an epoch is 40
steps with 100 images of each domain.

Weights and schedules are those of `docs/examples/methods.py`: the papers', or chosen with a third set as the target,
optdigits, as were the optimizer's rates. The length of the run alone was set by a look at these targets, from seeds
that are not reported: at 600 steps self-ensembling still rose.

The published columns have other networks and budgets, and say what a method may reach, not what a row should. ADDA's
authors train a LeNet on 28 x 28 pixels for 10,000 steps in each of its two stages; here all rows have 800 steps in all.
MCD's authors have batch normalisation, and for each batch three steps, the last of them four times; the row here is the
same game in one step, by a reversal. The next section trains both as their authors do.
"""

from __future__ import annotations

from pathlib import Path

import torch
from methods import METHODS, ClassifierDiscrepancy, Network, PseudoLabels, SelfEnsembling
from torch import Tensor
from torch.nn import functional as F

from evidence.classification import Domains, classifier
from evidence.data import arrays
from evidence.task import Budget, Task, Trial

DRAWN = {"mnist": 2000, "usps": 1800}
ROWS = {
    **METHODS,
    "MCD switched off": lambda _, __: ClassifierDiscrepancy(weight=0.0),
    "self-ensembling switched off": lambda network, _: SelfEnsembling(network, consistency=0.0, balance=0.0),
    "pseudo labels switched off": lambda network, steps: PseudoLabels(network, steps, weight=0.0),
}


def images(folder: Path | None, name: str, part: str, side: int = 16) -> tuple[Tensor, Tensor]:
    """Square images of so many pixels a side in [0, 1], and their labels."""
    files = arrays(folder, name)
    pixels = torch.from_numpy(files[f"X_{part}"]).unsqueeze(1).float() / 255
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True), torch.from_numpy(files[f"y_{part}"])


def draw(folder: Path | None, seed: int, side: int = 16) -> dict[str, tuple[Tensor, Tensor]]:
    """The images and labels of each origin that the seed draws for training."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, size in DRAWN.items():
        x, y = images(folder, name, "train", side)
        index = torch.randperm(len(x), generator=generator)[:size]
        drawn[name] = x[index], y[index]
    return drawn


def begin(row: str, shift: str, seed: int, budget: Budget, folder: Path | None) -> Trial:
    """A row on a shift, with the images that the seed draws."""
    drawn = draw(folder, seed)
    source, target = shift.lower().split(" to ")
    domains = Domains(*drawn[source], drawn[target][0], *images(folder, target, "test"))
    network = Network(side=16)
    return classifier(network, ROWS[row](network, budget.total), domains, 100, seed)


TASK = Task(
    title="Digits",
    about=__doc__,
    needs=("mnist", "usps"),
    shifts=("MNIST to USPS", "USPS to MNIST"),
    rows=tuple(ROWS),
    begin=begin,
    budget=Budget(epochs=20, steps=40),
    score="accuracy %",
    published={
        "[Tzeng et al. 2017](https://arxiv.org/abs/1702.05464)": {
            "MNIST to USPS": {"source only": 75.2, "DANN": 77.1, "ADDA": 89.4},
            "USPS to MNIST": {"source only": 57.1, "DANN": 73.0, "ADDA": 90.1},
        },
        "[Saito et al. 2018](https://arxiv.org/abs/1712.02560)": {
            "MNIST to USPS": {"source only": 76.7, "MCD": 94.2},
            "USPS to MNIST": {"source only": 63.4, "MCD": 94.1},
        },
    },
)
