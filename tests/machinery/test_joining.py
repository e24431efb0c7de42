"""Joining epochs: shapes are compared and never broadcast, and whatever does not fit is refused with nothing lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cases import EVERY_METRIC, Case, refuses
from torch import Tensor
from torch.nn import functional as F

import adaption
from adaption._metric import AdditiveMetric

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


def seen(case: Case, updates: int = 2) -> AdditiveMetric:
    metric = case.build()
    for _ in range(updates):
        metric.update(*case.batch(4, 4))
    return metric


def unchanged(metric: AdditiveMetric, join: Callable[[], Any], match: str) -> None:
    metric.compute()
    before = copy.deepcopy(metric.metric_state), metric._computed
    with pytest.raises(ValueError, match=match):
        join()
    torch.testing.assert_close((metric.metric_state, metric._computed), before, rtol=0, atol=0)


@every_metric
def test_a_dict_of_states_must_have_their_shapes(case: Case) -> None:
    metric = seen(case)
    whole = seen(case).metric_state
    for name, state in whole.items():
        wrong: list[Any] = [3.0, None, torch.zeros(2, 3, 1)]
        if isinstance(state, list):
            wrong += [[torch.zeros(())], [1.0], [state[0], state[0].unsqueeze(-1)], []]
            wrong += [[torch.zeros(4, *state[0].shape[1:], 2)]]
        else:
            wrong += [torch.ones(1), torch.ones(state.numel() + 1), [state]]
        for value in wrong:
            merge = partial(metric.merge_state, {**whole, name: value})
            unchanged(metric, merge, f"`incoming_state`.*{name}|`{name}` must")
    metric.merge_state(whole)
    assert metric.update_count == 4


@every_metric
def test_an_epoch_survives_as_a_dict(case: Case) -> None:
    """From its states alone, in any fresh metric: what checkpoints of other frameworks need."""
    metric, fresh, empty = seen(case), case.build(), case.build()
    fresh.load_state_dict(metric.state_dict())  # modules
    fresh.merge_state(metric.metric_state)
    fresh.merge_state(empty)
    fresh.merge_state(empty.metric_state)
    torch.testing.assert_close(fresh.metric_state, metric.metric_state, rtol=0, atol=0)
    torch.testing.assert_close(fresh.compute(), metric.compute(), rtol=0, atol=0)


@every_metric
def test_a_synced_metric_is_merged_with_nothing(case: Case) -> None:
    metric = seen(case)
    metric.sync(dist_sync_fn=lambda state, **_: [state, state], distributed_available=lambda: True)
    with pytest.raises(Exception, match="must not be synced while another epoch is merged"):
        metric.merge_state(seen(case))
    metric.unsync()
    assert metric.update_count == 2


def probabilities(classes: int) -> tuple[Tensor]:
    return (torch.randn(4, classes).softmax(1),)


CLASSES: dict[str, tuple[Callable[[], AdditiveMetric], Callable[[int], tuple[Any, ...]]]] = {
    "class weights": (adaption.ClassWeightModule, lambda classes: (torch.randn(4, classes),)),
    "marginal entropy": (adaption.MarginalEntropyLoss, probabilities),
    "mutual information": (adaption.MutualInformationLoss, lambda classes: 2 * probabilities(classes)),
    "pooled MMD": (
        lambda: adaption.MaximumMeanDiscrepancyLoss(pooled=True),
        lambda width: (torch.randn(4, width), torch.randn(3, width)),
    ),
    "pooled JMMD": (
        lambda: adaption.JointMaximumMeanDiscrepancyLoss(pooled=True),
        lambda width: ([torch.randn(4, width)], [torch.randn(3, width)]),
    ),
    "dense margin disparity": (
        lambda: adaption.ClassificationMarginDisparityDiscrepancy(reduction="none"),
        lambda height: tuple(torch.randn(4, 5, height, 2) for _ in range(4)),
    ),
    "dense consistency": (
        lambda: adaption.L2ConsistencyLoss("none"),
        lambda height: tuple(torch.randn(4, 3, height).softmax(1) for _ in range(2)),
    ),
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("other", [1, 4], ids=["broadcasts", "does not"])
def test_epochs_of_different_shapes_are_not_joined(name: str, other: int) -> None:
    """Over merges, ranks and batches: 3 classes and 1 would add up without a word."""
    build, batch = CLASSES[name]
    three, another = build(), build()
    three.update(*batch(3))
    try:
        another.update(*batch(other))
    except ValueError:
        pytest.skip("one class is none")
    unchanged(three, lambda: three.merge_state(another), "must have the same shape")
    unchanged(three, lambda: three.merge_state(another.metric_state), "must have the same shape")
    refuses(three, "must", *batch(other))

    both = iter(list(zip(three.metric_state.values(), another.metric_state.values(), strict=True)))

    def gathered(_: Tensor, **__: Any) -> list[Tensor]:
        return [torch.cat(state) if isinstance(state, list) else state for state in next(both)]

    unchanged(
        three,
        lambda: three.sync(dist_sync_fn=gathered, distributed_available=lambda: True),
        "must have the same shape",
    )
    three.update(*batch(3))
    assert three.compute().isfinite().all()


@pytest.mark.parametrize("updates", [1, 3])
def test_a_known_length_is_there_from_the_start(updates: int) -> None:
    metric = adaption.ClassBalanceLoss(5)
    assert metric.class_totals.shape == (5,)
    for _ in range(updates):
        metric.update(torch.randn(4, 5).softmax(1))
    metric.reset()
    assert metric.class_totals.shape == (5,)


def test_a_refused_width_names_what_to_do() -> None:
    metric = adaption.MaximumMeanDiscrepancyLoss(pooled=True)
    metric.update(torch.randn(4, 3), torch.randn(4, 3))
    with pytest.raises(
        ValueError, match=r"`source_features` must have shape \(N, 3\) .* got shape \(4, 2\).*`reset\(\)`"
    ):
        metric.update(torch.randn(4, 2), torch.randn(4, 2))
    consistency = adaption.ConsistencyLoss(F.l1_loss)
    consistency.update(*probabilities(3), *probabilities(3))
    consistency.update(*probabilities(4), *probabilities(4))  # sums of a mean have no width
    assert consistency.update_count == 2
