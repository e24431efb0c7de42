"""How well `LabelShiftWeights` finds the frequencies of the classes, where nothing but these differs.

A network with two convolutions learns from the 5,000 images of MNIST's training part, moved by up to two pixels. Of the
test part, one half gives the labelled samples, drawn as they come, and the other the unlabelled target, each with 2,000
samples, or 500. In the target the shares of the classes 0 to 9 rise evenly, so that the last is three or nine times as
frequent as the first. The error is the difference from the true ratio of the labels that were drawn, in percent of it:
the mean over the ten classes, and the largest of them. *Calibrated* means that the logits are divided by the
temperature at which they name the labelled samples with the least cross entropy.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from digits import run_all
from methods import CLASSES
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from adaption.functional import label_shift_weights
from evidence.data import arrays
from evidence.kept import listed, versions
from evidence.label_shift import shares
from evidence.selection import Study, temperature

TASK = Study(("mnist",), seeds=5)
BATCH, EPOCHS = 125, 10
RATIOS = {"as frequent": 1, "one to three": 3, "one to nine": 9}
SIZES = (500, 2000)
ESTIMATES = ("BBSE", "EM", "EM, calibrated")

# shift -> number of samples of each domain -> estimate -> the error of each class in percent
Errors = dict[str, dict[int, dict[str, list[float]]]]


def study(arguments: argparse.Namespace, console: Console) -> str:
    """Train a network for each seed, and return the section. Nothing is kept: it takes three minutes."""
    folder, epochs = (None, 1) if arguments.quick else (arguments.data, EPOCHS)
    jobs = [(seed,) for seed in range(arguments.seeds)]
    runs = run_all(partial(measure, folder=folder, epochs=epochs), jobs, console, small=arguments.quick)
    accuracies, errors = zip(*runs.values(), strict=True)
    return section(list(accuracies), list(errors))


def measure(seed: int, *, folder: Path | None, epochs: int) -> tuple[float, Errors]:
    """The accuracy of a network on the target that is one to nine, and the errors of all estimates."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = trained(*images(folder, "train"), epochs)
    x, labels = images(folder, "test")
    with torch.no_grad():
        logits = network.eval()(x)
    order = torch.randperm(len(x))
    held_out, pool = order[: len(x) // 2], order[len(x) // 2 :]
    errors: Errors = {shift: {} for shift in RATIOS}
    accuracy = 0.0
    for shift, ratio in RATIOS.items():
        for size in SIZES:
            source, target = held_out[:size], draw(pool, labels, size, ratio)
            truth = shares(labels[target]) / shares(labels[source])
            scale = temperature(logits[source], labels[source])
            found = (
                label_shift_weights(logits[source], labels[source], logits[target]),
                label_shift_weights(logits[source], labels[source], logits[target], method="em"),
                label_shift_weights(logits[source] / scale, labels[source], logits[target] / scale, method="em"),
            )
            errors[shift][size] = {
                name: (100 * (weights / truth - 1).abs()).tolist()
                for name, weights in zip(ESTIMATES, found, strict=True)
            }
            accuracy = float((logits[target].argmax(1) == labels[target]).float().mean())
    return 100 * accuracy, errors


def images(folder: Path | None, part: str) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], and their labels."""
    file = arrays(folder, "mnist")
    return torch.from_numpy(file[f"X_{part}"]).unsqueeze(1).float() / 255, torch.from_numpy(file[f"y_{part}"]).long()


def trained(x: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A network after some epochs on images that are moved a little."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.4), nn.Linear(32 * 49, CLASSES)),
    )
    optimizer = torch.optim.Adam(network.parameters())
    steps = epochs * len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(BATCH):
            moved = torch.roll(x[index], torch.randint(-2, 3, (2,)).tolist(), (2, 3))
            optimizer.zero_grad()
            F.cross_entropy(network(moved), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return network


def draw(pool: Tensor, labels: Tensor, size: int, ratio: int) -> Tensor:
    """The first samples of each class in a pool, so that the last is `ratio` times as frequent as the first."""
    wanted = torch.linspace(1, ratio, CLASSES)
    counts = (size * wanted / wanted.sum()).round().int().tolist()
    return torch.cat([pool[labels[pool] == k][:count] for k, count in enumerate(counts)])


def section(accuracies: list[float], errors: list[Errors]) -> str:
    """The section of the page, in Markdown."""
    rows = [
        "| | " + " | ".join(f"{shift}: mean error %, largest %" for shift in RATIOS) + " |",
        "| --- |" + " ---: |" * len(RATIOS),
    ]
    for size in SIZES:
        for name in ESTIMATES:
            cells = []
            for shift in RATIOS:
                runs = torch.tensor([one[shift][size][name] for one in errors])  # (seeds, classes)
                cells.append(f"{runs.mean():.1f}, {runs.amax(1).mean():.1f} (at most {runs.max():.1f})")
            rows.append(f"| {name}, {size:,} samples | " + " | ".join(cells) + " |")
    return "\n\n".join(
        [
            "## The weights of the classes",
            (__doc__ or "").strip(),
            "\n".join(rows),
            (
                f"The network is right on {min(accuracies):.1f} to {max(accuracies):.1f} % of the target that is one "
                f"to nine. Means over the seeds 0 to {len(errors) - 1}, in brackets the largest of all seeds and "
                f"classes; {listed(versions())}."
            ),
        ]
    )
