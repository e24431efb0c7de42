"""Copies of a metric that holds networks: what wants its states only is told so, and all others are silent."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from cases import EVERY_METRIC, Case
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import Running

from adaption import ConditionalDomainAdversarialLoss, DomainAdversarialEntropyLoss, DomainAdversarialLoss
from adaption._metric import AdditiveMetric
from adaption.layers import DomainDiscriminator

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


def trains(metric: AdditiveMetric) -> bool:
    return any(parameter.requires_grad for parameter in metric.parameters())


def caught(copying: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        copying()
    return [str(warning.message) for warning in found]


@every_metric
def test_a_tracker_and_a_clone_of_a_collection_say_that_they_copy_networks(case: Case) -> None:
    metric = case.build()
    tracker = MetricTracker(metric, maximize=False)
    nested = MetricTracker(MetricCollection({"loss": metric}), maximize=False)
    collection = MetricCollection({"loss": metric})
    for copying, name in (
        (tracker.increment, "MetricTracker.increment()"),
        (nested.increment, "MetricTracker.increment()"),
        (lambda: collection.clone(prefix="val_"), "MetricCollection.clone()"),
    ):
        found = caught(copying)
        assert len(found) == trains(metric)
        assert all(name in text and type(metric).__name__ in text and "function that calls" in text for text in found)


@every_metric
def test_all_other_copies_are_silent(case: Case) -> None:
    model = nn.ModuleDict(
        {
            "metric": case.build(),
            "collection": MetricCollection({"loss": case.build()}),
            "tracker": MetricTracker(case.build(), maximize=False),
        }
    )
    metric: Any = model["metric"]
    for copying in (
        lambda: copy.deepcopy(metric),
        metric.clone,
        lambda: pickle.loads(pickle.dumps(metric)),
        lambda: ForkingPickler.dumps(model),  # what a spawned process gets
        lambda: copy.deepcopy(model),
        lambda: AveragedModel(model),
        lambda: copy.deepcopy(model["collection"]),
        lambda: Running(metric, window=2),
    ):
        assert caught(copying) == []


def test_a_frozen_network_needs_no_warning() -> None:
    metric = DomainAdversarialLoss(nn.Linear(4, 1).requires_grad_(requires_grad=False))
    assert caught(MetricTracker(metric, maximize=False).increment) == []


def batch(shift: float = 2.0) -> tuple[Tensor, Tensor]:
    return torch.randn(64, 4), torch.randn(64, 4) + shift


def trained(loss: DomainAdversarialLoss) -> Tensor:
    """Train a discriminator by its metric, and return what it says in the end."""
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(*batch()).backward()
        optimizer.step()
    loss.reset()
    loss.update(*batch())
    return loss.compute()


def test_two_metrics_over_one_discriminator_see_it_trained() -> None:
    train = DomainAdversarialLoss(DomainDiscriminator(4, 8, batch_norm=False))
    val = DomainAdversarialLoss(train.domain_disc)
    value = trained(train)
    val.update(*batch())
    assert value < 0.3
    assert abs(val.compute() - value) < 0.1


@pytest.mark.filterwarnings("error")
def test_a_function_that_closes_over_the_discriminator_is_tracked_and_cloned() -> None:
    disc = DomainDiscriminator(4, 8, batch_norm=False)
    watched = DomainAdversarialLoss(lambda features: disc(features))  # noqa: PLW0108 - a function is copied by reference
    tracker = MetricTracker(watched, maximize=False)
    val = MetricCollection({"dann": watched}, prefix="train_").clone(prefix="val_")
    value = trained(DomainAdversarialLoss(disc))
    tracker.increment()
    for metric in (tracker, val):
        metric.update(*batch())
    assert value < 0.3
    assert abs(tracker.compute() - value) < 0.1
    assert abs(val.compute()["val_dann"] - value) < 0.1


@pytest.mark.parametrize(
    "build",
    [
        lambda disc: DomainAdversarialLoss(disc),  # noqa: PLW0108 - alike
        lambda disc: ConditionalDomainAdversarialLoss(disc),  # noqa: PLW0108
        lambda disc: DomainAdversarialEntropyLoss(disc),  # noqa: PLW0108
    ],
)
def test_metrics_over_one_function_share_its_network(build: Callable[[Any], AdditiveMetric]) -> None:
    disc = nn.Linear(4, 1)
    metric = build(lambda features: disc(features))  # noqa: PLW0108
    copied: Any = copy.deepcopy(metric)
    assert copied.domain_disc is metric.domain_disc
    assert not list(copied.parameters())
