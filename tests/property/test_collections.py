"""Losses in a `MetricCollection` are never mixed up, whatever the batches hold: each does as it would alone."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import EVERY_METRIC, Case, flat, tensors, with_nan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import MetricCollection

from adaption._metric import AdditiveMetric

KINDS = ("alike", "random", "not finite")


def groups() -> dict[str, list[Case]]:
    """Losses that can be asked about the same batch."""
    found: dict[Any, list[Case]] = defaultdict(list)
    for case in EVERY_METRIC:
        found[case.batch].append(case)
    return {f"{cases[0]} and {len(cases) - 1} more": cases for cases in found.values() if len(cases) > 1}


GROUPS = groups()


def alike(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch whose two domains, or heads, are the same: many losses are 0 for it, and equal to each other."""
    kept: list[Any] = []
    for argument in batch:
        shapes = [tensor.shape for tensor in tensors(argument)]
        twin = [item for item in kept if tensors(item) and [tensor.shape for tensor in tensors(item)] == shapes]
        kept.append(twin[0] if twin and _floats(argument) else argument)
    return tuple(kept)


def _floats(argument: Any) -> bool:
    return all(tensor.is_floating_point() for tensor in tensors(argument))


def members(cases: list[Case]) -> dict[str, AdditiveMetric]:
    """Each loss twice, with settings that only a batch that is not finite can tell apart."""
    found = {}
    for case, strategy in itertools.product(cases, ("disable", "ignore")):
        found[f"{case} {strategy}".replace(" ", "_")] = metric = case.build()
        metric.nan_strategy = strategy
    return found


changes: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda metrics: metrics,
    "clone": lambda metrics: metrics.clone(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda metrics: pickle.loads(pickle.dumps(metrics)),
    "reset": lambda metrics: metrics.reset() or metrics,
}
steps = st.tuples(st.sampled_from(KINDS), st.booleans(), st.sampled_from(sorted(changes)))


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.filterwarnings("ignore:MetricCollection.clone.. copies the networks")
@settings(max_examples=settings().max_examples // 5)  # each copies whole collections
@given(st.lists(steps, min_size=1, max_size=5), st.integers(0, 2**31))
def test_each_does_as_it_would_alone(name: str, taken: list[tuple[str, bool, str]], seed: int) -> None:
    torch.manual_seed(seed)
    cases = GROUPS[name]
    together, alone = MetricCollection(dict(members(cases))), members(cases)
    for kind, forward, change in taken:
        batch = cases[0].batch(4, 4)
        batch = {"alike": alike, "random": lambda b: b, "not finite": lambda b: with_nan(cases[0], b)}[kind](batch)
        (together if forward else together.update)(*batch)
        for metric in alone.values():
            metric.update(*batch)
        together = changes[change](together)
        if change == "reset":
            for metric in alone.values():
                metric.reset()
        assert [len(group) for group in together.compute_groups.values()] == [1] * len(alone)
    for member, metric in alone.items():
        found = together[member]
        assert isinstance(found, AdditiveMetric)
        assert (found.update_count, int(found.num_ignored)) == (metric.update_count, int(metric.num_ignored))
        torch.testing.assert_close(_value(found), _value(metric), rtol=0, atol=0, equal_nan=True)


def _value(metric: AdditiveMetric) -> Tensor:
    return flat(metric.compute()) if metric.update_called else torch.zeros(())


def test_without_a_word_from_us_they_would_be_mixed_up() -> None:
    """torchmetrics takes metrics for one whose states have equal names and, after the first batch, equal values."""
    like_mmd = next(cases for name, cases in GROUPS.items() if name.startswith("MMD and"))
    metrics = members(like_mmd)
    for metric in metrics.values():
        metric._defaults = dict(metric._defaults)
    together = MetricCollection(dict(metrics))
    together.update(*alike(like_mmd[0].batch(4, 4)))
    assert len(together.compute_groups) < len(metrics)
