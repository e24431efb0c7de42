"""Choose a candidate without target labels, and say when not to adapt.

Information maximisation first selects the better half of the classifiers, which excludes collapsed ones. The rule keeps
the one that agrees most often with the mean prediction of that half. A regression has no such score: there the rule
keeps the candidate whose values are nearest to the median of all.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from adaption import EnsembleAgreement
from adaption.functional import information_maximization
from own_data.files import Data
from own_data.suite import CONTROL, SOURCE_ONLY
from own_data.training import Candidate

COLLAPSED = 0.9  # of the samples in one class


class Choice(NamedTuple):
    """The choice.

    Args:
        candidate: the one to keep.
        scores: one for each candidate, the larger the better; NaN for excluded ones.
        doubts: reasons not to adapt, or not to trust the result, one sentence each.
    """

    candidate: Candidate
    scores: list[float]
    doubts: list[str]


def choose(candidates: list[Candidate], data: Data, *, shifted: bool) -> Choice:
    """The candidate with the best score; without a shift, only candidates without adaptation count."""
    taken = [candidate for candidate in candidates if candidate.run.row != CONTROL]
    scores = of_classifiers(taken) if data.classes else of_regressions(taken)
    eligible = [(score, c) for score, c in zip(scores, taken, strict=True) if shifted or c.run.row == SOURCE_ONLY]
    _, best = max(eligible, key=lambda pair: -math.inf if math.isnan(pair[0]) else pair[0])
    doubts = []
    if not shifted:
        doubts.append("There is no shift to adapt to: what was kept is the best of source only.")
    elif best.run.row == SOURCE_ONLY:
        doubts.append("No loss has a better score than source only: adaptation does not help here, as far as one sees.")
    if data.classes:
        doubts += doubts_of_classes(best, taken, data)
    every = dict(zip(map(id, taken), scores, strict=True))
    return Choice(best, [every.get(id(candidate), math.nan) for candidate in candidates], doubts)


def named(candidate: Candidate) -> tuple[Counter[int], float]:
    """How often each class is predicted, and the share of the most frequent one."""
    counts = Counter(candidate.outputs.argmax(1).tolist())
    return counts, counts.most_common(1)[0][1] / len(candidate.outputs)


def of_classifiers(candidates: list[Candidate]) -> list[float]:
    """Agreement of each candidate with the ensemble of the better half."""
    certain = [information_maximization(candidate.outputs).item() for candidate in candidates]
    middle = torch.tensor(certain).nanmedian().item()
    inside = [value <= middle for value in certain]
    ensemble = [candidate.outputs for candidate, isin in zip(candidates, inside, strict=True) if isin]
    together = torch.stack([outputs.double().softmax(1) for outputs in ensemble]).mean(0)
    return [
        agreement(c.outputs, together) if isin else float("nan") for c, isin in zip(candidates, inside, strict=True)
    ]


def agreement(outputs: Tensor, ensemble: Tensor) -> float:
    """The share of samples for which both predict the same class."""
    metric = EnsembleAgreement()
    metric.update(outputs, ensemble)
    return metric.compute().item()


def of_regressions(candidates: list[Candidate]) -> list[float]:
    """The negative distance of each candidate from the median."""
    every = torch.stack([candidate.outputs for candidate in candidates]).double()
    apart = (every - every.nanmedian(0).values).square().mean((1, 2)).sqrt()
    return [-value for value in apart.tolist()]


def doubts_of_classes(best: Candidate, candidates: list[Candidate], data: Data) -> list[str]:
    """Warn of classes that disappear, or that get nearly all samples."""
    doubts = []
    counts, share = named(best)
    if share > COLLAPSED:
        doubts.append(
            f"The model calls {100 * share:.0f} % of the target {data.classes[counts.most_common(1)[0][0]]}: it has "
            "collapsed, if the target holds other classes too."
        )
    collapsed = mean([named(candidate)[1] > COLLAPSED for candidate in candidates])
    if collapsed > 0.5:
        doubts.append(
            f"{100 * collapsed:.0f} % of the candidates call nearly all samples the same: trust none of them."
        )
    gone = [name for i, name in enumerate(data.classes) if not counts[i] and (data.labels == i).float().mean() > 0.01]
    if gone:
        doubts.append(f"The model finds no sample of {', '.join(gone)} in the target: is that so?")
    return doubts
