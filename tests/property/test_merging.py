"""The parts of an epoch may be merged in any order and grouping, and samples may come in any order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EVERY_METRIC, Case, cast, flat, in_any_order, tensors, tree_map
from hypothesis import given
from hypothesis import strategies as st
from property.ledger import BAD, SIZES, Batches
from property.problems import generators
from torch import Tensor

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


@every_metric
@given(data=st.data())
def test_any_partition_merges_to_the_whole(case: Case, data: st.DataObject) -> None:
    batches = Batches(case)
    parts = data.draw(
        st.lists(st.lists(st.sampled_from([*range(len(SIZES)), BAD]), max_size=3), min_size=2, max_size=4)
    )
    numbers = [number for part in parts for number in part]
    metrics = [batches.metric("ignore") for _ in parts]
    for metric, part in zip(metrics, parts, strict=True):
        for number in part:
            metric.update(*batches.every[number])
    while len(metrics) > 1:
        incoming = metrics.pop(data.draw(st.integers(0, len(metrics) - 1)))
        metrics[data.draw(st.integers(0, len(metrics) - 1))].merge_state(incoming)
    (merged,) = metrics
    assert merged.update_count == len(numbers)
    assert merged.num_ignored == numbers.count(BAD)
    good = [number for number in numbers if number != BAD]
    if good:
        expected = batches.value(*good)
        torch.testing.assert_close(
            in_any_order(case, merged.compute()), in_any_order(case, expected), rtol=1e-10, atol=1e-12
        )
    elif numbers:
        assert flat(merged.compute()).isnan().all()


@every_metric
@given(data=st.data())
def test_samples_may_come_in_any_order(case: Case, data: st.DataObject) -> None:
    """Pairs stay pairs where the mathematics pairs samples."""
    n, generator = 2 * data.draw(st.integers(1, 4)), data.draw(generators)
    metric = case.build().double()
    batch = cast(case.batch(n, n), torch.float64)
    n = len(tensors(batch)[0])
    together = torch.randperm(n, generator=generator)
    if case.name == "MMD linear":  # it compares neighbours
        together = (2 * torch.randperm(n // 2, generator=generator)[:, None] + torch.arange(2)).flatten()
    apart = together if case.paired else torch.randperm(n, generator=generator)
    permuted = [
        _rows(argument, apart if name.startswith("target") else together)
        for name, argument in zip(metric._update_signature.parameters, batch, strict=False)
    ]
    left, right = (in_any_order(case, metric(*arguments)).detach() for arguments in (batch, permuted))
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def _rows(argument: Any, order: Tensor) -> Any:
    return tree_map(lambda tensor: tensor[order], argument)
