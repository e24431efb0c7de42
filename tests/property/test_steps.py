"""Any sequence of steps leaves a metric in the state that plain bookkeeping says it should have."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import EVERY_METRIC, Case, flat, looked_at, tensors, tree_map, with_gradient
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from property.ledger import BAD, SIZES, Batches, Entry, assert_epoch

from adaption._metric import AdditiveMetric

LONGEST = 12  # epochs of more batches are not merged, or they would double without end

Copy = Callable[[AdditiveMetric], Any]
copies: dict[str, Copy] = {
    "clone": lambda metric: metric.clone(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
}
numbers = st.integers(0, len(SIZES) - 1) | st.just(BAD)


class Steps(RuleBasedStateMachine):
    """A metric and its copies, each with an entry in the books."""

    entries: Bundle[Entry] = Bundle("entries")

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches
        self.every: list[Entry] = []

    def kept(self, entry: Entry) -> Entry:
        self.every.append(entry)
        return entry

    @initialize(target=entries, nan_strategy=st.sampled_from(["disable", "error", "warn", "ignore"]))
    def begin(self, nan_strategy: str) -> Entry:
        return self.kept(Entry(self.batches.metric(nan_strategy)))

    @rule(entry=entries, number=numbers)
    def update(self, entry: Entry, number: int) -> None:
        with self.as_the_strategy_has_it(entry, number):
            entry.metric.update(*self.batches.every[number])

    @rule(entry=entries, number=numbers, backward=st.booleans())
    def forward(self, entry: Entry, number: int, backward: bool) -> None:
        batch = with_gradient(self.batches.case, self.batches.every[number])
        with self.as_the_strategy_has_it(entry, number):
            value = flat(entry.metric(*batch))
            assert value.requires_grad == entry.metric.is_differentiable
            torch.testing.assert_close(value.detach(), flat(self.batches.value(number)), equal_nan=True)
            if backward and value.requires_grad:
                value.sum().backward()
                assert all(tensor.grad is not None for tensor in looked_at(self.batches.case, batch))

    @rule(entry=entries, number=numbers, mode=st.sampled_from([torch.no_grad, torch.inference_mode]))
    def forward_without_gradient(self, entry: Entry, number: int, mode: Any) -> None:
        batch = with_gradient(self.batches.case, self.batches.every[number])
        with self.as_the_strategy_has_it(entry, number), mode():
            assert not flat(entry.metric(*batch)).requires_grad

    @contextlib.contextmanager
    def as_the_strategy_has_it(self, entry: Entry, number: int) -> Any:
        """A call with the batch of this number, and what `nan_strategy` makes of it."""
        strategy = entry.metric.nan_strategy if number == BAD else "disable"
        if strategy == "error":
            with pytest.raises(ValueError, match="not finite"):
                yield
            return
        with pytest.warns(UserWarning, match="left out") if strategy == "warn" else contextlib.nullcontext():
            yield
        entry.call(number)

    @rule(entry=entries)
    def refused(self, entry: Entry) -> None:
        empty = tree_map(lambda tensor: tensor[:0], self.batches.every[0])
        for call in (entry.metric, entry.metric.update):
            with pytest.raises(ValueError, match="must not be empty"):
                call(*empty)

    @rule(entry=entries)
    def compute(self, entry: Entry) -> None:
        if not entry.calls:
            with pytest.warns(UserWarning, match="was called before"):
                assert flat(entry.metric.compute()).isnan().all()
        elif not entry.counted:
            assert flat(entry.metric.compute()).isnan().all()
        else:
            assert_epoch(entry, self.batches)

    @rule(entry=entries)
    def reset(self, entry: Entry) -> None:
        entry.metric.reset()
        entry.counted, entry.calls, entry.ignored = [], 0, 0

    @rule(entry=entries, training=st.booleans())
    def train(self, entry: Entry, training: bool) -> None:
        assert entry.metric.train(training).training == training

    @rule(target=entries, entry=entries, how=st.sampled_from(sorted(copies)))
    def copied(self, entry: Entry, how: str) -> Entry:
        metric = copies[how](entry.metric)
        return self.kept(Entry(metric, list(entry.counted), entry.calls, entry.ignored))

    @rule(target=entries, entry=entries, computed=st.booleans())
    def saved_and_loaded(self, entry: Entry, computed: bool) -> Entry:
        entry.metric.persistent(mode=True)
        file = io.BytesIO()
        torch.save(entry.metric.state_dict(), file)
        file.seek(0)
        metric = self.batches.metric(entry.metric.nan_strategy)
        metric.persistent(mode=True)
        if computed:  # what was seen and cached before must not outlive the loading
            metric.update(*self.batches.every[0])
            metric.compute()
        metric.load_state_dict(torch.load(file, weights_only=True))
        return self.kept(Entry(metric, list(entry.counted), entry.calls, entry.ignored))

    @precondition(lambda self: sum(len(entry.counted) for entry in self.every) <= LONGEST)
    @rule(entry=entries, other=entries, as_dict=st.booleans())
    def merged(self, entry: Entry, other: Entry, as_dict: bool) -> None:
        entry.metric.merge_state(other.metric.metric_state if as_dict else other.metric)
        entry.add(other)

    @rule(entry=entries)
    def synced(self, entry: Entry) -> None:
        """Between `sync` and `unsync` no batch is taken, and the local states come back."""
        metric = entry.metric
        metric.sync(dist_sync_fn=lambda state, **_: [state, state], distributed_available=lambda: True)
        for call in (metric, metric.update):
            with pytest.raises(Exception, match="must not be synced"):
                call(*self.batches.every[0])
        metric.unsync()

    @rule(entry=entries)
    def broken_sync(self, entry: Entry) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            entry.metric.sync(dist_sync_fn=broken, distributed_available=lambda: True)

    @invariant()
    def nothing_else_has_changed(self) -> None:
        assert torch.is_grad_enabled()
        for entry in self.every:
            metric = entry.metric
            assert metric.update_count == entry.calls
            assert metric.num_ignored == entry.ignored
            assert (metric._is_synced, metric._to_sync, metric._should_unsync) == (False, True, True)
            assert not metric._enable_grad
            assert metric._cache is None
            states = list(metric.metric_state.values())
            assert not any(state.is_inference() for state in tensors(states))
            assert not any(held.requires_grad for held in tensors([*states, metric._forward_cache, metric._computed]))

    def teardown(self) -> None:
        for entry in self.every:
            if entry.counted:
                assert_epoch(entry, self.batches)


# sums, weighted sums, sums that grow with the first batch, batch values, samples, modules inside
SEVERAL = (
    *("MMD", "MMD pooled", "JMMD thetas", "BSP", "DANN", "DANN none", "CDAN+E none", "PADA"),
    *("MCD marginal entropy", "MDD weighted", "consistency L2 sum", "DEV", "SND", "two-sample test"),
)
thorough = settings.get_current_profile_name() == "thorough"


@pytest.mark.parametrize("case", [case for case in EVERY_METRIC if thorough or case.name in SEVERAL], ids=str)
def test_any_sequence_of_steps_is_accounted_for(case: Case) -> None:
    batches = Batches(case)
    examples = settings(max_examples=200) if thorough else settings()
    machine: Any = functools.partial(Steps, batches)
    run_state_machine_as_test(machine, settings=settings(examples, stateful_step_count=20))
