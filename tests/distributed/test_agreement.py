"""What ranks agree on before they trust what each of them remembers, or has trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from processes import on_ranks
from torch import Tensor, nn

import adaption

RANKS = 2
METRICS: dict[str, Callable[[], Any]] = {
    "sums": adaption.MaximumMeanDiscrepancyLoss,
    "samples": lambda: adaption.MaximumMeanDiscrepancyLoss(pooled=True),
    "a game": lambda: adaption.DomainAdversarialLoss(nn.Linear(3, 1).requires_grad_(requires_grad=False)),
}


def domains(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator) + 1


def one_rank_goes_on(rank: int, _: int) -> dict[str, list[float]]:
    """All compute, one alone adds a batch or begins anew, and all compute again, twice."""
    values: dict[str, list[float]] = {}
    for name, build in METRICS.items():
        torch.manual_seed(0)
        metric = build()
        metric.update(*domains(rank))
        values[name] = [metric.compute().item()]
        if rank == 1:
            metric.update(*domains(2))
        values[name] += [metric.compute().item(), metric.compute().item()]
        if rank == 0:
            metric.reset()
        values[name].append(metric.compute().item())
    return values


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_rank_returns_a_value_that_another_no_longer_has() -> None:
    for found in on_ranks(RANKS, one_rank_goes_on):
        for name, build in METRICS.items():
            for value, seeds in zip(found[name], ([0, 1], [0, 1, 2], [0, 1, 2], [1, 2]), strict=True):
                torch.manual_seed(0)
                alone = build()
                for seed in seeds:
                    alone.update(*domains(seed))
                assert value == pytest.approx(alone.compute().item(), rel=1e-9)


def drifting(rank: int, _: int) -> list[list[str]]:
    """The warnings of `compute`: with equal discriminators, with those that each rank has trained, and frozen ones."""
    heard = []
    same, moved, as_large = [3.0, 4.0, 0.0], [3.0, 4.0, 1.0], [5.0, 2.0, 0.0]  # the last has the same sum
    for weights, trained in ((same, True), (moved, True), (as_large, True), (moved, False)):
        disc = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            disc.weight[0] = torch.tensor(weights if rank else same)
        metric = adaption.DomainAdversarialLoss(disc.requires_grad_(trained))
        metric.update(*domains(rank))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            metric.compute()
        heard.append([str(warning.message) for warning in caught])
    return heard


def test_discriminators_that_drift_apart_are_said_aloud() -> None:
    equal, *apart, frozen = on_ranks(RANKS, drifting)[0]
    assert equal == frozen == []
    for heard in apart:
        assert len(heard) == 1
        assert "the parameters inside DomainAdversarialLoss differ between the ranks" in heard[0]


def test_a_process_without_others_gathers_nothing() -> None:
    batch = domains(0)
    alone = adaption.MaximumMeanDiscrepancyLoss(gather_distributed=True)
    assert alone(*batch) == adaption.MaximumMeanDiscrepancyLoss()(*batch)
