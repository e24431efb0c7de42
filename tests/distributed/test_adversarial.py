"""Discriminators inside a metric inside a DDP-wrapped module are trained, saved and left alone like any other part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import WIDTH
from processes import on_ranks
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import adaption
from adaption._metric import AdditiveMetric
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

RANKS, STEPS, CLASSES = 2, 3, 3


def _schedule() -> WarmStartGradientReversalLayer:
    return WarmStartGradientReversalLayer(lo=0.2, max_iters=10, auto_step=True)


def _dann(*, batch_norm: bool = False) -> AdditiveMetric:
    return adaption.DomainAdversarialLoss(DomainDiscriminator(WIDTH, 8, batch_norm=batch_norm), grl=_schedule())


def _cdan() -> AdditiveMetric:
    return adaption.ConditionalDomainAdversarialLoss(
        DomainDiscriminator(16, 8, batch_norm=False),
        randomized=True,
        num_classes=CLASSES,
        features_dim=WIDTH,
        randomized_dim=16,
        grl=_schedule(),
    )


LOSSES: dict[str, Callable[[], AdditiveMetric]] = {
    "DANN": _dann,
    "CDAN": _cdan,
    "DANN batch norm": lambda: _dann(batch_norm=True),
}


class Model(nn.Module):
    def __init__(self, loss: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.metric = LOSSES[loss]()
        self.conditional = loss == "CDAN"
        self.double()

    def forward(self, source: Tensor, labels: Tensor, target: Tensor) -> Tensor:
        source, target = self.layer(source).tanh(), self.layer(target).tanh()
        logits = self.head(source)
        batch = (logits, source, self.head(target), target) if self.conditional else (source, target)
        value: Tensor = F.cross_entropy(logits, labels) + self.metric(*batch)
        return value


def batches() -> list[list[tuple[Tensor, ...]]]:
    """For each step the batch of each rank, of equal sizes."""
    torch.manual_seed(6)
    return [
        [
            (torch.randn(4, 5).double(), torch.randint(CLASSES, (4,)), torch.randn(6, 5).double() + 1)
            for _ in range(RANKS)
        ]
        for _ in range(STEPS)
    ]


def train(model: nn.Module, steps: list[tuple[Tensor, ...]]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in steps:
        optimizer.zero_grad()
        model(*batch).backward()
        optimizer.step()


def look(model: Model) -> None:
    """Add a batch to the epoch in eval mode, in which no schedule moves."""
    model.eval()
    with torch.no_grad():
        model(*batches()[0][0])
    model.train()


def on_this_rank(rank: int, _: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for loss in LOSSES:
        inner = Model(loss, seed=rank)
        inner.metric.persistent(mode=True)
        model = DistributedDataParallel(inner, broadcast_buffers=True)  # hands out what rank 0 has
        if rank == 1:
            look(inner)  # from here on the states of the ranks differ in more than their values
        train(model, [step[rank] for step in batches()])
        value = inner.metric.compute()
        found[loss] = dict(inner.named_parameters()), dict(inner.named_buffers()), value, inner.metric.update_count
        # what was saved from the wrapped module fits it, and, without the prefix, the bare one
        saved = model.state_dict()
        wrapped, bare = DistributedDataParallel(Model(loss, seed=9)), Model(loss, seed=9)
        for other in (wrapped.module, bare):
            other.metric.persistent(mode=True)
        wrapped.load_state_dict(saved)
        bare.load_state_dict({name.removeprefix("module."): part for name, part in saved.items()})
        for other in (wrapped.module, bare):
            torch.testing.assert_close(other.state_dict(), inner.state_dict(), rtol=0, atol=0)
            torch.testing.assert_close(other.metric.compute(), value, rtol=0, atol=0)
    return found


def test_training_is_that_of_one_process_on_the_global_batch() -> None:
    by_rank = on_ranks(RANKS, on_this_rank)
    for loss in ("DANN", "CDAN"):
        alone = Model(loss, seed=0)
        start = {name: parameter.detach().clone() for name, parameter in alone.named_parameters()}
        look(alone)
        train(alone, [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in batches()])
        expected = dict(alone.named_parameters()), dict(alone.named_buffers())
        assert not any(torch.equal(parameter, start[name]) for name, parameter in expected[0].items())
        assert expected[1]["metric.grl.iteration"] == STEPS
        for rank, (parameters, buffers, value, count) in enumerate(found[loss] for found in by_rank):
            torch.testing.assert_close((parameters, buffers), expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(value, alone.metric.compute(), rtol=1e-10, atol=1e-10)
            assert count == STEPS + rank
    # batch normalisation is that of each rank, but the weights stay together
    first, second = (found["DANN batch norm"] for found in by_rank)
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    assert first[1]["metric.grl.iteration"] == second[1]["metric.grl.iteration"] == STEPS
    assert first[2] == second[2]
    assert first[2].isfinite()
