"""Ten kinds of objects in pictures of four origins, Office-Caltech10, as counts of visual words (SURF).

The domains are amazon (958 pictures of a shop), caltech10 (1,123 of the web), webcam (295) and dslr (157 of a camera);
each of the 12 ordered pairs is a shift. Counts are divided by their sum in each picture, then every word gets mean 0
and deviation 1 in each domain, for which no labels are needed. The domains are small, so the protocol is the one in use
for this set, transductive: the whole source with labels, the whole target without, and the score is the accuracy on
that same target. The network has one hidden layer of 64 features, with dropout on the words.

Losses, weights and schedules are those of the digits, not one chosen here. Self-ensembling augments by dropping words
and by noise. The dropout and the number of steps were chosen by the accuracy on a fifth of the source held out.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import torch
from methods import CLASSES, METHODS, WIDTH, ClassifierDiscrepancy, PseudoLabels, SelfEnsembling
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.classification import Domains, classifier
from evidence.data import arrays
from evidence.task import Budget, Task, Trial

DOMAINS = ("amazon", "caltech10", "webcam", "dslr")


class Network(nn.Module):
    """One hidden layer: `forward` gives the features, `classify` their logits."""

    def __init__(self, words: int, dropout: float = 0.7) -> None:
        super().__init__()
        self.extract = nn.Sequential(nn.Dropout(dropout), nn.Linear(words, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU())
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        """Features of shape `(N, WIDTH)`."""
        extracted: Tensor = self.extract(words)
        return extracted


def jitter(words: Tensor) -> Tensor:
    """A tenth of the words dropped, and noise."""
    return F.dropout(words, 0.1) + 0.1 * torch.randn_like(words)


ROWS = {
    **METHODS,
    "MCD switched off": lambda _, __: ClassifierDiscrepancy(weight=0.0),
    "self-ensembling": lambda network, _: SelfEnsembling(network, augment=jitter),
    "self-ensembling switched off": lambda network, _: SelfEnsembling(network, 0.0, 0.0, augment=jitter),
    "pseudo labels": lambda network, steps: PseudoLabels(network, steps, augment=jitter),
    "pseudo labels switched off": lambda network, steps: PseudoLabels(network, steps, 0.0, augment=jitter),
}


def pictures(folder: Path | None, domain: str) -> tuple[Tensor, Tensor]:
    """Words of mean 0 and deviation 1 in the domain, and labels."""
    files = arrays(folder, "office_caltech10_surf")
    counts = torch.from_numpy(files[f"X_{domain}"]).float()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    deviation = shares.std(0)
    words = (shares - shares.mean(0)) / deviation.where(deviation > 0, 1.0)  # some words are in no picture
    return words, torch.from_numpy(files[f"y_{domain}"])


def begin(row: str, shift: str, seed: int, budget: Budget, folder: Path | None) -> Trial:
    """A row on a pair of domains."""
    source, target = (pictures(folder, domain) for domain in shift.split(" to "))
    network = Network(source[0].shape[1])
    return classifier(network, ROWS[row](network, budget.total), Domains(*source, target[0], *target), 64, seed)


TASK = Task(
    title="Objects",
    about=__doc__,
    needs=("office_caltech10_surf",),
    shifts=tuple(f"{source} to {target}" for source, target in permutations(DOMAINS, 2)),
    rows=tuple(ROWS),
    begin=begin,
    budget=Budget(epochs=8, steps=25),
    score="accuracy %",
    together=True,
)
