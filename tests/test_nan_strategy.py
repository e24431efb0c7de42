"""What becomes of a batch whose value is not finite: left out, counted and reported, wherever the counts go."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import EVERY_METRIC, Case, flat, with_gradient, with_nan
from torch import Tensor

import adaption
from adaption._metric import AdditiveMetric

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)
leaves_out = pytest.mark.parametrize("strategy", ["warn", "ignore"])


def build(case: Case, strategy: str) -> AdditiveMetric:
    metric = case.build()
    metric.nan_strategy = strategy
    return metric


@contextlib.contextmanager
def reported(metric: AdditiveMetric) -> Iterator[None]:
    """Exactly one warning, which names the loss, with "warn"; an error for any with "ignore"."""
    if metric.nan_strategy == "ignore":
        yield
        return
    with pytest.warns(UserWarning, match=f"not finite in {type(metric).__name__}, and is left out") as warnings:
        yield
    assert len(warnings) == 1


def left_out(metric: AdditiveMetric, case: Case, times: int = 1) -> AdditiveMetric:
    for _ in range(times):
        with reported(metric):
            metric.update(*with_nan(case, case.batch(4, 4)))
    return metric


def counts(metric: AdditiveMetric) -> tuple[int, int]:
    """Batches left out, and batches in all."""
    return int(metric.num_ignored), metric.update_count


def assert_same(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@every_metric
@leaves_out
def test_forward_returns_what_the_epoch_leaves_out(case: Case, strategy: str) -> None:
    metric, spared = build(case, strategy), build(case, "disable")
    good, other = case.batch(4, 4), case.batch(6, 6)
    for batch in (good, other):
        spared.update(*batch)
    metric(*good)
    with reported(metric):
        value = flat(metric(*with_gradient(case, with_nan(case, good))))
    metric(*other)
    assert value.isnan().all()
    assert value.requires_grad == metric.is_differentiable
    assert_same(metric.compute(), spared.compute())
    assert counts(metric) == (1, 3)


@every_metric
@leaves_out
def test_an_epoch_of_nothing_else_is_nan(case: Case, strategy: str) -> None:
    """And not "called before update": it has seen data."""
    metric = left_out(build(case, strategy), case, times=2)
    assert flat(metric.compute()).isnan().all()
    assert counts(metric) == (2, 2)
    metric.reset()
    assert counts(metric) == (0, 0)


@every_metric
def test_nothing_is_counted_by_default(case: Case) -> None:
    metric = case.build()
    metric.update(*with_nan(case, case.batch(4, 4)))
    assert metric.num_ignored == 0
    assert flat(metric.compute()).isnan().any()


@every_metric
@leaves_out
@pytest.mark.parametrize("as_dict", [False, True])
def test_counts_add_up_when_metrics_merge(case: Case, strategy: str, as_dict: bool) -> None:
    left, right = left_out(build(case, strategy), case), left_out(build(case, strategy), case, times=2)
    right.update(*case.batch(4, 4))
    expected = right.compute()
    left.merge_state(right.metric_state if as_dict else right)
    assert counts(left) == (3, 4)
    assert_same(left.compute(), expected)


@every_metric
@leaves_out
def test_counts_are_saved(case: Case, strategy: str) -> None:
    metric, resumed = left_out(build(case, strategy), case), build(case, strategy)
    for one in (metric, resumed):
        one.persistent(mode=True)
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert counts(resumed) == (1, 1)
    batch = case.batch(4, 4)
    value = flat(resumed(*batch)).detach()
    torch.testing.assert_close(flat(resumed.compute()), value.double())


@every_metric
@leaves_out
def test_counts_add_up_over_ranks(case: Case, strategy: str) -> None:
    """One rank has nothing else, and so does not know the shape of its states; the other has one good batch."""
    empty, other = left_out(build(case, strategy), case), left_out(build(case, strategy), case, times=2)
    other.update(*case.batch(4, 4))
    expected = other.compute()
    theirs = iter(list(other.metric_state.values()))

    def exchange(state: Tensor, **_: Any) -> list[Tensor]:
        there = next(theirs)
        return [state, torch.cat(there) if isinstance(there, list) else there]

    empty.sync(dist_sync_fn=exchange, distributed_available=lambda: True)
    assert empty.num_ignored == 3
    states = [getattr(empty, name) for name in empty._statistic_names]
    value = empty._value(*(torch.cat(state) if isinstance(state, list) else state for state in states))
    torch.testing.assert_close(flat(value).double(), flat(expected))
    empty.unsync()
    assert empty.num_ignored == 1


@every_metric
def test_error_names_the_loss_and_the_repair(case: Case) -> None:
    metric = build(case, "error")
    for call in (metric, metric.update):
        with pytest.raises(ValueError, match=rf"not finite in {type(metric).__name__}\. Look for NaN or infinity"):
            call(*with_nan(case, case.batch(4, 4)))
    assert counts(metric) == (0, 0)


@leaves_out
def test_one_bad_sample_leaves_its_batch_out(strategy: str) -> None:
    """Also where every sample has a value of its own: the samples of an epoch stay whole batches."""
    metric = adaption.L2ConsistencyLoss("none", nan_strategy=strategy)
    bad = torch.tensor([[1.0, 0.0], [torch.nan, 0.0]])
    with reported(metric):
        value = metric(bad, torch.zeros(2, 2))
    assert value.isnan().tolist() == [False, True]
    metric.update(torch.ones(1, 2), torch.zeros(1, 2))
    assert metric.compute().tolist() == [2.0]


@leaves_out
@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_infinity_is_not_finite_either(strategy: str, infinity: float) -> None:
    metric = adaption.AdversarialDiscriminativeLoss(nan_strategy=strategy)
    label = "source" if infinity > 0 else "target"
    with reported(metric):
        assert metric(torch.tensor([0.0, infinity]), label).isinf()
    metric.update(torch.zeros(1), label)
    assert metric.compute().item() == pytest.approx(0.6931471805599453)
