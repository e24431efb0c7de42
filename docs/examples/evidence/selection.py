"""Choosing among adapted models without a label of the target: what each score is worth, on pools of checkpoints.

The candidates are the rows of the digits and the objects, their losses times 0.1, 1 and 10, after two, four and eight
epochs; collapsed runs are kept in. Scores look at the target's training images. A choice is judged by the accuracy on
the target's test part; on the objects both are the same pictures. The ensemble of the agreement is the mean of all
candidates of the same shift and seed. Within the better half, the other half has no score and comes last.

A fifth of the source is held out. It gives the source's accuracy, IWV and DEV, and the temperature that divides the
logits where a row says "calibrated". The density ratios come from a logistic regression on the features of each
candidate. The intervals are Student's, which know no bound: those of correlations may pass 1.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from digits import run_all
from numpy.typing import NDArray
from rich.console import Console
from sanity import SCORES
from scipy import stats
from torch.nn import functional as F

from adaption import EnsembleAgreement
from adaption.functional import density_ratio
from evidence.kept import listed, versions
from evidence.pool import POOLS, Run, keep, runs
from evidence.report import GLUE, head, line
from evidence.task import SOURCE_ONLY

WITHIN = "agreement within the better half by information maximisation"
CALIBRATED = ("entropy", "information maximisation", "nuclear norm")  # also of logits at one scale
COLLAPSED = 20.0  # percent: a choice below twice the chance of ten classes


class Unit(NamedTuple):
    """The candidates of one shift and seed."""

    names: list[str]
    accuracy: NDArray
    scores: dict[str, NDArray]  # the larger, the better the model is taken to be; NaN where a score has no value
    last: dict[str, float]  # accuracy of each row at weight 1 after its last epoch


# ---- scores of candidates ---------------------------------------------------------------------------------------


def unit(runs: list[Run], folder: Path) -> Unit:
    """The candidates of some runs, from their files."""
    names: list[str] = []
    said: list[dict[str, NDArray]] = []
    last: dict[str, float] = {}
    for run in runs:
        with np.load(run.file(folder), allow_pickle=False) as file:
            kept = dict(file)
        for place, epoch in enumerate(kept["epoch"]):
            names.append(f"{run.row} x {run.factor:g}, epoch {epoch}")
            each = {key: kept[key][place] for key in ("accuracy", "target_logits", "held_logits", "domain_logits")}
            said.append({**each, "distance": kept["distance"][place], "held_labels": kept["held_labels"]})
            said[-1]["numbers"] = kept["numbers"]
        if run.factor == 1:
            last[run.row] = float(kept["accuracy"][-1])
    every = [torch.from_numpy(one["target_logits"]) for one in said]
    ensemble, scores = mean_prediction(every), {}
    for one, logits in zip(said, every, strict=True):
        for name, value in scores_of(one, logits, ensemble).items():
            scores.setdefault(name, []).append(value)
    scores[WITHIN] = within_the_better_half(every, scores["information maximisation"])
    accuracy = np.array([one["accuracy"] for one in said])
    return Unit(names, accuracy, {name: np.array(values) for name, values in scores.items()}, last)


def mean_prediction(candidates: list[torch.Tensor]) -> torch.Tensor:
    """The ensemble, of all whose logits are finite."""
    return torch.stack([logits.double().softmax(1) for logits in candidates if logits.isfinite().all()]).mean(0)


def within_the_better_half(candidates: list[torch.Tensor], first: list[float]) -> list[float]:
    """Agreement with the ensemble of those whose first score is no worse than the median; the others are out."""
    better = [value >= np.nanmedian(first) for value in first]
    ensemble = mean_prediction(list(itertools.compress(candidates, better)))
    return [
        score(EnsembleAgreement, {"logits": logits, "ensemble_logits": ensemble}) if isin else float("nan")
        for logits, isin in zip(candidates, better, strict=True)
    ]


def scores_of(said: dict[str, NDArray], logits: torch.Tensor, ensemble: torch.Tensor) -> dict[str, float]:
    """What each score says of a candidate, turned so that more is better."""
    held, labels = torch.from_numpy(said["held_logits"]), torch.from_numpy(said["held_labels"])
    ratios = density_ratio(torch.from_numpy(said["domain_logits"]), *(int(number) for number in said["numbers"]))
    batch = {
        "logits": logits,
        "target_logits": logits,
        "ensemble_logits": ensemble,
        "losses": F.cross_entropy(held, labels, reduction="none"),
        "weights": ratios,
    }
    found = {name: score(kind, batch) for name, kind in SCORES.items()}
    calibrated = {"target_logits": logits / temperature(held, labels)}
    found |= {f"{name}, calibrated": score(SCORES[name], calibrated) for name in CALIBRATED}
    found["small domain distance (MMD)"] = -float(said["distance"])
    found["source accuracy, held out"] = float((held.argmax(1) == labels).double().mean())
    return found


def temperature(held: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of 41 temperatures from 0.1 to 10, the one with the least cross entropy on the held-out source."""
    every = torch.logspace(-1, 1, 41)
    return every[torch.stack([F.cross_entropy(held / each, labels) for each in every]).argmin()]


def score(kind: Callable[[], Any], batch: dict[str, torch.Tensor]) -> float:
    """A score's value, NaN where it refuses the batch."""
    metric = kind()
    try:
        metric.update(**metric._filter_kwargs(**batch))  # noqa: SLF001 - as a MetricCollection does
    except ValueError:  # ratios that are not finite, or all 0
        return float("nan")
    value = float(metric.compute())
    return value if metric.higher_is_better else -value


# ---- what a choice is worth -------------------------------------------------------------------------------------


class Worth(NamedTuple):
    """A score on one unit: rank correlations with the accuracy, and what its choice loses against the best."""

    spearman: float
    kendall: float
    lost: float
    chosen: str
    accuracy: float


def worth(one: Unit, name: str) -> Worth:
    """Candidates without a value come last, and are never chosen if there are others."""
    values = one.scores[name]
    ranked = np.where(np.isnan(values), -np.inf, values)
    with np.errstate(invalid="ignore"):
        spearman = np.corrcoef(stats.rankdata(ranked), stats.rankdata(one.accuracy))[0, 1]
        kendall = stats.kendalltau(stats.rankdata(ranked), one.accuracy).statistic
    best = int(ranked.argmax())
    lost = float(one.accuracy.max() - one.accuracy[best])
    return Worth(float(spearman), float(kendall), lost, one.names[best], float(one.accuracy[best]))


def interval(values: list[float], digits: int, sign: str = "") -> str:
    """The mean, and where it lies with 95 % confidence by Student's t, over shifts and seeds."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return ""
    mean = f"{known.mean():{sign}.{digits}f}"
    if len(known) < 2:
        return mean
    half = stats.t.ppf(0.975, len(known) - 1) * stats.sem(known)
    return f"{mean} ({known.mean() - half:{sign}.{digits}f}{GLUE}to{GLUE}{known.mean() + half:{sign}.{digits}f})"


def table(units: list[Unit]) -> list[str]:
    """A line for each score, the best in the mean first, between the oracle and a choice by chance."""
    columns = ("Spearman", "Kendall", "points lost", "worst", "collapsed choices", "chosen most often")
    lines = head("chosen by", *columns)
    lines.append(line("the oracle", "+1.00", "+1.00", "0.0", "0.0", "0", ""))
    found = {name: [worth(one, name) for one in units] for name in units[0].scores}
    for name, each in sorted(found.items(), key=lambda pair: np.mean([one.lost for one in pair[1]])):
        chosen, times = Counter(one.chosen for one in each).most_common(1)[0]
        lines.append(
            line(
                name,
                interval([one.spearman for one in each], 2, "+"),
                interval([one.kendall for one in each], 2, "+"),
                interval([one.lost for one in each], 1),
                f"{max(one.lost for one in each):.1f}",
                f"{sum(one.accuracy < COLLAPSED for one in each)} of {len(each)}",
                f"{chosen} ({times})",
            )
        )
    chance = [float((one.accuracy.max() - one.accuracy).mean()) for one in units]
    worst = max(float(one.accuracy.max() - one.accuracy.min()) for one in units)
    share = float(np.mean([np.mean(one.accuracy < COLLAPSED) for one in units]))
    lines.append(line("chance", "", "", interval(chance, 1), f"{worst:.1f}", f"{100 * share:.0f} %", ""))
    return lines


def always_last(units: list[Unit]) -> list[str]:
    """What is lost by always taking the last epoch of one row at weight 1."""
    lines = head("always the last epoch of", "points lost", "worst")
    lost = {row: [float(one.accuracy.max()) - one.last[row] for one in units] for row in units[0].last}
    for row, values in sorted(lost.items(), key=lambda pair: np.mean(pair[1])):
        lines.append(line(row, interval(values, 1), f"{max(values):.1f}"))
    return lines


def subsection(name: str, units: list[Unit], taken: float, seeds: int) -> str:
    """The pools of a task, in Markdown."""
    epochs = ", ".join(map(str, POOLS[name].checkpoints))
    parts = (
        f"### {name.capitalize()}: {len(units)} pools of {len(units[0].names)} candidates",
        (
            f"After epochs {epochs}. Means over shifts and seeds, with 95 % intervals. A choice is collapsed where "
            f"it is right on less than {COLLAPSED:.0f} %; for chance, the share of such candidates."
        ),
        "\n".join(table(units)),
        "\n".join(always_last(units)),
        f"Seeds 0 to {seeds - 1}, {taken / 60:.0f} minutes of computing on one core; {listed(versions())}.",
    )
    return "\n\n".join(parts)


def units_of(runs: list[Run], folder: Path) -> list[Unit]:
    """A unit for each shift and seed."""
    apart: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        apart.setdefault((run.shift, run.seed), []).append(run)
    return [unit(some, folder) for some in apart.values()]


# ---- the command ------------------------------------------------------------------------------------------------


class Study(NamedTuple):
    """What the command asks of a task before it begins."""

    needs: tuple[str, ...]
    seeds: int


TASK = Study(tuple(file for pool in POOLS.values() for file in pool.needs), seeds=2)
QUICK_ROWS, QUICK_STEPS = (SOURCE_ONLY, "MMD", "ADDA"), 1


def study(arguments: argparse.Namespace, console: Console) -> str:
    """Train the runs whose files are not there yet, and return the section."""
    quick, seeds = arguments.quick, range(arguments.seeds)
    folder, steps = arguments.out / ("selection_quick" if quick else "selection"), QUICK_STEPS if quick else None
    every = {
        name: list(runs(name, pool.shifts[:1] if quick else pool.shifts, seeds, QUICK_ROWS if quick else None))
        for name, pool in POOLS.items()
    }
    missing = [(run,) for some in every.values() for run in some if not run.is_kept(folder, steps)]
    if missing and arguments.rewrite:
        msg = f"{len(missing)} runs are not in {folder}: train them, without --rewrite."
        raise SystemExit(msg)
    if missing:
        job = partial(keep, data=None if quick else arguments.data, folder=folder, steps=steps)
        run_all(job, missing, console, small=quick)
    parts = ["## Choosing a model", (__doc__ or "").strip()]
    for name, some in every.items():
        taken = sum(seconds(run, folder) for run in some)
        parts.append(subsection(name, units_of(some, folder), taken, len(seeds)))
    return "\n\n".join(parts)


def seconds(run: Run, folder: Path) -> float:
    """How long a run took."""
    with np.load(run.file(folder), allow_pickle=False) as file:
        return float(file["seconds"])
