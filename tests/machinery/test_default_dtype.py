"""No result depends on `torch.set_default_dtype`, which Lightning sets in every step under true half precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import CASES, CLASSES, Case, cast, looked_at, seeded, tensors, with_gradient
from torch import Tensor, nn

from adaption import AutomaticUpdateClassWeightModule, ImportanceWeightModule, layers

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
with_any_default = pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64], ids=str)


@contextmanager
def as_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def assert_same(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def late_schedule() -> nn.Module:
    """10 times its step is infinite in float16."""
    layer = layers.WarmStartGradientReversalLayer(10.0, max_iters=100_000)
    layer.iteration.fill_(6600)
    return layer


@every_loss
@with_any_default
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_a_loss_is_the_same(case: Case, default: torch.dtype, dtype: torch.dtype) -> None:
    """Built, called and computed under another default: value, gradients and epoch, and the dtypes of all of them."""
    batch = with_gradient(case, cast(case.batch(4, 4), dtype))
    twin = with_gradient(case, batch)
    plain = case.build()
    if hasattr(plain, "grl"):
        plain.grl = late_schedule()
    plain.to(torch.float64 if dtype == torch.float64 else torch.float32)
    if [*plain.parameters(), *plain.buffers()]:  # a network is built in the default dtype
        metric = copy.deepcopy(plain)
    else:
        with as_default(default):
            metric = case.build()
    expected = plain(*batch)
    expected.sum().backward()
    with as_default(default):
        value = metric(*twin)
        value.sum().backward()
        metric.update(*twin)
        epoch = metric.compute()
        states = copy.deepcopy(metric.metric_state)
    plain.update(*batch)
    assert_same(value, expected)
    assert_same(epoch, plain.compute())
    assert_same([leaf.grad for leaf in looked_at(case, twin)], [leaf.grad for leaf in looked_at(case, batch)])
    assert_same(tensors(list(states.values())), tensors(list(plain.metric_state.values())))


@every_loss
@with_any_default
def test_a_function_is_the_same(case: Case, default: torch.dtype) -> None:
    metric, batch = case.build(), case.batch(4, 4)
    expected = case.function(metric, *batch).detach()
    with as_default(default):
        assert_same(case.function(metric, *batch).detach(), expected)


def importance(features: Tensor) -> Tensor:
    return ImportanceWeightModule(lambda rows: rows.sum(1)).get_importance_weight(features)


def class_weight(features: Tensor) -> Tensor:
    module = AutomaticUpdateClassWeightModule(1, [features], lambda rows: rows, features.shape[1], "cpu")
    module.class_weight = module.class_weight.float()
    module.step()
    return module.class_weight


def warm_start(features: Tensor) -> Tensor:
    layer = late_schedule()
    gradient: Tensor = torch.func.grad(lambda rows: layer(rows).sum())(features)
    return gradient


def pseudo_labels(features: Tensor) -> list[Tensor]:
    generator = PSEUDO_LABELS
    return list(generator(features.reshape(1, 1, 3, 4)))


def averaged(features: Tensor) -> Tensor:
    student = nn.Identity()
    student.register_parameter("weight", nn.Parameter(features))
    teacher = layers.EmaTeacher(student, 0.9)
    teacher.update()
    result: Tensor = next(teacher.parameters())
    return result


PSEUDO_LABELS = layers.PseudoLabelGenerator2d(1, 3, 4, 1)
RANDOM_MAP = seeded(lambda: layers.RandomizedMultiLinearMap(CLASSES, CLASSES, 5))
JOINTS = layers.JointsKLLoss(epsilon=0.1)
LAYERS: dict[str, Callable[[Tensor], Any]] = {
    "importance weights": importance,
    "class weights": class_weight,
    "warm start": warm_start,
    "pseudo labels": pseudo_labels,
    "teacher": averaged,
    "random map": lambda rows: RANDOM_MAP(rows, rows.softmax(1)),
    "joints": lambda rows: JOINTS(rows.reshape(4, 1, 1, 3), rows.softmax(1).reshape(4, 1, 1, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
@with_any_default
def test_a_layer_is_the_same(name: str, default: torch.dtype) -> None:
    features = torch.randn(4, CLASSES)
    expected = LAYERS[name](features)
    with as_default(default):
        assert_same(LAYERS[name](features), expected)
