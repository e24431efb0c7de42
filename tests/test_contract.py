"""The laws of the base class, each over every loss."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    EVERY_METRIC,
    SCORES,
    Case,
    cast,
    epoch_value,
    flat,
    in_any_order,
    looked_at,
    tensors,
    tree_map,
    with_gradient,
    with_nan,
)
from torch import Tensor, nn
from torchmetrics import MetricCollection

import adaption
from adaption import functional
from adaption._metric import AdditiveMetric

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)
every_score = pytest.mark.parametrize("case", SCORES, ids=str)


def sizes(case: Case) -> list[tuple[int, int]]:
    return [(4, 4), (6, 6), (2, 2)] if case.paired else [(4, 3), (2, 6), (5, 5)]


def snapshot(metric: AdditiveMetric) -> dict[str, Any]:
    """All that a call must leave alone if it raises."""
    names = ("_update_count", "_computed", "_is_synced", "_to_sync", "_should_unsync", "_enable_grad", "_cache")
    return {**copy.deepcopy(metric.metric_state), **{name: copy.deepcopy(getattr(metric, name)) for name in names}}


def assert_same(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@every_metric
def test_function_metric_and_epoch_value_agree(case: Case) -> None:
    metric = case.build()
    batch = cast(case.batch(4, 4), torch.float64)
    metric.double()
    value = flat(metric(*batch))
    torch.testing.assert_close(value, flat(case.function(metric, *batch)))
    torch.testing.assert_close(flat(metric.compute()), value.detach())
    assert flat(metric.compute()).dtype == torch.float64


@every_metric
def test_ranks_keep_their_batches_apart_unless_asked(case: Case) -> None:
    assert not getattr(case.build(), "gather_distributed", False)


@every_metric
def test_update_and_forward_accumulate_the_same(case: Case) -> None:
    forwarded, updated = case.build(), case.build()
    for n, m in sizes(case):
        batch = case.batch(n, m)
        forwarded(*batch)
        updated.update(*batch)
    assert_same(forwarded.compute(), updated.compute())
    assert forwarded.update_count == updated.update_count == 3


@every_metric
def test_a_new_batch_drops_the_value_of_before(case: Case) -> None:
    called, updated, expected = case.build(), case.build(), case.build()
    for n, m in sizes(case):
        batch = case.batch(n, m)
        called(*batch)
        updated.update(*batch)
        expected.update(*batch)
        assert_same(called.compute(), updated.compute())
    assert_same(called.compute(), expected.compute())


@every_metric
def test_epoch_value_is_what_it_says(case: Case) -> None:
    metric = case.build()
    batches = [cast(case.batch(n, m), torch.float64) for n, m in sizes(case)]
    metric.double()
    for batch in batches:
        metric.update(*batch)
    torch.testing.assert_close(metric.compute(), epoch_value(case, metric, batches))


@every_loss
def test_forward_gives_the_gradient_of_the_function(case: Case) -> None:
    metric = case.build().double()
    batch = with_gradient(case, cast(case.batch(4, 4), torch.float64))
    twin = with_gradient(case, batch)
    metric(*batch).sum().backward()
    case.function(metric, *twin).sum().backward()
    sign = -1 if hasattr(metric, "grl") else 1  # the function does not know of the gradient reversal
    for left, right in zip(looked_at(case, batch), looked_at(case, twin), strict=True):
        assert left.grad is not None
        assert right.grad is not None
        assert left.grad.abs().sum() > 0
        torch.testing.assert_close(left.grad, sign * right.grad)


@every_metric
def test_value_is_evaluated_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = case.build()
    calls = []
    original = type(metric)._statistics

    def counted(self: AdditiveMetric, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(metric), "_statistics", counted)
    metric(*case.batch(4, 4))
    assert len(calls) == 1


@every_loss
def test_grad_mode_is_the_callers(case: Case) -> None:
    metric = case.build()
    batch = with_gradient(case, case.batch(4, 4))
    with torch.no_grad():
        assert not metric(*batch).requires_grad
    with torch.inference_mode():
        metric(*batch)
        metric.update(*batch)
    assert metric(*batch).requires_grad
    metric.update(*batch)
    assert not any(state.requires_grad or state.is_inference() for state in tensors(list(metric.metric_state.values())))
    assert torch.is_grad_enabled()


@every_loss
def test_nothing_holds_a_graph_after_a_step(case: Case) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.metric = case.build()
            self.layer = nn.Linear(2, 2)

    model = Model()
    model.metric(*with_gradient(case, case.batch(4, 4))).sum().backward()
    model.metric.compute()
    held = [value for value in vars(model.metric).values() if isinstance(value, (Tensor, list))]
    assert not any(tensor.requires_grad for tensor in tensors(held))
    averaged: Any = torch.optim.swa_utils.AveragedModel(model).module
    pickled = pickle.loads(pickle.dumps(model.metric))
    for copied in (copy.deepcopy(model.metric), model.metric.clone(), pickled, averaged.metric):
        assert_same(copied.compute(), model.metric.compute())
        copied.update(*case.batch(4, 4))


@every_score
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_score_has_no_gradient_and_is_copied(case: Case, dtype: torch.dtype) -> None:
    metric = case.build()
    assert not metric.is_differentiable
    batch = with_gradient(case, cast(case.batch(4, 4), dtype))
    with torch.inference_mode():
        metric(*batch)
    value = metric(*batch)
    metric.update(*batch)
    held = [item for item in vars(metric).values() if isinstance(item, (Tensor, list))]
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in tensors([value, metric.compute(), held]))
    for copied in (copy.deepcopy(metric), metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert_same(copied.compute(), metric.compute())
        copied.update(*case.batch(4, 4))


@every_metric
def test_a_call_that_raises_changes_nothing(case: Case) -> None:
    metric = case.build()
    metric(*case.batch(4, 4))
    metric.compute()
    before = snapshot(metric)
    good = case.batch(4, 4)
    bad: list[tuple[Any, ...]] = [
        tree_map(lambda tensor: tensor[:0], good),
        tree_map(lambda tensor: torch.zeros_like(tensor, dtype=torch.int64), good),
        tree_map(lambda _: "features", good),  # type: ignore[arg-type, return-value]
        good[: _required(metric) - 1],
        tree_map(lambda tensor: tensor.sum(), good),
    ]
    for batch in bad:
        for call in (metric, metric.update):
            with pytest.raises((ValueError, TypeError)):
                call(*batch)
            assert_same(snapshot(metric), before)
    assert torch.is_grad_enabled()
    metric(*good)
    assert metric.update_count == 2


def _required(metric: AdditiveMetric) -> int:
    return sum(parameter.default is parameter.empty for parameter in metric._update_signature.parameters.values())


@every_metric
def test_signature_lets_a_collection_filter_arguments(case: Case) -> None:
    metric = case.build()
    names = list(metric._update_signature.parameters)
    batch = dict(zip(names, case.batch(4, 4), strict=False))
    collection = MetricCollection({"loss": metric})
    collection.update(**batch, something_else=torch.zeros(1))
    assert metric.update_count == 1
    assert set(collection(**batch, something_else=None)) == set(metric._scalars or ["loss"])


@every_metric
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.to(torch.bfloat16),
        lambda m: m.bfloat16(),
        lambda m: m.half(),
        lambda m: m.set_dtype(torch.float16),
        lambda m: nn.ModuleList([m]).double(),
    ],
    ids=["to", "bfloat16", "half", "set_dtype", "parent"],
)
def test_states_keep_their_precision(case: Case, change: Any) -> None:
    metric = case.build()
    metric.update(*case.batch(4, 4))
    before, expected = copy.deepcopy(metric.metric_state), copy.deepcopy(metric.compute())
    change(metric)
    assert_same(metric.metric_state, before)
    assert_same(metric.compute(), expected)
    metric.reset()
    assert all(state.dtype in (torch.float64, torch.int64) for state in tensors(list(metric.metric_state.values())))


@every_metric
def test_casting_reaches_the_modules_inside(case: Case) -> None:
    for dtype, change in ((torch.float64, "double"), (torch.float16, "half"), (torch.float32, "float")):
        metric = case.build().double()
        getattr(metric, change)()
        assert all(parameter.dtype == dtype for parameter in metric.parameters())


class Constant(AdditiveMetric):
    """The cheapest loss there is, for long runs: the mean of numbers."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._keep_sums("total", "number")

    def update(self, value: Tensor) -> None:
        self._accumulate(self._statistics(value))

    def _statistics(self, value: Tensor) -> tuple[Tensor, int]:
        return value, 1

    def _value(self, *statistics: Any) -> Tensor:
        total: Tensor = statistics[0] / statistics[1]
        return total


def test_a_million_updates_lose_nothing_and_keep_nothing() -> None:
    """Up to 2^29 equal float32 values add up exactly in float64, which has 29 digits more."""
    metric, value = Constant(), torch.tensor(0.1)
    metric.update(value)
    before = alive()
    for _ in range(999_999):
        metric.update(value)
    assert metric.total.item() == 1_000_000 * value.item()
    assert metric.compute().item() == value.item()
    assert alive() <= before + 1  # the cached value


@every_loss
def test_sums_of_equal_batches_are_exact(case: Case) -> None:
    metric = case.build()
    with torch.no_grad():
        statistics = metric._statistics(*case.batch(4, 4))
    for _ in range(1000):
        metric._accumulate(statistics)
    names = metric._statistic_names
    for name, statistic in zip(names, statistics[: len(names)], strict=True):
        state = getattr(metric, name)
        if isinstance(state, Tensor):
            whole = torch.as_tensor(statistic).dtype == torch.float64  # of fewer digits, the sums have none to lose
            times = 1 if name.endswith("_mean") else 1000
            expected = times * torch.as_tensor(statistic, dtype=torch.float64)
            torch.testing.assert_close(state, expected, rtol=1e-12 if whole else 0, atol=0)


@every_metric
def test_sync_on_step_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="`dist_sync_on_step` must be False"):
        type(case.build())(dist_sync_on_step=True, **_settings(case.build()))


@every_metric
def test_compute_before_update_is_nan_with_a_warning(case: Case) -> None:
    metric = case.build()
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        value = metric.compute()
    assert flat(value).isnan().all()


@every_metric
def test_merge_state_is_exact_and_counts(case: Case) -> None:
    left, right, whole = case.build(), case.build(), case.build()
    for index, (n, m) in enumerate(sizes(case)):
        batch = case.batch(n, m)
        (left if index % 2 else right).update(*batch)
        whole.update(*batch)
    left.compute()
    left.merge_state(right)
    values = [in_any_order(case, metric.compute()) for metric in (left, whole)]
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-9)
    assert left.update_count == 3


@every_metric
def test_merge_state_refuses_what_does_not_fit(case: Case) -> None:
    metric = case.build()
    metric.update(*case.batch(4, 4))
    metric.compute()
    before = snapshot(metric)
    other = copy.deepcopy(metric)
    other.nan_strategy = "error"
    for incoming, error in ((3, TypeError), ({}, ValueError), (other, ValueError)):
        with pytest.raises(error, match="`incoming_state` must"):
            metric.merge_state(incoming)  # type: ignore[arg-type]
        assert_same(snapshot(metric), before)


@every_metric
def test_persistent_states_come_back_with_their_count(case: Case) -> None:
    metric = case.build()
    assert not any(name in metric.state_dict() for name in metric.metric_state)
    metric.persistent(mode=True)
    for n, m in sizes(case):
        metric.update(*case.batch(n, m))
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    resumed = case.build()
    resumed.persistent(mode=True)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.update_count == metric.update_count == 3
    batch = case.batch(4, 4)
    resumed.update(*batch)
    metric.update(*batch)
    assert_same(resumed.compute(), metric.compute())


def test_two_metrics_never_share_a_compute_group() -> None:
    collection = MetricCollection({f"{i} {case}": case.build() for i, case in enumerate(2 * EVERY_METRIC)})
    two = MetricCollection({str(case): case.build() for case in CASES if case.batch is CASES[0].batch})
    zeros = torch.zeros(4, 6), torch.zeros(4, 6)
    for _ in range(3):
        two.update(*zeros)
    assert all(len(group) == 1 for group in two.compute_groups.values())
    assert all(len(group) == 1 for group in collection.compute_groups.values())
    with pytest.warns(UserWarning, match="copies the networks"):
        copied = pickle.loads(pickle.dumps(two.clone()))
    copied.update(*zeros)
    assert all(metric.update_count == 4 for metric in copied.values())


@every_metric
def test_repr_shows_the_settings(case: Case) -> None:
    metric = case.build()
    for name in ("num_kernels", "reduction", "estimator", "num_singular_values", "randomized", "temperature"):
        if hasattr(metric, name):
            assert f"{name}={getattr(metric, name)!r}" in repr(metric)
    assert "nan_strategy='warn'" in repr(type(metric)(nan_strategy="warn", **_settings(metric)))


@every_metric
def test_plot(case: Case) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    metric = case.build()
    values = [tree_map(lambda value: value.detach().mean(), metric(*case.batch(4, 4))) for _ in range(3)]
    figure, axes = metric.plot(values)
    assert axes.get_lines() or axes.collections
    plt.close(figure)


@every_metric
def test_nan_passes_by_default(case: Case) -> None:
    metric = case.build()
    batch = with_nan(case, case.batch(4, 4))
    assert flat(metric(*batch)).isnan().all()
    assert flat(metric.compute()).isnan().all()


@every_metric
def test_nan_strategies(case: Case) -> None:
    good = case.batch(4, 4)
    bad = with_nan(case, good)
    strict = type(case.build())(nan_strategy="error", **_settings(case.build()))
    strict(*good)
    before = snapshot(strict)
    for call in (strict, strict.update):
        with pytest.raises(ValueError, match="the value of this batch is not finite"):
            call(*bad)
        assert_same(snapshot(strict), before)
    for strategy in ("warn", "ignore"):
        metric = type(case.build())(nan_strategy=strategy, **_settings(case.build()))
        expected = flat(metric(*good)).detach()
        for call in (metric, metric.update):
            if strategy == "warn":
                with pytest.warns(UserWarning, match="left out of the epoch value"):
                    value = call(*bad)
            else:
                value = call(*bad)
            assert value is None or flat(value).isnan().all()
        assert metric.num_ignored == 2
        torch.testing.assert_close(flat(metric.compute()), expected, check_dtype=False)
        metric.reset()
        assert metric.num_ignored == 0


def _settings(metric: AdditiveMetric) -> dict[str, Any]:
    import inspect

    names = [n for n in inspect.signature(type(metric).__init__).parameters if n not in ("self", "kwargs")]
    return {name: getattr(metric, name) for name in names}


@every_loss
def test_inputs_and_random_state_are_left_alone(case: Case) -> None:
    metric = case.build()
    batch = with_gradient(case, case.batch(4, 4))
    before = copy.deepcopy([tensor.detach() for tensor in tensors(batch)])
    state = torch.get_rng_state()
    metric(*batch).sum().backward()
    metric.update(*batch)
    assert_same([tensor.detach() for tensor in tensors(batch)], before)
    assert_same(torch.get_rng_state(), state)


def _twice(state: Tensor, **_: Any) -> list[Tensor]:
    """Two ranks with the same data."""
    return [state, state]


@every_metric
def test_sync_errors_leave_the_local_states(case: Case) -> None:
    metric = case.build()
    metric.update(*case.batch(4, 4))
    metric.distributed_available_fn = lambda: True
    before = snapshot(metric)

    def broken(*_: Any, **__: Any) -> Any:
        raise ConnectionError

    metric.dist_sync_fn = broken
    with pytest.raises(ConnectionError):
        metric.compute()
    assert_same(snapshot(metric), before)
    metric.dist_sync_fn = _twice
    doubled = metric.compute()
    assert_same(
        {name: state for name, state in snapshot(metric).items() if name != "_computed"},
        {n: s for n, s in before.items() if n != "_computed"},
    )
    assert flat(doubled).isfinite().all()


@every_metric
def test_a_synced_metric_takes_no_batch(case: Case) -> None:
    metric = case.build()
    metric.update(*case.batch(4, 4))
    metric.sync(dist_sync_fn=_twice, distributed_available=lambda: True)
    for call in (metric, metric.update):
        with pytest.raises(Exception, match="must not be synced"):
            call(*case.batch(4, 4))
    metric.unsync()
    metric.update(*case.batch(4, 4))


@every_metric
def test_long_runs_keep_steps_equally_cheap(case: Case) -> None:
    """The states of a step: their number of elements grows by the samples alone, and no state is copied."""
    metric = case.build()
    batch = case.batch(2, 2)
    metric(*batch)
    after_one = sum(tensor.numel() for tensor in tensors(list(metric.metric_state.values())))
    firsts = [id(state[0]) for state in metric.metric_state.values() if isinstance(state, list)]
    for _ in range(49):
        metric(*batch)
    after_fifty = sum(tensor.numel() for tensor in tensors(list(metric.metric_state.values())))
    sums = sum(state.numel() for state in metric.metric_state.values() if isinstance(state, Tensor))
    assert after_fifty == sums + 50 * (after_one - sums)
    assert [id(state[0]) for state in metric.metric_state.values() if isinstance(state, list)] == firsts


def alive() -> int:
    """How many tensors Python knows of."""
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


class Saved:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@every_loss
def test_the_graph_goes_with_the_value(case: Case) -> None:
    """Whoever holds a graph, in Python or in C++, holds what it saved."""
    kept: weakref.WeakSet[Saved] = weakref.WeakSet()

    def keep(tensor: Tensor) -> Saved:
        saved = Saved(tensor.detach())  # a result of the graph would hold the graph that holds it
        kept.add(saved)
        return saved

    metric = case.build()
    for backward in (False, True):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
            value = metric(*with_gradient(case, case.batch(4, 4)))
        assert kept
        if backward:
            value.sum().backward()
        metric.compute()
        del value
        assert not kept


def test_memory_is_flat_over_ten_thousand_steps() -> None:
    metric = next(case for case in CASES if case.name == "DANN").build()
    source, target = torch.randn(4, 6, requires_grad=True), torch.randn(3, 6)
    metric(source, target).backward()
    before = alive()
    for _ in range(10_000):
        metric(source, target).backward()
    assert alive() <= before
    assert metric.update_count == 10_001


@every_metric
def test_a_loss_has_the_defaults_of_its_function(case: Case) -> None:
    loss = type(case.build())
    functions = [value for value in vars(functional).values() if getattr(value, "__module__", "") == loss.__module__]
    for setting, default in defaults(loss).items():
        known = [defaults(function)[setting] for function in functions if setting in defaults(function)]
        assert not known or default in known, f"{setting}={default}, but the function has {known}"


def defaults(function: Callable[..., object]) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


ALIGNING = [
    case
    for case in EVERY_METRIC
    if type(case.build()).__module__.startswith("adaption.features.")
    and list(inspect.signature(case.build().update).parameters)[:2] == ["source_features", "target_features"]
    and getattr(case.build(), "plot_lower_bound", None) is not None
    and not isinstance(case.build(), (adaption.BatchSpectralPenalizationLoss, adaption.AdaptiveFeatureNormLoss))
]


@pytest.mark.parametrize("case", ALIGNING, ids=str)
def test_equal_domains_are_at_the_lower_bound(case: Case) -> None:
    metric, (features, *_) = case.build(), case.batch(12, 12)
    torch.testing.assert_close(metric(features, features), torch.tensor(metric.plot_lower_bound), rtol=0, atol=1e-6)
