"""Write the results: a table on the screen, a report page, and the output files."""

from __future__ import annotations

import csv
import html
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from rich.table import Table

from own_data.choosing import Choice
from own_data.pictures import drawn
from own_data.shift import Shift
from own_data.suite import SOURCE_ONLY
from own_data.training import Candidate, Trainer

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --page: #fdfdfc; --line: #d5d7da; --mark: #e8f3ee; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe1e4; --page: #17181a; --line: #3c3f44; --mark: #1d2f28; } }
body { font: 1rem/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto;
       max-width: 58rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.box { overflow-x: auto; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; } th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); }
td { text-align: right; } td:first-child, th { text-align: left; } tr.kept { background: var(--mark); }
"""


class Finding(NamedTuple):
    """All results of the command."""

    trainer: Trainer
    shift: Shift
    candidates: list[Candidate]
    choice: Choice
    notes: list[str]  # how it was done, a sentence each

    @property
    def figure(self) -> str:
        """The measure for target labels, if there are any."""
        return "accuracy %" if self.trainer.data.classes else "error (RMSE)"


class Line(NamedTuple):
    """A row and a weight after the last step: means over seeds."""

    row: str
    factor: float
    seeds: int
    score: float
    distance: float
    figure: float | None
    kept: bool


def lines(finding: Finding) -> list[Line]:
    """One line for each trained row and weight."""
    groups: dict[tuple[str, float], list[tuple[Candidate, float]]] = {}
    for candidate, score in zip(finding.candidates, finding.choice.scores, strict=True):
        if candidate.step == finding.trainer.steps:
            groups.setdefault((candidate.run.row, candidate.run.factor), []).append((candidate, score))
    kept = finding.choice.candidate.run
    return [
        Line(
            row,
            factor,
            len(some),
            torch.tensor([score for _, score in some]).nanmean().item(),
            mean([candidate.distance for candidate, _ in some]),
            figure(finding, [candidate.accuracy for candidate, _ in some]),
            (row, factor) == (kept.row, kept.factor),
        )
        for (row, factor), some in groups.items()
    ]


def figure(finding: Finding, values: list[float | None]) -> float | None:
    """The mean accuracy in percent, or the mean error; None without target labels."""
    known = [value for value in values if value is not None]
    return mean(known) * (100 if finding.trainer.data.classes else 1) if known else None


def cells(finding: Finding) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table."""
    labelled = finding.trainer.data.target_labels is not None
    head = ["loss", "weight", "seeds", "score", "MMD", *([finding.figure] if labelled else [])]
    rows = []
    for line in lines(finding):
        name = f"{line.row} (kept)" if line.kept else line.row
        score = "out" if math.isnan(line.score) else f"{line.score:.3f}"
        row = [name, f"x {line.factor:g}", str(line.seeds), score, f"{line.distance:.4f}"]
        rows.append([*row, *([f"{line.figure:.1f}"] if line.figure is not None else [])])
    return head, rows


def sentences(finding: Finding) -> list[str]:
    """The answer, in words."""
    choice, run = finding.choice, finding.choice.candidate.run
    where = f"{run.row}, weight x {run.factor:g}, seed {run.seed}, after {choice.candidate.step} steps"
    said = [finding.shift.sentence(), f"Kept, without a label of the target: {where}.", *choice.doubts]
    kept = figure(finding, [choice.candidate.accuracy])
    known = [(line.figure, line) for line in lines(finding) if line.figure is not None]
    plain = next((value for value, line in known if line.row == SOURCE_ONLY), None)
    if kept is not None and plain is not None:
        best, line = (max if finding.trainer.data.classes else min)(known, key=lambda pair: pair[0])
        said.append(
            f"The target's file has labels, which had no part in the choice. By these, {finding.figure}: kept model "
            f"{kept:.1f}, source only {plain:.1f}, best row of the table {best:.1f} "
            f"({line.row}, weight x {line.factor:g})."
        )
    return said


def on_screen(finding: Finding) -> Table:
    """The table for the terminal."""
    head, rows = cells(finding)
    table = Table(title="after the last step, means over seeds")
    for column in head:
        table.add_column(column, justify="left" if column == "loss" else "right")
    for row in rows:
        table.add_row(*row)
    return table


# ---- files ------------------------------------------------------------------------------------------------------


def write(finding: Finding, out: Path) -> None:
    """Write all files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(page(finding), encoding="utf-8")
    (out / "results.json").write_text(json.dumps(results(finding), indent=1), encoding="utf-8")
    torch.save(finding.choice.candidate.state, out / "model.pt")
    predictions(finding, out / "predictions.csv")


def page(finding: Finding) -> str:
    """The report as a single HTML page."""
    head, rows = cells(finding)
    kept = [line.kept for line in lines(finding)]
    body = [
        "<h1>Adapting to the target</h1>",
        *(f"<p>{html.escape(sentence)}</p>" for sentence in sentences(finding)),
        "<h2>What differs most</h2>",
        listed(finding.shift.differences()),
        "<h2>What was tried</h2>",
        '<div class="box"><table><tr>' + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>",
        *(
            f"<tr{' class=kept' if isit else ''}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row, isit in zip(rows, kept, strict=True)
        ),
        "</table></div>",
    ]
    for title, picture in drawn(finding.trainer, finding.candidates, finding.choice).items():
        body += [f"<h2>{html.escape(title)}</h2>", f'<div role="img" aria-label="{html.escape(title)}">{picture}</div>']
    body += ["<h2>How it was done</h2>", listed(finding.notes)]
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    start = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{viewport}<title>Adapting to the target</title>'
    )
    return (
        f'{start}<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        + "\n".join(body)
        + "</body></html>"
    )


def listed(items: list[str]) -> str:
    """The items as an HTML list."""
    return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def predictions(finding: Finding, path: Path) -> None:
    """A line for each row of the target's file, in its order."""
    trainer, data = finding.trainer, finding.trainer.data
    answers = trainer.answers(trainer.network(finding.choice.candidate), data.target)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if not data.classes:
            writer.writerow(["prediction"])
            writer.writerows([value] for value in answers.flatten().tolist())
            return
        sure, classes = answers.softmax(1).max(1)
        writer.writerow(["prediction", "probability"])
        for number, probability in zip(classes.tolist(), sure.tolist(), strict=True):
            writer.writerow([data.classes[number], f"{probability:.4f}"])


def results(finding: Finding) -> dict[str, Any]:
    """All results, for JSON."""
    packages = ("adaption", "torch", "torchmetrics", "scikit-learn")
    scored = zip(finding.candidates, finding.choice.scores, strict=True)
    return {
        "shift": finding.shift._asdict(),
        "kept": {**finding.choice.candidate.run._asdict(), "step": finding.choice.candidate.step},
        "said": sentences(finding),
        "notes": finding.notes,
        "classes": finding.trainer.data.classes,
        "candidates": [
            {
                **candidate.run._asdict(),
                "step": candidate.step,
                "score": None if math.isnan(score) else score,
                "distance": candidate.distance,
                "figure": candidate.accuracy,
            }
            for candidate, score in scored
        ],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
