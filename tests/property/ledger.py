"""What a metric should hold after any steps, in plain Python: which batches count, and how many calls there were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from cases import Case, cast, epoch_value, flat, tensors, with_nan

from adaption._metric import AdditiveMetric

SIZES = [(4, 3), (2, 6), (5, 5)]
BAD = len(SIZES)  # the number of the batch that is not finite


class Batches:
    """Batches of a loss, known by their numbers, and the epoch value of any of them by the public function."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(1)
        self.case = case
        good = [cast(case.batch(n, n if case.paired else m), torch.float64) for n, m in SIZES]
        self.every: list[tuple[Any, ...]] = [*good, with_nan(case, good[0])]
        self._values: dict[tuple[int, ...], Any] = {}

    def metric(self, nan_strategy: str = "disable") -> AdditiveMetric:
        metric = self.case.build().double()
        metric.nan_strategy = nan_strategy
        return metric

    def value(self, *numbers: int) -> Any:
        if not numbers:
            return torch.full((), torch.nan, dtype=torch.float64)
        if numbers not in self._values:
            with torch.no_grad():
                batches = [self.every[number] for number in numbers]
                self._values[numbers] = epoch_value(self.case, self.metric(), batches)
        return self._values[numbers]


@dataclass
class Entry:
    """A metric, and what was done to it.

    Args:
        metric: the metric.
        counted: numbers of the batches that make up its epoch value.
        calls: how often it was called with success.
        ignored: how many batches were left out.
    """

    metric: AdditiveMetric
    counted: list[int] = field(default_factory=list)
    calls: int = 0
    ignored: int = 0

    def call(self, number: int) -> None:
        self.calls += 1
        if number == BAD and self.metric.nan_strategy != "disable":
            self.ignored += 1
        else:
            self.counted.append(number)

    def add(self, other: Entry) -> None:
        self.counted = self.counted + other.counted
        self.calls += other.calls
        self.ignored += other.ignored


def assert_epoch(entry: Entry, batches: Batches) -> None:
    """The metric computes what the entry says; the order of the batches makes no difference but to the last digits."""
    value = entry.metric.compute()
    assert flat(value).dtype == torch.float64
    assert not any(scalar.is_inference() for scalar in tensors(value))
    torch.testing.assert_close(value, batches.value(*entry.counted), rtol=1e-9, atol=1e-12, equal_nan=True)
