"""Epoch values over real processes equal one process on the union of the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import EVERY_METRIC, Case, cast
from processes import on_ranks
from torch import nn
from torchmetrics import MetricCollection

import adaption
from adaption._distributed import gather

SIZES = [(4, 4), (6, 6), (3, 3), (5, 5), (2, 2)]
# which of the batches each rank sees: uneven numbers, ranks with none, each rank but one with none, nobody with any
SPLITS: dict[int, list[list[list[int]]]] = {
    2: [[[0, 1, 2, 4], [3]], [[], [2, 0]], [[1], []], [[], []]],
    3: [[[3, 0], [], [1, 2, 4]], [[], [4, 1], []], [[], [], [0]], [[], [], []]],
}


def batches(case: Case) -> list[Any]:
    torch.manual_seed(1)
    return [cast(case.batch(n, m if case.paired else m + 1), torch.float64) for n, m in SIZES]


def epoch_values(rank: int, ranks: int) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for case in EVERY_METRIC:
        metric, every = case.build().double(), batches(case)
        values[case.name] = []
        for position, split in enumerate(SPLITS[ranks]):
            for index in split[rank]:
                (metric.update if position % 2 else metric)(*every[index])
            before = metric.metric_state
            values[case.name].append(metric.compute())
            torch.testing.assert_close(metric.metric_state, before, rtol=0, atol=0)  # the local states are back
            metric.reset()
    if ranks == 3:
        _beside_the_values(rank, ranks)
    return values


def _beside_the_values(rank: int, ranks: int) -> None:
    """What else agrees over ranks; an assertion that fails on one of them fails the tests below."""
    assert [part.shape for part in gather(torch.zeros(rank, 2))] == [(r, 2) for r in range(ranks)]
    odd = torch.zeros(()) if rank == 0 else torch.arange(3, dtype=torch.int64)
    assert [(part.ndim, part.dtype) for part in gather(odd)] == [(0, torch.float32)] + [(1, torch.int64)] * (ranks - 1)

    torch.manual_seed(0)
    source, target = torch.randn(ranks, 4, 6), torch.randn(ranks, 3, 6) + 1
    # batches left out are counted over ranks, and the rest is exact
    mmd = adaption.MaximumMeanDiscrepancyLoss(nan_strategy="ignore")
    mmd.update(source[rank] if rank else source[rank] * torch.nan, target[rank])
    expected = adaption.MaximumMeanDiscrepancyLoss()
    for other in range(1, ranks):
        expected.update(source[other], target[other])
    with mmd.sync_context():
        assert mmd.num_ignored == 1
    torch.testing.assert_close(mmd.compute(), _alone(expected))

    # a process group of some of the ranks
    groups = [dist.new_group([0, 2]), dist.new_group([1])]
    some = adaption.BatchSpectralPenalizationLoss(process_group=groups[rank % 2])
    some.update(source[rank], target[rank])
    members = adaption.BatchSpectralPenalizationLoss()
    for other in (0, 2) if rank % 2 == 0 else (1,):
        members.update(source[other], target[other])
    torch.testing.assert_close(some.compute(), _alone(members))

    # samples kept in main memory, and a collection
    kept = adaption.MaximumMeanDiscrepancyLoss(pooled=True, compute_on_cpu=True)
    both = MetricCollection({"pooled": kept, "balance": adaption.ClassBalanceLoss(6)})
    if rank == 1:
        both.update(source_features=source[1], target_features=target[1], predictions=target[1].softmax(1))
    values = both.compute()
    torch.testing.assert_close(values["pooled"], adaption.MaximumMeanDiscrepancyLoss()(source[1], target[1]).double())
    torch.testing.assert_close(values["balance"], adaption.ClassBalanceLoss(6)(target[1].softmax(1)).double())

    # class weights that look at the target by themselves
    loader = list(target[: rank + 1]) if rank else [target[0]]
    weights = adaption.AutomaticUpdateClassWeightModule(1, loader, nn.Identity(), num_classes=6, device="cpu")
    weights.step()
    seen = torch.cat([target[0], *target[:2], *target[:3]])
    torch.testing.assert_close(weights.class_weight, adaption.functional.class_weights(seen))


def _alone(metric: Any) -> Any:
    """The value of what this process alone has seen."""
    metric._to_sync = False
    return metric.compute()


@pytest.fixture(scope="module", params=SPLITS)
def by_rank(request: pytest.FixtureRequest) -> tuple[int, list[dict[str, list[Any]]]]:
    return request.param, on_ranks(request.param, epoch_values)


@pytest.mark.parametrize("case", EVERY_METRIC, ids=str)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_ranks_agree_with_one_process(case: Case, by_rank: Any) -> None:
    ranks, found = by_rank
    every = batches(case)
    for position, split in enumerate(SPLITS[ranks]):
        metric = case.build().double()
        for index in (index for part in split for index in part):
            metric.update(*every[index])
        for rank in range(ranks):
            value = found[rank][case.name][position]
            torch.testing.assert_close(value, metric.compute(), rtol=1e-12, atol=1e-12, equal_nan=True)
