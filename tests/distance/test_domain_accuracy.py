"""Domain accuracy and proxy A-distance: counts, and how far they are off by chance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import refuses
from torch import Tensor

from adaption import DomainAccuracy, ProxyADistance

both = pytest.mark.parametrize("build", [DomainAccuracy, ProxyADistance])


def logits(right: int, wrong: int, sign: float) -> Tensor:
    return sign * torch.cat([torch.rand(right) + 0.1, -torch.rand(wrong) - 0.1])


def test_each_domain_counts_half() -> None:
    accuracy, distance = DomainAccuracy(), ProxyADistance()
    for metric in (accuracy, distance):
        metric.update(logits(3, 1, -1), logits(9, 1, 1))
        metric.update(logits(5, 1, -1), logits(8, 2, 1))
    assert float(accuracy.compute()) == pytest.approx((8 / 10 + 17 / 20) / 2)
    assert float(distance.compute()) == pytest.approx(2 * (8 / 10 + 17 / 20 - 1))


def test_a_logit_of_0_says_source() -> None:
    """So one that always says 0 is right in half of the cases."""
    metric = DomainAccuracy()
    metric.update(torch.zeros(7), torch.zeros(3))
    assert float(metric.compute()) == 0.5
    assert float(metric.standard_error) == 0


def test_dense_logits_count_position_by_position() -> None:
    source, target = torch.randn(2, 1, 3, 4), torch.randn(3, 1, 2, 2)
    dense, flat = DomainAccuracy(), DomainAccuracy()
    assert dense(source, target) == flat(source.flatten(), target.flatten())
    assert dense.standard_error == flat.standard_error


@both
def test_the_standard_error_is_the_spread_of_the_value(build: Any) -> None:
    """Of many samples of 40 and 25, each with its own value; 6 % is four standard errors of a standard deviation."""
    n, m, source_rate, target_rate = 40, 25, 0.8, 0.6
    draw = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(2000):
        metric = build()
        metric.update(torch.rand(n, generator=draw) - source_rate, target_rate - torch.rand(m, generator=draw))
        values.append(metric.compute())
        errors.append(metric.standard_error)
    spread = torch.stack(values).std()
    expected = math.sqrt(0.8 * 0.2 / n + 0.6 * 0.4 / m) / 2 * (4 if build is ProxyADistance else 1)
    assert float(spread) == pytest.approx(expected, rel=0.06)
    assert float(torch.stack(errors).square().mean().sqrt()) == pytest.approx(expected, rel=0.06)


@both
def test_the_standard_error_is_of_all_ranks(build: Any) -> None:
    metric, doubled = build(), build()
    batch = torch.randn(6), torch.randn(5)
    metric.update(*batch)
    for _ in range(2):
        doubled.update(*batch)
    metric.distributed_available_fn = lambda: True
    metric.dist_sync_fn = lambda state, **_: [state, state]
    torch.testing.assert_close(metric.standard_error, doubled.standard_error)
    assert metric.num_source == 6  # the local states are back


@both
@pytest.mark.parametrize("position", [0, 1])
def test_a_nan_is_no_answer(build: Any, position: int) -> None:
    batch = [torch.randn(4), torch.randn(4)]
    batch[position][2] = torch.nan
    metric = build()
    assert metric(*batch).isnan()
    assert metric.compute().isnan()
    assert metric.standard_error.isnan()
    assert build().standard_error.isnan()


@both
@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        ((torch.randn(4, 2), torch.randn(4)), ValueError, "`source_domain_logits` must give one domain logit"),
        ((torch.randn(4), torch.randn(4, 2)), ValueError, "`target_domain_logits` must give one domain logit"),
        ((torch.randn(0), torch.randn(4)), ValueError, "`source_domain_logits` must not be empty"),
        ((torch.randn(4), torch.randn(0, 1)), ValueError, "`target_domain_logits` must not be empty"),
        ((torch.ones(4, dtype=torch.int64), torch.randn(4)), TypeError, "`source_domain_logits` must be a floating"),
    ],
)
def test_what_is_no_logit_is_refused(build: Any, batch: Any, error: type[Exception], match: str) -> None:
    metric = build()
    metric.update(torch.randn(3, 1), torch.randn(2))
    refuses(metric, match, *batch, error=error)
