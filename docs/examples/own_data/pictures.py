"""The pictures of the report, as SVG that is readable on light and dark pages."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor

from own_data.choosing import Choice
from own_data.files import Data
from own_data.suite import SOURCE_ONLY
from own_data.training import Candidate, Trainer

SOURCE, TARGET, GREY = "#3a86d8", "#ee7f2d", "#7c8087"
STYLE: dict[str, Any] = {
    "savefig.transparent": True,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 10,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), GREY),
    **dict.fromkeys(("xtick.color", "ytick.color", "text.color"), GREY),
}
SHOWN = 400  # samples of a domain


def svg(figure: Figure) -> str:
    """The SVG element, without the file header."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue()[text.getvalue().index("<svg") :]


def drawn(trainer: Trainer, candidates: list[Candidate], choice: Choice) -> dict[str, str]:
    """All pictures, by title."""
    with mpl.rc_context(STYLE):
        pictures = {
            "On the way": on_the_way(candidates, choice),
            "Features of both domains, in two dimensions": before_and_after(trainer, candidates, choice),
        }
        if trainer.data.classes:
            pictures["What the target consists of"] = proportions(trainer.data, candidates, choice)
        else:
            pictures["Predicted values"] = values(trainer.data, candidates, choice)
        return {title: svg(figure) for title, figure in pictures.items()}


def on_the_way(candidates: list[Candidate], choice: Choice) -> Figure:
    """Score and distance of each row over the steps, at the default weights, as means over seeds."""
    figure = Figure(figsize=(9, 4))
    axes = figure.subplots(1, 2)
    rows = list(dict.fromkeys(candidate.run.row for candidate in candidates))
    for row, color in zip(rows, mpl.color_sequences["tab10"], strict=False):
        mine = [
            (c, s) for c, s in zip(candidates, choice.scores, strict=True) if c.run.row == row and c.run.factor == 1
        ]
        steps = sorted({candidate.step for candidate, _ in mine})
        for axis, values in zip(axes, ([s for _, s in mine], [c.distance for c, _ in mine]), strict=True):
            at = [[value for (c, _), value in zip(mine, values, strict=True) if c.step == step] for step in steps]
            means = [torch.tensor(some).nanmean().item() for some in at]
            axis.plot(steps, means, color=color, marker="o", markersize=3, label=row)
    axes[0].set(title="score (no label of the target)", xlabel="step")
    axes[1].set(title="unbiased MMD of the features", xlabel="step")
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def last_without_adaptation(candidates: list[Candidate]) -> Candidate:
    """Source only, after its last step."""
    return [candidate for candidate in candidates if candidate.run.row == SOURCE_ONLY][-1]


def before_and_after(trainer: Trainer, candidates: list[Candidate], choice: Choice) -> Figure:
    """Features of source only and of the chosen model."""
    figure = Figure(figsize=(9, 4))
    plain = last_without_adaptation(candidates)
    for axis, candidate in zip(figure.subplots(1, 2), (plain, choice.candidate), strict=True):
        points = projected(trainer, candidate)
        for part, color, label in zip(points, (SOURCE, TARGET), ("source", "target"), strict=True):
            axis.scatter(*part.T.tolist(), s=7, alpha=0.6, color=color, label=label, linewidths=0)
        axis.set(title=candidate.run.row, xticks=[], yticks=[])
        axis.legend()
    return figure


@torch.no_grad()
def projected(trainer: Trainer, candidate: Candidate) -> tuple[Tensor, Tensor]:
    """The first two principal components of the features of both domains together."""
    network = trainer.network(candidate)
    source, target = (trainer.features(network, x[:SHOWN]) for x in (trainer.data.source, trainer.data.target))
    both = torch.cat([source, target]).nan_to_num()
    points = torch.from_numpy(PCA(2).fit_transform(both.double().numpy()))
    return points[: len(source)], points[len(source) :]


def proportions(data: Data, candidates: list[Candidate], choice: Choice) -> Figure:
    """Classes of the source labels, and predicted classes of the target."""
    figure = Figure(figsize=(9, 3.2))
    axis = figure.subplots()
    plain = last_without_adaptation(candidates)
    bars = {
        "source, labels": (data.labels, SOURCE),
        f"target, by {plain.run.row}": (plain.outputs.argmax(1), GREY),
        f"target, by the chosen model ({choice.candidate.run.row})": (choice.candidate.outputs.argmax(1), TARGET),
    }
    places = range(len(data.classes))
    for number, (label, (classes, color)) in enumerate(bars.items()):
        shares = (classes.bincount(minlength=len(places)) / len(classes)).tolist()
        axis.bar([place + 0.27 * (number - 1) for place in places], shares, width=0.25, color=color, label=label)
    axis.set_xticks(places, data.classes)
    axis.set(ylabel="share")
    axis.legend(fontsize=8)
    return figure


def values(data: Data, candidates: list[Candidate], choice: Choice) -> Figure:
    """Distributions of the source labels and of the target predictions."""
    figure = Figure(figsize=(9, 3.2))
    axis = figure.subplots()
    plain = last_without_adaptation(candidates)
    spread = {
        "source, labels": (data.labels, SOURCE),
        f"target, by {plain.run.row}": (plain.outputs, GREY),
        f"target, by the chosen model ({choice.candidate.run.row})": (choice.candidate.outputs, TARGET),
    }
    low, high = data.labels.min().item(), data.labels.max().item()
    for label, (numbers, color) in spread.items():
        axis.hist(
            numbers.flatten().clamp(low, high).tolist(),
            bins=30,
            density=True,
            histtype="step",
            color=color,
            label=label,
        )
    axis.set(xlabel="value", yticks=[])
    axis.legend(fontsize=8)
    return figure
