"""The faults of torchmetrics' engine as a training loss that the base class works round.

Each law runs over a metric of ours and over the same metric on torchmetrics' own engine, which is known to break it.
Where a release of torchmetrics mends a fault, the law is reported as passing unexpectedly (an error for the releases
known today): then see whether the way round in `adaption/_metric.py` is still needed.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from adaption._metric import AdditiveMetric

known = tuple(map(int, torchmetrics.__version__.split(".")[:2])) <= (1, 9)


def _mean_of(inputs: Tensor) -> tuple[Tensor, int]:
    if not len(inputs):
        msg = "empty"
        raise ValueError(msg)
    return inputs.sum(), len(inputs)


class Ours(AdditiveMetric):
    """The mean of numbers."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self._keep_sums("total", "number")

    def update(self, inputs: Tensor) -> None:
        self._accumulate(self._statistics(inputs))

    def _statistics(self, inputs: Tensor) -> tuple[Tensor, int]:
        return _mean_of(inputs)

    def _value(self, *statistics: Any) -> Tensor:
        total: Tensor = statistics[0] / statistics[1]
        return total


class Theirs(Metric):
    """The same on torchmetrics' engine."""

    full_state_update = False
    total: Tensor
    number: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, inputs: Tensor) -> None:
        total, number = _mean_of(inputs)
        self.total = self.total + total
        self.number = self.number + number

    def compute(self) -> Tensor:
        return self.total / self.number


def law(fault: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run over both engines, and expect torchmetrics' to have the fault."""
    theirs = pytest.param(Theirs, marks=pytest.mark.xfail(reason=f"torchmetrics: {fault}", strict=known))
    return pytest.mark.parametrize("engine", [Ours, theirs])


BATCH = torch.tensor([1.0, 2.0])
EMPTY = torch.zeros(0)


def after_an_error(engine: type[Metric], *, forward: bool) -> Metric:
    metric = engine()
    metric(BATCH)
    with pytest.raises(ValueError, match="empty"):
        (metric if forward else metric.update)(EMPTY)
    return metric


@law("an error inside `forward` loses the epoch")
def test_an_error_in_forward_keeps_the_epoch(engine: type[Metric]) -> None:
    metric = after_an_error(engine, forward=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metric.compute() == 1.5


@law("an error inside `forward` leaves gradients on for every later `update`")
def test_an_error_in_forward_leaves_update_without_gradients(engine: type[Metric]) -> None:
    metric: Any = after_an_error(engine, forward=True)
    metric.update(BATCH.clone().requires_grad_())
    assert not metric.total.requires_grad


@law("an error inside `forward` turns synchronisation off for good")
def test_an_error_in_forward_leaves_synchronisation_on(engine: type[Metric]) -> None:
    metric = after_an_error(engine, forward=True)
    assert metric._to_sync
    assert metric._should_unsync


@law("an error inside `update` is counted as an update")
def test_an_error_in_update_is_not_counted(engine: type[Metric]) -> None:
    assert after_an_error(engine, forward=False).update_count == 1


@law("an error inside `update` drops the value that `compute` has cached")
def test_an_error_in_update_keeps_the_cached_value(engine: type[Metric]) -> None:
    metric = engine()
    metric.update(BATCH)
    value = metric.compute()
    with pytest.raises(ValueError, match="empty"):
        metric.update(EMPTY)
    assert metric._computed is value


@law("`forward` records a graph under `torch.no_grad()`")
def test_no_grad_is_honoured(engine: type[Metric], monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def spy(inputs: Tensor) -> tuple[Tensor, int]:
        modes.append(torch.is_grad_enabled())
        return inputs.sum(), len(inputs)

    monkeypatch.setitem(globals(), "_mean_of", spy)
    with torch.no_grad():
        engine()(BATCH)
    assert modes == [False]


@law("the value of `forward` is cached with its graph, which cannot be copied")
def test_a_metric_can_be_copied_after_a_step(engine: type[Metric]) -> None:
    metric = engine()
    metric(BATCH.clone().requires_grad_()).backward()
    copy.deepcopy(metric)


@law("a graph that nobody needs any more is kept by the cache")
def test_the_graph_goes_with_the_value(engine: type[Metric]) -> None:
    metric: Any = engine()
    metric(BATCH.clone().requires_grad_())
    assert not metric._forward_cache.requires_grad


@law("metrics whose states are equal after the first batch share them from then on")
def test_a_collection_keeps_metrics_apart(engine: type[Metric]) -> None:
    class Squares(engine):  # type: ignore[misc, valid-type]
        def update(self, inputs: Tensor) -> None:
            super().update(inputs.square())

    collection = MetricCollection({"mean": engine(), "squares": Squares()})
    collection.update(torch.zeros(2))
    collection.update(torch.full((2,), 3.0))
    values = collection.compute()
    assert values["mean"] == 1.5
    assert values["squares"] == 4.5


@law("states are saved without their update count, and a resumed metric warns that it has seen nothing")
def test_a_resumed_metric_knows_that_it_has_seen_data(engine: type[Metric]) -> None:
    metric, resumed = engine(), engine()
    file = io.BytesIO()
    for one in (metric, resumed):
        one.persistent(mode=True)
    metric.update(BATCH)
    torch.save(metric.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.compute() == 1.5
    assert resumed.update_count == 1


@law("`double()` does not reach the modules inside")
def test_a_cast_reaches_the_modules_inside(engine: type[Metric]) -> None:
    metric: Any = engine()
    assert metric.double().layer.weight.dtype == torch.float64


@law("a cast by `to` takes the precision of the sums away")
def test_a_cast_leaves_the_sums_alone(engine: type[Metric]) -> None:
    metric: Any = engine()
    before = metric.total.dtype
    assert metric.to(torch.bfloat16).total.dtype == before


@law("sums are kept in float32, and stand still once they are large enough")
def test_small_batches_still_count_after_many(engine: type[Metric]) -> None:
    metric: Any = engine()
    metric.update(torch.full((1,), 2.0**24))
    metric.update(torch.ones(1))
    assert metric.total.item() == 2**24 + 1


@law("an error while ranks talk leaves a copy of the states behind, and `unsync` is out of step")
def test_an_error_in_sync_leaves_nothing_behind(engine: type[Metric]) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ConnectionError

    metric = engine()
    metric.update(BATCH)
    with pytest.raises(ConnectionError):
        metric.sync(dist_sync_fn=broken, distributed_available=lambda: True)
    assert metric._cache is None


@pytest.mark.skipif(not hasattr(Metric, "merge_state"), reason="this torchmetrics cannot merge")
@law("`merge_state` returns the value cached before")
def test_merging_drops_the_cached_value(engine: type[Metric]) -> None:
    left, right = engine(), engine()
    left.update(BATCH)
    right.update(3 * BATCH)
    left.compute()
    left.merge_state(right)
    assert left.compute() == 3
    assert left.update_count == 2
