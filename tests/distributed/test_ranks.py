"""Epoch values over real processes equal one process on the union of the data."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import CASES, Case, cast
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from adaption._distributed import gather

SIZES = [(4, 4), (6, 6), (3, 3), (5, 5), (2, 2)]
# which of the batches each rank sees: uneven numbers, and a rank with none
SPLITS = {2: [[0, 1, 2, 4], [3]], 3: [[3, 0], [], [1, 2, 4]]}


def batches(case: Case) -> list[Any]:
    torch.manual_seed(1)
    return [cast(case.batch(n, m if case.paired else m + 1), torch.float64) for n, m in SIZES]


def rank_values(rank: int, ranks: int, folder: str) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    values: dict[str, tuple[Tensor, Tensor]] = {}
    for case in CASES:
        metric, every = case.build().double(), batches(case)
        for index in SPLITS[ranks][rank]:
            metric.update(*every[index])
        value = metric.compute()
        metric.update(*every[0])  # the local states are back, and go on
        metric.reset()
        metric.update(*every[rank])
        values[case.name] = value, metric.compute()
    assert [part.shape for part in gather(torch.zeros(rank, 2))] == [(r, 2) for r in range(ranks)]
    odd = torch.zeros(()) if rank == 0 else torch.arange(3, dtype=torch.int64)
    assert [(part.ndim, part.dtype) for part in gather(odd)] == [(0, torch.float32)] + [(1, torch.int64)] * (ranks - 1)
    torch.save(values, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def by_rank(request: pytest.FixtureRequest) -> tuple[int, list[dict[str, tuple[Tensor, Tensor]]]]:
    ranks: int = request.param
    with tempfile.TemporaryDirectory() as folder:
        spawn(rank_values, (ranks, folder), ranks)
        return ranks, [torch.load(Path(folder) / f"{rank}.pt") for rank in range(ranks)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_ranks_agree_with_one_process(case: Case, by_rank: Any) -> None:
    ranks, found = by_rank
    every = batches(case)
    orders = [index for split in SPLITS[ranks] for index in split], list(range(ranks))
    for position, order in enumerate(orders):
        metric = case.build().double()
        for index in order:
            metric.update(*every[index])
        for rank in range(ranks):
            torch.testing.assert_close(found[rank][case.name][position], metric.compute(), rtol=1e-12, atol=1e-12)
