"""What holds for every distance that decomposes a matrix of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torchmetrics import Metric

from adaption import (
    BatchSpectralPenalizationLoss,
    FrechetDistanceLoss,
    InverseGramAlignmentLoss,
    RepresentationSubspaceDistanceLoss,
)

LOSSES = (
    BatchSpectralPenalizationLoss,
    FrechetDistanceLoss,
    InverseGramAlignmentLoss,
    RepresentationSubspaceDistanceLoss,
)


@pytest.mark.parametrize("build", LOSSES)
@pytest.mark.parametrize(("n", "d"), [(9, 3), (3, 9)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_gives_nan_and_no_error_of_lapack(build: Callable[[], Metric], n: int, d: int, bad: float) -> None:
    source, target = torch.randn(n, d), torch.randn(n, d)
    source[1, 2] = bad
    source.requires_grad_()
    metric = build()
    value = metric(source, target)
    value.backward()
    assert value.isnan()
    assert metric.compute().isnan()
    assert source.grad is not None
    whole = build in (InverseGramAlignmentLoss, RepresentationSubspaceDistanceLoss)
    assert source.grad.isnan().all() if whole else source.grad.isnan().any()
