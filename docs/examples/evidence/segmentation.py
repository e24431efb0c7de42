"""Road scenes by day and at dusk, frames of CamVid, segmented into 11 classes.

The source is all 577 labelled frames by day. The dusk is one drive of 124 frames, a second apart: the losses see its
first half without labels, the score is taken on its second half, which training never sees. Images have 48 x 64 pixels,
scaled to [0, 1] and normalised by the mean and deviation of the source. The network halves the image twice, goes on
with dilated convolutions, and draws its logits up to the size of the image. For the first half of the run it learns
from the source alone, by Adam at 0.001; for the second, where the losses join in, at 0.0001 and falling. The weight of
the losses, 0.001, the rate of ADVENT's discriminator, 0.0001, and the way the rates fall are the paper's. The two
halves and the width of the discriminator were chosen on two other shifts with seeds from 100 on: dusk to day, and from
two drives by day to a third at half its brightness. With the paper's weight the discriminator comes close to winning;
with three times that weight the figures of the game, which need no labels, are those of a game that is on, so both
weights are shown. The score is the mean over the classes of intersection over union; the class void counts neither in
training nor in the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from methods import Method
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection

from adaption import DomainAdversarialEntropyLoss
from adaption.functional import entropy_map
from adaption.layers import SegmentationDiscriminator
from evidence.data import arrays
from evidence.task import Budget, Task, Trial, batches

CLASSES, VOID, IGNORED = 11, 11, -100  # cross entropy leaves out the last by itself
WIDTH = 64


class Segmenter(nn.Module):
    """A small fully convolutional network: `forward` gives the feature maps, `classify` the logits of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 32, 2, 1), (32, WIDTH, 2, 1), (WIDTH, WIDTH, 1, 2), (WIDTH, WIDTH, 1, 4), (WIDTH, WIDTH, 1, 2)]
        self.extract = nn.Sequential(*(block(*size) for size in sizes))
        self.head = nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps of shape `(N, WIDTH, H / 4, W / 4)`."""
        maps: Tensor = self.extract(images)
        return maps

    def classify(self, maps: Tensor) -> Tensor:
        """Logits of shape `(N, CLASSES, H, W)`."""
        return F.interpolate(self.head(maps), scale_factor=4, mode="bilinear")


def block(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Module:
    """A convolution, normalised within each image, so that neither domain leaves statistics to the other."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.ReLU())


# ---- the methods ------------------------------------------------------------------------------------------------


class AdversarialEntropy(Method):
    """ADVENT: the target's entropy maps are to look like the source's. Both games run in one backward pass."""

    def __init__(self, steps: int, weight: float) -> None:
        super().__init__()
        self.domain_disc = SegmentationDiscriminator(CLASSES, ndf=16)
        games = ("discriminator", "network")
        self.metrics = MetricCollection({game: DomainAdversarialEntropyLoss(self.domain_disc) for game in games})
        self.weight = weight
        self.alone = pretraining(steps)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Cross entropy, and after the first part of the run both games."""
        source, target = batch["source_logits"], batch["target_logits"]
        loss = F.cross_entropy(source, batch["labels"])
        self.alone -= 1
        if self.alone >= 0:
            return loss
        discriminator, network = self.metrics["discriminator"], self.metrics["network"]
        fooled = network.eval()(target, "source")  # the discriminator is frozen
        network.train()
        told = discriminator(source.detach(), "source") + discriminator(target.detach(), "target")
        return loss + self.weight * fooled + 0.5 * told


class EntropyMinimization(Method):
    """MinEnt, the simpler method of the same paper: the mean entropy of the target's predictions is to fall."""

    def __init__(self, steps: int, weight: float) -> None:
        super().__init__()
        self.metrics = MetricCollection({"entropy": MeanMetric()})
        self.weight = weight
        self.alone = pretraining(steps)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Cross entropy, and after the first part of the run the entropy."""
        entropy = entropy_map(batch["target_logits"]).sum(1).mean()
        self.metrics["entropy"].update(entropy.detach())
        self.alone -= 1
        return F.cross_entropy(batch["source_logits"], batch["labels"]) + (self.alone < 0) * self.weight * entropy


def pretraining(steps: int) -> int:
    """The steps on the source alone."""
    return steps // 2


ROWS: dict[str, Callable[[int], Method]] = {
    "source only": lambda _: Method(),
    "control": lambda steps: AdversarialEntropy(steps, weight=0.0),
    "ADVENT": lambda steps: AdversarialEntropy(steps, weight=0.001),
    "ADVENT, weight x 3": lambda steps: AdversarialEntropy(steps, weight=0.003),
    "MinEnt": lambda steps: EntropyMinimization(steps, weight=0.001),
}


# ---- the data and the score -------------------------------------------------------------------------------------


def frames(folder: Path | None, domain: str) -> tuple[Tensor, Tensor]:
    """Images of 48 x 64 pixels in [0, 1] and their labels, in the order of time."""
    files = arrays(folder, "camvid_day_dusk")
    order = files[f"name_{domain}"].argsort()
    images = torch.from_numpy(files[f"X_{domain}"][order]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(files[f"y_{domain}"][order]).long()[:, ::2, ::2]
    return F.avg_pool2d(images, 2), labels.masked_fill(labels == VOID, IGNORED)


def figures(guesses: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean intersection over union of the classes, and the share of pixels that are right."""
    counted = labels != IGNORED
    pairs = labels[counted] * CLASSES + guesses[counted]
    confusion = pairs.bincount(minlength=CLASSES**2).view(CLASSES, CLASSES).double()
    right, union = confusion.diag(), confusion.sum(0) + confusion.sum(1) - confusion.diag()
    iou = (right / union)[union > 0]
    return {"mIoU %": 100 * iou.mean().item(), "pixels %": 100 * (right.sum() / confusion.sum()).item()}


def begin(row: str, shift: str, seed: int, budget: Budget, folder: Path | None) -> Trial:
    """A row on a shift."""
    source_name, target_name = shift.split(" to ")
    (source, labels), (target, target_labels) = frames(folder, source_name), frames(folder, target_name)
    mean, deviation = source.mean((0, 2, 3), keepdim=True), source.std((0, 2, 3), keepdim=True)
    source, target = (source - mean) / deviation, (target - mean) / deviation
    half = len(target) // 2
    test, test_labels = target[half:], target_labels[half:]
    network = Segmenter()
    method = ROWS[row](budget.total)
    optimizer = torch.optim.Adam([{"params": part.parameters()} for part in (network, method)])
    learning = rates(budget.total)
    generator = torch.Generator().manual_seed(seed)
    source_index, target_index = batches(len(source), 8, generator), batches(half, 8, generator)

    def batch() -> dict[str, Any]:
        for group, rate in zip(optimizer.param_groups, next(learning), strict=True):
            group["lr"] = rate
        index = next(source_index)
        source_maps, target_maps = network(source[index]), network(target[next(target_index)])
        return {
            "labels": labels[index],
            "source_logits": network.classify(source_maps),
            "target_logits": network.classify(target_maps),
            "source": places(source_maps),
            "target": places(target_maps),
        }

    def score() -> dict[str, float]:
        guesses = [network.classify(network(part)).argmax(1) for part in test.split(64)]
        return figures(torch.cat(guesses), test_labels)

    return Trial(method, batch, score, optimizer)


def rates(steps: int) -> Iterator[tuple[float, float]]:
    """The learning rates of the network and the discriminator: in the second part of the run they fall to 0."""
    first = pretraining(steps)
    yield from [(1e-3, 0.0)] * first
    for step in range(steps - first):
        left = (1 - step / (steps - first)) ** 0.9  # the paper's schedule
        yield 1e-4 * left, 1e-4 * left


def places(maps: Tensor) -> Tensor:
    """The mean features of 2 x 3 parts of every image, for the domain distance."""
    return F.adaptive_avg_pool2d(maps, (2, 3)).flatten(2).mT.flatten(0, 1)


TASK = Task(
    title="Road scenes",
    about=__doc__,
    needs=("camvid_day_dusk",),
    shifts=("day to dusk",),
    rows=tuple(ROWS),
    begin=begin,
    budget=Budget(epochs=20, steps=30),
    score="mIoU %",
)
