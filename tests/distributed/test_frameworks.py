"""Frameworks that wrap a network with its losses: two processes take the steps that DDP takes."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import on_ranks
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from adaption import (
    ClassBalanceLoss,
    ConditionalDomainAdversarialLoss,
    DomainAdversarialLoss,
    MaximumMeanDiscrepancyLoss,
)
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

STEPS = 3
LOSSES = ("dann", "cdan", "mmd", "balance")
PARTS = ("network", "extractor", "dann.domain_disc")


class Adapted(nn.Module):
    """A network with games, a random map, a schedule, and losses over the batch of all processes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        grl = WarmStartGradientReversalLayer(alpha=10.0, max_iters=2 * STEPS, auto_step=True)
        self.extractor, self.classifier = nn.Linear(5, 6), nn.Linear(6, 3)
        self.dann = DomainAdversarialLoss(DomainDiscriminator(6, 8, batch_norm=False), grl=grl)
        settings: dict[str, Any] = {"randomized": True, "num_classes": 3, "features_dim": 6, "randomized_dim": 16}
        self.cdan = ConditionalDomainAdversarialLoss(DomainDiscriminator(16, 8, batch_norm=False), **settings)
        self.mmd = MaximumMeanDiscrepancyLoss(gather_distributed=True)
        self.balance = ClassBalanceLoss(3, gather_distributed=True)

    def forward(self, source: Tensor, labels: Tensor, target: Tensor) -> Tensor:
        source, target = self.extractor(source), self.extractor(target)
        logits, target_logits = self.classifier(source), self.classifier(target)
        loss: Tensor = F.cross_entropy(logits, labels) + self.dann(source, target) + self.mmd(source, target)
        return loss + self.cdan(logits, source, target_logits, target) + self.balance(target_logits.softmax(1))


def batches(rank: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(rank)
    shapes = [(torch.randn(8, 5, generator=generator), torch.randn(8, 5, generator=generator)) for _ in range(STEPS)]
    return [(source, torch.arange(8) % 3, target + 1) for source, target in shapes]


def trained(model: nn.Module, network: Adapted, rank: int) -> dict[str, Any]:
    """Epoch values and parameters after a few steps; each process has other data."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in batches(rank):
        optimizer.zero_grad()
        model(*batch).backward()
        optimizer.step()
    return {**values(network), **whole_state(network)}


def values(network: Adapted) -> dict[str, Any]:
    return {name: getattr(network, name).compute() for name in LOSSES}


def whole_state(network: Adapted) -> dict[str, Any]:
    """Parameters and buffers, on rank 0."""
    return get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def sharded(part: str, ranks: int) -> Adapted:
    network, mesh = Adapted(), init_device_mesh("cpu", (ranks,))
    if part != "network":
        fully_shard(network.get_submodule(part), mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def with_accelerate(rank: int) -> dict[str, Any]:
    from accelerate import Accelerator

    network = Adapted()
    return trained(Accelerator(cpu=True).prepare(network), network, rank)


def work(rank: int, ranks: int) -> dict[str, dict[str, Any]]:
    launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {**launched, "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # what Accelerate wants to know
    network = Adapted()
    found = {"DDP": trained(DistributedDataParallel(network), network, rank), "Accelerate": with_accelerate(rank)}
    for part in PARTS:
        network = sharded(part, ranks)
        found[part] = trained(network, network, rank)
        found[f"{part}, restored"] = restored(network, sharded(part, ranks))
    return found


def restored(network: Adapted, fresh: Adapted) -> dict[str, Any]:
    """The parameters of a distributed checkpoint in a fresh network."""
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    save(get_model_state_dict(network), checkpoint_id=folder[0])
    state: dict[str, Any] = get_model_state_dict(fresh)
    for value in state.values():
        value.zero_()
    load(state, checkpoint_id=folder[0])
    set_model_state_dict(fresh, state)
    return whole_state(fresh)


@pytest.fixture(scope="module")
def by_rank() -> list[dict[str, dict[str, Any]]]:
    return on_ranks(2, work)


@pytest.mark.parametrize("how", ["Accelerate", *PARTS])
def test_steps_are_those_of_ddp(how: str, by_rank: Any) -> None:
    for found in by_rank:
        torch.testing.assert_close(found[how], found["DDP"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_a_distributed_checkpoint_of_shards_gives_the_network_back(part: str, by_rank: Any) -> None:
    restored = by_rank[0][f"{part}, restored"]
    assert set(restored) == set(by_rank[0]["DDP"]) - set(LOSSES)
    torch.testing.assert_close(restored, {name: by_rank[0][part][name] for name in restored}, rtol=0, atol=0)
