"""MCD: where two classifiers disagree, after each of the three steps, and the discrepancy in two runs."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from adaption import ClassifierDiscrepancyLoss
from adaption.functional import classifier_discrepancy
from pictures.style import BAD, GOOD, HEAT, SOURCE, TARGET, THIRD, bare, boundary, epochs, field, grid, panels, scatter
from pictures.toys import batch, small_net, step

SHIFT = torch.tensor([1.6, 0.0])
EPOCHS, STEPS = 12, 6


class Run:
    """An extractor with two heads for two classes."""

    def __init__(self, repetitions: int) -> None:
        torch.manual_seed(0)
        self.extractor, self.heads = small_net(2, 32, 2), nn.ModuleList(small_net(2, 16, 2) for _ in range(2))
        self.features = torch.optim.Adam(self.extractor.parameters(), lr=1e-2)
        self.both = torch.optim.Adam(self.heads.parameters(), lr=1e-2)
        self.repetitions = repetitions
        self.log = ClassifierDiscrepancyLoss()

    def outputs(self, samples: Tensor) -> list[Tensor]:
        """Return the logits of both heads."""
        features = self.extractor(samples)
        return [head(features) for head in self.heads]

    def task(self) -> Tensor:
        """Return the cross entropy of both heads on the source."""
        samples, labels = batch(classes=2, spread=0.5)
        return sum((nn.functional.cross_entropy(logits, labels) for logits in self.outputs(samples)), torch.tensor(0.0))

    def discrepancy(self) -> Tensor:
        """Return how far the heads are apart on the target."""
        first, second = (logits.softmax(1) for logits in self.outputs(batch(SHIFT, classes=2, spread=0.5)[0]))
        return classifier_discrepancy(first, second)

    def agree(self, steps: int) -> None:
        """Step A: features and heads learn the source."""
        for _ in range(steps):
            loss = self.task()
            self.features.zero_grad()
            step(self.both, loss)
            self.features.step()

    def part(self, steps: int) -> None:
        """Step B: the heads disagree on the target."""
        for _ in range(steps):
            step(self.both, self.task() - self.discrepancy())

    def follow(self, steps: int) -> None:
        """Step C: the features bring them together."""
        for _ in range(steps):
            first, second = (logits.softmax(1) for logits in self.outputs(batch(SHIFT, classes=2, spread=0.5)[0]))
            step(self.features, self.log(first, second))

    def epoch(self) -> float:
        """Return what step C logs."""
        for _ in range(STEPS):
            self.agree(1)
            self.part(1)
            self.follow(self.repetitions)
        value: float = self.log.compute().item()
        self.log.reset()
        return value

    def show(self, axes: Axes, title: str) -> None:
        """Draw the samples over the discrepancy of every place."""
        for shift, color, label in ((0.0, SOURCE, "source"), (SHIFT, TARGET, "target")):
            samples, labels = batch(shift, size=80, classes=2, spread=0.5)
            scatter(axes, samples, color, labels, label)
        axes.set(xlim=(-4, 5.5), ylim=(-2.2, 3.2))
        first, second = (logits.softmax(1) for logits in self.outputs(grid(axes)))
        field(axes, (first - second).abs().mean(1), cmap=HEAT, vmin=0, vmax=1)
        for head in (first, second):
            boundary(axes, head[:, 0] - head[:, 1], THIRD, linewidths=1)
        bare(axes, title)


def draw() -> Figure:
    """One run, stopped three times, and two logs."""
    figure, axes = panels(4, ratios=[1, 1, 1, 1.15], width=8.6, height=2.4)
    run = Run(repetitions=4)
    run.agree(60)
    run.show(axes[0], "A: learn the source")
    axes[0].legend(loc="upper left", ncols=2, handletextpad=0.1, columnspacing=0.6)
    run.part(60)
    run.show(axes[1], "B: the heads part")
    run.follow(80)
    run.show(axes[2], "C: the features follow")
    for repetitions, color, label in ((4, GOOD, "step C four times"), (0, BAD, "step C left out")):
        run = Run(max(repetitions, 1))
        run.agree(40)
        if not repetitions:
            run.features.param_groups[0]["lr"] = 0.0
        epochs(axes[3], [run.epoch() for _ in range(EPOCHS)], color, label)
    axes[3].set_ylim(0, 0.62)
    axes[3].legend(loc="upper left")
    return figure
