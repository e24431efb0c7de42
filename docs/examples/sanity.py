"""What each score says of predictions that are known to be good or bad, and the table of docs/choosing-a-model.md.

Every line holds what a model says of 200 target samples of 10 classes, equally many of each. The labelled source, which
two of the scores look at, is named equally well by all of them: what happens on the target alone cannot be seen there.
The ensemble are the models of the table themselves. ``nox -s sanity`` writes the table; it takes a second.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

import adaption

SAMPLES, CLASSES = 200, 10
PAGE = Path(__file__).parents[1] / "choosing-a-model.md"
BEGIN, END = "<!-- sanity: written by nox -s sanity -->", "<!-- end of sanity -->"

# every score of the library, by the name of its column
SCORES: dict[str, type[Metric]] = {
    "entropy": adaption.EntropyMinimizationLoss,
    "information maximisation": adaption.InformationMaximizationLoss,
    "nuclear norm": adaption.NuclearNormMaximizationLoss,
    "class confusion": adaption.MinimumClassConfusionLoss,
    "pseudo labels": adaption.PseudoLabelLoss,
    "agreement": adaption.EnsembleAgreement,
    "SND": adaption.SoftNeighborhoodDensity,
    "IWV": adaption.ImportanceWeightedValidation,
    "DEV": adaption.DeepEmbeddedValidation,
}
LABELS = torch.arange(SAMPLES) % CLASSES


def models() -> dict[str, Tensor]:
    """The logits of each model, the same on every run."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(SAMPLES, CLASSES, generator=generator)

    right = F.one_hot(LABELS, CLASSES).float()
    good = 3 * right + noise()
    return {
        "perfect": 100 * right,
        "good": good,
        "the same, logits times 3": 3 * good,
        "collapsed to one class": 100 * right[:1].expand(SAMPLES, CLASSES),
        "uniform": torch.zeros(SAMPLES, CLASSES),
        "random": noise(),
        "random and confident": 10 * noise(),
    }


def values() -> dict[str, dict[str, float]]:
    """What each score says of each model."""
    every = models()
    source = {"losses": F.cross_entropy(every["good"], LABELS, reduction="none"), "weights": torch.ones(SAMPLES)}
    found: dict[str, dict[str, float]] = {}
    for model, logits in every.items():
        batch = {"logits": logits, "target_logits": logits, "ensemble_logits": list(every.values()), **source}
        found[model] = {}
        for name, kind in SCORES.items():
            metric: Any = kind()
            metric(**metric._filter_kwargs(**batch))  # noqa: SLF001 - as a MetricCollection does
            found[model][name] = metric.compute().item()
    return found


def prefers(name: str, model: str, other: str, found: dict[str, dict[str, float]]) -> bool:
    """Whether a score keeps the first of two models, and would not keep the other as well."""
    lead = found[model][name] - found[other][name]
    return (lead if SCORES[name].higher_is_better else -lead) > 1e-6


def table() -> str:
    """A line for each model, and what follows for each score."""
    found, every = values(), models()
    rows = [["the model is", "right %", *SCORES], ["---", *["---:"] * (len(SCORES) + 1)]]
    for model, scores in found.items():
        right = 100 * (every[model].argmax(1) == LABELS).double().mean().item()
        rows.append([model, f"{right:.0f}", *(f"{value:z.3f}" for value in scores.values())])
    for question, pair in (
        ("keeps the good one before the collapsed", ("good", "collapsed to one class")),
        ("and before the random and confident", ("good", "random and confident")),
    ):
        rows.append([f"*{question}*", "", *("yes" if prefers(name, *pair, found) else "**no**" for name in SCORES)])
    rows.append(["*best value*", "", *("high" if kind.higher_is_better else "low" for kind in SCORES.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Put the table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
