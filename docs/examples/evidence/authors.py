"""ADDA and MCD with the networks, the optimizers and the lengths of their authors' code.

From USPS to MNIST, where the rows above, with 800 steps, stay farthest behind the papers. The same images are drawn as
there, but at 28 x 28 pixels, to which USPS is enlarged. A step takes 128 images of each domain.

*ADDA*, with the settings of the authors' script, which is one for SVHN: a LeNet with 20 and 50 channels and 500
features learns the source for 10,000 steps of Adam at 0.001 with a weight decay of 0.000025. Then the target encoder
and a discriminator of its ten logits, with two layers of 500, play for 10,000 steps of Adam at 0.0002 with a first
moment of 0.5, both at the same time.

*MCD*: two convolutions of 32 and 48 channels, two heads with two layers of 100, batch normalisation after all of them,
dropout of a half in the heads; 3,000 steps, a little more than the authors' 200 epochs, of Adam at 0.0002 with a weight
decay of 0.0005. Each batch is used in three stages: everything learns the source; the heads alone learn the source and
part on the target; four times the features learn to make the heads agree. The sum of both heads' logits is judged.

*Source only* is ADDA's network after the first stage, and for MCD the same network with the first of the three stages
alone. *Switched off* does everything with the discrepancy times 0: only the averages of the batch normalisation still
see the target. The rows of MCD begin with the same weights, and draw their batches one after the other. *Best of ten*
is what one reports who picks one of ten checkpoints by the labels of the test part.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from digits import run_all
from methods import CLASSES
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import AdversarialDiscriminativeLoss, ClassifierDiscrepancyLoss
from adaption.layers import DomainDiscriminator
from evidence import digits
from evidence.kept import RESULTS, code, listed, once, versions
from evidence.report import difference, gain, head, last, line, spread
from evidence.selection import Study
from evidence.task import OFF, SOURCE_ONLY, batches

TASK = Study(digits.TASK.needs, seeds=3)
SHIFT = "USPS to MNIST"
SIDE, BATCH, CHECKPOINTS = 28, 128, 10


class Steps(NamedTuple):
    """How long the stages last."""

    source: int = 10_000  # ADDA's first stage
    adda: int = 10_000  # and its second
    mcd: int = 3_000


# row -> the accuracy at each of ten checkpoints; of ADDA's first stage only after its end
Accuracies = dict[str, list[float]]
Batch = tuple[Tensor, Tensor, Tensor]  # images of the source, their labels, images of the target


class Data(NamedTuple):
    """The batches of a shift without end, and the accuracy of a network on its test part."""

    batches: Iterator[Batch]
    accuracy: Callable[[Callable[[Tensor], Tensor]], float]


def data(seed: int, folder: Path | None) -> Data:
    """The images that the seed draws."""
    drawn, generator = digits.draw(folder, seed, SIDE), torch.Generator().manual_seed(seed)
    (images, labels), (unlabelled, _) = drawn["usps"], drawn["mnist"]
    test, test_labels = digits.images(folder, "mnist", "test", SIDE)
    indices = zip(batches(len(images), BATCH, generator), batches(len(unlabelled), BATCH, generator), strict=True)

    @torch.no_grad()
    def accuracy(network: Callable[[Tensor], Tensor]) -> float:
        guesses = torch.cat([network(part).argmax(1) for part in test.split(1000)])
        return 100 * (guesses == test_labels).double().mean().item()

    return Data(((images[s], labels[s], unlabelled[t]) for s, t in indices), accuracy)


def checkpoint(step: int, steps: int) -> bool:
    """Whether the network is judged after this step, counted from 1."""
    return step % (steps // CHECKPOINTS) == 0


# ---- ADDA -------------------------------------------------------------------------------------------------------


def lenet() -> nn.Module:
    """From images to logits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(50 * 16, 500), nn.ReLU(), nn.Linear(500, CLASSES)),
    )


def adda(each: Data, steps: Steps) -> Accuracies:
    """First the source, then the game of encoder and discriminator."""
    source_network = lenet().to(memory_format=torch.channels_last)  # convolutions are faster so
    optimizer = torch.optim.Adam(source_network.parameters(), lr=1e-3, weight_decay=2.5e-5)
    for _ in range(steps.source):
        images, labels, _ = next(each.batches)
        descend(F.cross_entropy(source_network(images), labels), optimizer)
    found = {SOURCE_ONLY: [each.accuracy(source_network)], "ADDA": []}

    network, domain_disc = copy.deepcopy(source_network), DomainDiscriminator(CLASSES, 500, batch_norm=False)
    disc_game, encoder_game = AdversarialDiscriminativeLoss(), AdversarialDiscriminativeLoss()
    optimizers = [torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in (network, domain_disc)]
    for step in range(1, steps.adda + 1):
        images, _, target = next(each.batches)
        with torch.no_grad():
            source = source_network(images)
        logits = network(target)
        # both gradients are taken before either step, as in the authors' code
        encoder_loss = encoder_game(domain_disc(logits), "source")
        (gradient,) = torch.autograd.grad(encoder_loss, logits)
        on_source, on_target = domain_disc(torch.cat([source, logits.detach()])).chunk(2)
        disc_loss = 0.5 * (disc_game(on_source, "source") + disc_game(on_target, "target"))
        for optimizer in optimizers:
            optimizer.zero_grad()
        logits.backward(gradient)
        disc_loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if checkpoint(step, steps.adda):
            found["ADDA"].append(each.accuracy(network))
    return found


# ---- MCD --------------------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    """Features, and two heads that judge them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 48, 5), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        )
        self.heads = nn.ModuleList(self.head() for _ in range(2))

    @staticmethod
    def head() -> nn.Module:
        """From features to logits."""
        return nn.Sequential(
            *(nn.Dropout(0.5), nn.Linear(48 * 16, 100), nn.BatchNorm1d(100), nn.ReLU()),
            *(nn.Dropout(0.5), nn.Linear(100, 100), nn.BatchNorm1d(100), nn.ReLU()),
            *(nn.Dropout(0.5), nn.Linear(100, CLASSES)),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """The logits of both heads."""
        return self.logits_of(self.features(images))

    def logits_of(self, features: Tensor) -> list[Tensor]:
        """The same, of features."""
        return [head(features) for head in self.heads]

    def summed(self, images: Tensor) -> Tensor:
        """The sum of both."""
        return torch.stack(self(images)).sum(0)


def mcd(each: Data, steps: Steps) -> Accuracies:
    """Source only, all steps with the discrepancy times 0, and the method."""
    found: Accuracies = {}
    start = TwoHeads().state_dict()
    for row, weight in ((SOURCE_ONLY, None), (f"MCD{OFF}", 0.0), ("MCD", 1.0)):
        network = TwoHeads().to(memory_format=torch.channels_last)
        network.load_state_dict(start)
        found[row] = train(network, each, steps.mcd, weight)
    return found


def train(network: TwoHeads, each: Data, steps: int, weight: float | None) -> list[float]:
    """The accuracies at the checkpoints; without a weight only the first of the three steps is taken."""
    parts = (network.features, network.heads)
    features_optimizer, heads_optimizer = (
        torch.optim.Adam(part.parameters(), lr=2e-4, weight_decay=5e-4) for part in parts
    )
    discrepancy, found = ClassifierDiscrepancyLoss(), []

    def source_loss(features: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(logits, labels) for logits in network.logits_of(features)]).sum()

    def disagreement(features: Tensor) -> Tensor:
        return discrepancy(*(logits.softmax(1) for logits in network.logits_of(features)))

    for step in range(1, steps + 1):
        network.train()
        images, labels, target = next(each.batches)
        descend(source_loss(network.features(images), labels), features_optimizer, heads_optimizer)
        if weight is not None:
            with torch.no_grad():  # the heads alone learn now
                features, target_features = network.features(images), network.features(target)
            descend(source_loss(features, labels) - weight * disagreement(target_features), heads_optimizer)
            for _ in range(4):
                descend(weight * disagreement(network.features(target)), features_optimizer)
        if checkpoint(step, steps):
            found.append(each.accuracy(network.eval().summed))
    return found


def descend(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """A step of these optimizers; gradients that others have left are cleared before."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


# ---- the command ------------------------------------------------------------------------------------------------

METHODS = {"MCD": mcd, "ADDA": adda}  # the longer runs first


def measure(method: str, seed: int, *, folder: Path | None, steps: Steps) -> Accuracies:
    """The accuracies of one run: a job for a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return METHODS[method](data(seed, folder), steps)


def study(arguments: argparse.Namespace, console: Console) -> str:
    """Train both methods from each seed, and return the section."""
    seeds = range(arguments.seeds)
    if arguments.quick:
        job: Callable[..., Accuracies] = partial(measure, folder=None, steps=Steps(10, 10, 10))
    else:
        job = partial(once, measure, kept=arguments.out / "authors", code=code(), folder=arguments.data, steps=Steps())
    jobs = [(method, seed) for method in METHODS for seed in seeds]
    return section(run_all(job, jobs, console, small=arguments.quick), seeds)


def section(runs: dict[tuple[Any, ...], Accuracies], seeds: range) -> str:
    """The section of the page, in Markdown."""
    short = json.loads((RESULTS / "digits.json").read_text())["results"][SHIFT]
    columns = ("source only", "switched off", "last step", "minus source only, 95 % interval", "best of ten")
    lines = head("", *columns, "published", "800 steps")
    for method in METHODS:
        each = [runs[method, seed] for seed in seeds]
        final = {row: np.array([one[row][-1] for one in each]) for row in each[0]}
        off = final.get(f"{method}{OFF}")
        (paper,) = (figures[SHIFT] for figures in digits.TASK.published.values() if method in figures[SHIFT])
        lines.append(
            line(
                method,
                spread(final[SOURCE_ONLY]),
                "" if off is None else spread(off),
                spread(final[method]),
                gain(difference(final[method], final[SOURCE_ONLY]), lower=False),
                spread(np.array([max(one[method]) for one in each])),
                f"{paper[method]:.1f}",
                spread(last(short[method], digits.TASK.score)),
            )
        )
    return "\n\n".join(
        [
            "## ADDA and MCD at the size of their papers",
            (__doc__ or "").strip(),
            "\n".join(lines),
            (
                f"Accuracy in %, mean and standard deviation over the seeds 0 to {len(seeds) - 1}; *800 steps* are the "
                f"rows of the digits, with 800 steps at 16 x 16 pixels. {listed(versions())}."
            ),
        ]
    )
