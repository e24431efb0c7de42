"""Which candidate to keep, without a label of the target, and when to keep the one that was not adapted.

Of the classifiers, those count that are in the better half by information maximisation, which puts collapsed ones out;
the one is kept that agrees most often with the mean prediction of that half. A regression has no such score. There the
one is kept whose values lie nearest to the median of all.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from adaption import EnsembleAgreement
from adaption.functional import information_maximization
from own_data.files import Data
from own_data.suite import CONTROL, SOURCE_ONLY
from own_data.training import Candidate


class Choice(NamedTuple):
    """What was chosen.

    Args:
        candidate: the one to keep.
        scores: of all candidates, the larger the better; NaN for those that are out.
        doubts: reasons not to trust it, a sentence each.
        adapted: whether it is better by the score than all that were trained on the source alone.
    """

    candidate: Candidate
    scores: list[float]
    doubts: list[str]
    adapted: bool


def choose(candidates: list[Candidate], data: Data, *, shifted: bool) -> Choice:
    """The candidate with the best score."""
    taken = [candidate for candidate in candidates if candidate.run.row != CONTROL]
    scores = of_classifiers(taken) if data.classes else of_regressions(taken)
    finite = [-math.inf if math.isnan(score) else score for score in scores]
    best = taken[max(range(len(taken)), key=finite.__getitem__)]
    doubts = [] if shifted else ["No shift was found, so there is nothing to adapt to: keep source only."]
    if data.classes:
        doubts += doubts_of_classes(best, data)
    adapted = best.run.row != SOURCE_ONLY
    if not adapted:
        doubts.append("No loss has a better score than source only: adaptation does not help here, as far as one sees.")
    every = dict(zip(map(id, taken), scores, strict=True))
    return Choice(best, [every.get(id(candidate), float("nan")) for candidate in candidates], doubts, adapted)


def of_classifiers(candidates: list[Candidate]) -> list[float]:
    """Agreement with the ensemble of the better half."""
    certain = [information_maximization(candidate.outputs).item() for candidate in candidates]
    middle = torch.tensor(certain).nanmedian().item()
    inside = [value <= middle for value in certain]
    ensemble = [candidate.outputs for candidate, isin in zip(candidates, inside, strict=True) if isin]
    mean = torch.stack([outputs.double().softmax(1) for outputs in ensemble]).mean(0)
    return [agreement(c.outputs, mean) if isin else float("nan") for c, isin in zip(candidates, inside, strict=True)]


def agreement(outputs: Tensor, ensemble: Tensor) -> float:
    """The share of samples that both name alike."""
    metric = EnsembleAgreement()
    metric.update(outputs, ensemble)
    return metric.compute().item()


def of_regressions(candidates: list[Candidate]) -> list[float]:
    """The distance from the median, negative."""
    every = torch.stack([candidate.outputs for candidate in candidates]).double()
    apart = (every - every.nanmedian(0).values).square().mean((1, 2)).sqrt()
    return [-value for value in apart.tolist()]


def doubts_of_classes(best: Candidate, data: Data) -> list[str]:
    """Classes that disappear, or that take nearly all."""
    counts = Counter(best.outputs.argmax(1).tolist())
    number, (first, most) = len(best.outputs), counts.most_common(1)[0]
    doubts = []
    if most > 0.9 * number:
        doubts.append(
            f"The model calls {100 * most / number:.0f} % of the target {data.classes[first]}: it has collapsed, if "
            "the target holds other classes too."
        )
    gone = [name for i, name in enumerate(data.classes) if not counts[i] and (data.labels == i).float().mean() > 0.01]
    if gone:
        doubts.append(f"The model finds no sample of {', '.join(gone)} in the target: is that so?")
    return doubts
