"""What a metric keeps is its own: no input, no output and no mode of torch reaches into it."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from cases import CASES, EVERY_METRIC, Case, flat, tensors, tree_map
from torch import Tensor

from adaption._metric import AdditiveMetric

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


def kept(metric: AdditiveMetric) -> list[Tensor]:
    """The tensors that a metric keeps beside its modules: states, their defaults, caches."""
    return tensors([value if not isinstance(value, dict) else list(value.values()) for value in vars(metric).values()])


def storages(values: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors(values) if tensor.numel()}


def built(case: Case, **keywords: Any) -> AdditiveMetric:
    metric = case.build()
    for name, value in keywords.items():
        setattr(metric, name, value)
    return metric


@every_metric
@pytest.mark.parametrize("compute_on_cpu", [False, True])
@pytest.mark.parametrize(
    "mode", [nullcontext, torch.no_grad, torch.inference_mode], ids=["grad", "no_grad", "inference"]
)
def test_nothing_kept_is_shared(
    case: Case, compute_on_cpu: bool, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    metric = built(case, compute_on_cpu=compute_on_cpu)
    batches = [tree_map(Tensor.clone, case.batch(4, 4)) for _ in range(2)]
    with mode():
        value = metric(*batches[0])
        metric.update(*batches[1])
        mine = storages(kept(metric))
        assert not mine & (storages(batches) | storages(value))
        before = copy.deepcopy(metric.metric_state), copy.deepcopy(metric._forward_cache)
        for tensor in tensors([value, *batches]):
            tensor.detach().zero_()
        torch.testing.assert_close((metric.metric_state, metric._forward_cache), before, rtol=0, atol=0)


@every_metric
def test_nothing_kept_belongs_to_inference_mode(case: Case) -> None:
    """Built, called, computed, merged, loaded and reset inside, and of use outside."""
    with torch.inference_mode():
        metric, other = case.build(), case.build()
        metric.persistent(mode=True)
        metric(*case.batch(4, 4))
        metric.compute()
        metric.sync(dist_sync_fn=lambda state, **_: [state, state], distributed_available=lambda: True)
        metric.unsync()
        other.update(*case.batch(4, 4))
        metric.merge_state(other)
        metric.compute()
        other.load_state_dict(metric.state_dict())
        other.compute()
        last = case.build()
        last.reset()
    for one in (metric, other, last):
        assert not any(tensor.is_inference() for tensor in kept(one))
    network = torch.ones((), requires_grad=True)
    (flat(metric.compute()) * network).sum().backward()
    assert network.grad is not None


@every_metric
@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev", "grad of grad"])
def test_nothing_kept_belongs_to_a_transform(case: Case, transform: str) -> None:
    metric, plain = case.build(), case.build()
    batch = case.batch(4, 4)
    names = [index for index in case.looked_at if isinstance(batch[index], Tensor)]
    position = names[0] if names else case.looked_at[0]

    def value(item: Any) -> Tensor:
        return flat(metric(*batch[:position], item, *batch[position + 1 :])).sum()

    item = batch[position]
    if transform == "grad":
        torch.func.grad(value)(item)
    elif transform == "vjp":
        torch.func.vjp(value, item)
    elif transform == "jacrev":
        with contextlib.suppress(RuntimeError):  # a closed gradient cannot be mapped, once the value is there
            torch.func.jacrev(value)(item)
    else:
        nested(value, item)
    plain(*batch)
    for one in (metric, copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        torch.testing.assert_close(one.metric_state, plain.metric_state, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(one.compute(), plain.compute(), rtol=1e-6, atol=1e-7)


def nested(value: Callable[[Any], Tensor], item: Any) -> None:
    """The value inside of two levels. Closed gradients have no second derivative, and none is asked for."""
    torch.func.grad(lambda outer: torch.func.vjp(value, outer)[0])(item)


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:.*searchsorted")
@every_metric
def test_a_mapped_metric_is_refused_and_works_on(case: Case) -> None:
    metric = case.build()
    batch = case.batch(4, 4)
    metric(*batch)
    before = copy.deepcopy(metric.metric_state)
    stacked = tree_map(lambda tensor: torch.stack([tensor, tensor]), batch)
    dims = tree_map(lambda _: 0, stacked)  # type: ignore[arg-type, return-value]
    with pytest.raises((RuntimeError, ValueError, TypeError, NotImplementedError)):
        torch.vmap(metric, tuple(dim if tensors(item) else None for dim, item in zip(dims, stacked, strict=True)))(
            *stacked
        )
    torch.testing.assert_close(metric.metric_state, before, rtol=0, atol=0)
    metric.update(*batch)
    assert metric.update_count == 2


def test_the_refusal_names_the_functions() -> None:
    metric = next(case for case in CASES if case.name == "ADDA target").build()
    with pytest.raises(RuntimeError, match=r"AdversarialDiscriminativeLoss .*`torch\.vmap`.*`adaption\.functional`"):
        torch.vmap(lambda logits: metric(logits, "target"))(torch.randn(2, 4))
