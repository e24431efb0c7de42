"""Test whether the domains differ, on the samples themselves, before training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor

from adaption import MaximumMeanDiscrepancyTest, ProxyADistance
from own_data.files import Data

LOOKED_AT, LARGEST_LEVEL = 1000, 0.05


class Shift(NamedTuple):
    """How far apart the domains are.

    Args:
        mmd: the unbiased MMD.
        p_value: how often equal domains would look so different, by a permutation test.
        a_distance: from 0 for domains that a linear classifier cannot tell apart to 2, and its standard error.
        error: of the A-distance.
        columns: those that differ most, with the difference of the means in deviations of the source.
    """

    mmd: float
    p_value: float
    a_distance: float
    error: float
    columns: list[tuple[str, float]]

    @property
    def found(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p_value < LARGEST_LEVEL

    def sentence(self) -> str:
        """The result in words."""
        if not self.found:
            return (
                f"No shift was found (MMD {self.mmd:.4f}, p = {self.p_value:.3f}): between equal domains, "
                f"{100 * self.p_value:.0f} of 100 such differences are at least as large."
            )
        return (
            f"The domains differ, on the scale of the source (MMD {self.mmd:.4f}, p = {self.p_value:.3f}); a linear "
            f"classifier tells them apart with a proxy A-distance of {self.a_distance:.2f} ± {self.error:.2f}, between "
            "0 and 2."
        )

    def differences(self) -> list[str]:
        """The columns that differ most, in words."""
        return [f"{name}: the means differ by {gap:+.2f} standard deviations" for name, gap in self.columns]


def measured(data: Data) -> Shift:
    """Measure the shift on a limited number of standardised samples of each domain."""
    draw = torch.Generator().manual_seed(0)
    source, target = (
        x[torch.randperm(len(x), generator=draw)[:LOOKED_AT]].flatten(1) for x in (data.source, data.target)
    )
    test = MaximumMeanDiscrepancyTest(pooled=True)
    test.update(source, target)
    found = test.compute()
    accuracy = ProxyADistance()
    accuracy.update(*domain_logits(source, target))
    return Shift(
        found["mmd"].item(),
        found["p_value"].item(),
        accuracy.compute().item(),
        accuracy.standard_error.item(),
        most_different(data),
    )


def domain_logits(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Domain logits of a logistic regression, by five-fold cross-validation."""
    both = torch.cat([source, target]).double().numpy()
    labels = np.repeat([0, 1], [len(source), len(target)])
    parts = StratifiedKFold(5, shuffle=True, random_state=0)
    regression = LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced")
    said = torch.from_numpy(cross_val_predict(regression, both, labels, cv=parts, method="decision_function"))
    source_logits, target_logits = said.unsqueeze(1).tensor_split([len(source)])
    return source_logits, target_logits


def most_different(data: Data, number: int = 5) -> list[tuple[str, float]]:
    """The columns or channels with the largest mean difference, in standard deviations of the source."""
    others = [i for i in range(data.source.ndim) if i != 1]
    deviation = data.source.double().std(others)
    gap = (data.target.double().mean(others) - data.source.double().mean(others)) / deviation.where(deviation > 0, 1.0)
    order = gap.abs().argsort(descending=True)[:number].tolist()
    return [(data.columns[i], gap[i].item()) for i in order]
