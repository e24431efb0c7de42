"""Digits again, but some classes are nine times as frequent in the target as others: label shift beside domain shift.

Each seed draws 2,000 images of MNIST's training part as the source, a quarter of them held out, and 2,000 of MNIST or
1,800 of USPS as the target, without labels. Where the shift is called *one to nine*, the shares of the target's digits
rise evenly from 0 to 9, so that 9 is nine times as frequent as 0; otherwise images are drawn as they come. The score is
the accuracy on the target's whole test part, each class weighed by its share of the target, which is what a user of
such a target would see. Network and batches are those of the task with all digits. From MNIST to MNIST only the shares
differ, or nothing; from MNIST to USPS the images differ, too, which the weights presume they do not.

The rows *weighed* multiply the loss of each source sample, in the cross entropy and in MMD or DANN, by the weight of
its class. After each epoch `LabelShiftWeights` finds the weights anew, from the current network's predictions for the
held-out quarter and for the target; in the first three epochs all are 1. *True weights* are the ratio of the labels
that were drawn, which no user has: what better weights could win. The second figure is the mean error of the weights
of the last epoch, in percent of the true ones; without an estimate all are 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from methods import CLASSES, Method, Network, dann
from torch import Tensor, nn

from adaption import LabelShiftWeights, MaximumMeanDiscrepancyLoss
from evidence.classification import Domains, classifier, logits
from evidence.digits import DRAWN, images
from evidence.task import Budget, Task, Trial

FIRST = 3  # epochs without weights, until the predictions say something


class Weighed(Method):
    """Cross entropy and a loss of the features, with a weight for each class of the source."""

    weights_of: Tensor

    def __init__(
        self,
        metrics: dict[str, nn.Module],
        factor: float = 1.0,
        *,
        estimate: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(metrics, **dict.fromkeys(metrics, factor))
        self.shift = LabelShiftWeights(CLASSES) if estimate else None
        self.epochs = 0
        self.register_buffer("weights_of", torch.ones(CLASSES) if weights is None else weights)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a step."""
        samples = self.weights_of[batch["labels"]]
        return super().forward({**batch, "class_weights": self.weights_of, "source_weights": samples})

    def after_epoch(self, source_logits: Tensor, source_labels: Tensor, target_logits: Tensor) -> None:
        """Look at the predictions, and weigh from the next step on."""
        self.epochs += 1
        if self.shift is not None and self.epochs >= FIRST:
            self.shift.update(source_logits, source_labels, target_logits)
            self.weights_of = self.shift.compute().float()
            self.shift.reset()


# name: (steps of the run, true weights) -> method
ROWS: dict[str, Callable[[int, Tensor], Weighed]] = {
    "source only": lambda _, __: Weighed({}),
    "control": lambda _, __: Weighed({"MMD": MaximumMeanDiscrepancyLoss()}, 0.0),
    "source only, weighed": lambda _, __: Weighed({}, estimate=True),
    "MMD": lambda _, __: Weighed({"MMD": MaximumMeanDiscrepancyLoss()}),
    "MMD, weighed": lambda _, __: Weighed({"MMD": MaximumMeanDiscrepancyLoss()}, estimate=True),
    "MMD, true weights": lambda _, true: Weighed({"MMD": MaximumMeanDiscrepancyLoss()}, weights=true),
    "DANN": lambda steps, _: Weighed({"DANN": dann(steps)}),
    "DANN, weighed": lambda steps, _: Weighed({"DANN": dann(steps)}, estimate=True),
    "DANN, true weights": lambda steps, true: Weighed({"DANN": dann(steps)}, weights=true),
}


def shares(labels: Tensor) -> Tensor:
    """How frequent each class is."""
    return torch.bincount(labels, minlength=CLASSES).double() / len(labels)


def draw(folder: Path | None, name: str, generator: torch.Generator, wanted: Tensor | None) -> tuple[Tensor, Tensor]:
    """So many images of a training part as in the task with all digits, with these shares of the classes or as is."""
    x, y = images(folder, name, "train")
    chances = torch.ones(len(y), dtype=torch.float64) if wanted is None else (wanted / shares(y))[y]
    index = torch.multinomial(chances, DRAWN[name], generator=generator)
    return x[index], y[index]


def begin(row: str, shift: str, seed: int, budget: Budget, folder: Path | None) -> Trial:
    """A row on a shift, with the images that the seed draws."""
    origins, _, proportions = shift.lower().partition(", ")
    source, target = origins.split(" to ")
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.linspace(1, 9, CLASSES, dtype=torch.float64) / (5 * CLASSES) if proportions else None
    x, y = draw(folder, source, generator, None)
    unlabelled, hidden = draw(folder, target, generator, wanted)
    test, test_labels = images(folder, target, "test")
    held_out = len(x) // 4
    true = (shares(hidden) / shares(y)).float()
    network, method = Network(side=16), ROWS[row](budget.total, true)
    domains = Domains(x[held_out:], y[held_out:], unlabelled, test, test_labels)
    trial = classifier(network, method, domains, 100, seed)

    def score() -> dict[str, float]:
        network.eval()
        right = (logits(network, test).argmax(1) == test_labels).double()
        each = torch.stack([right[test_labels == label].mean() for label in range(CLASSES)])
        method.after_epoch(logits(network, x[:held_out]), y[:held_out], logits(network, unlabelled))
        error = (method.weights_of / true - 1).abs().mean().item()
        return {"accuracy %": 100 * (each @ shares(hidden)).item(), "error of the weights %": 100 * error}

    return trial._replace(score=score)


TASK = Task(
    title="Digits, some classes more frequent in the target",
    about=__doc__,
    needs=("mnist", "usps"),
    shifts=("MNIST to MNIST, one to nine", "MNIST to MNIST", "MNIST to USPS, one to nine"),
    rows=tuple(ROWS),
    begin=begin,
    budget=Budget(epochs=12, steps=40),
    score="accuracy %",
    against=("source only", "MMD", "DANN"),
)
