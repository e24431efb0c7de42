"""Modules that are built on the meta device and get their memory later, as FSDP and Lightning do it, begin fresh."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import CLASSES, EVERY_METRIC, WIDTH, Case, flat
from torch import Tensor, nn

from adaption import AutomaticUpdateClassWeightModule, MaximumMeanDiscrepancyLoss, layers
from adaption._metric import AdditiveMetric

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


@pytest.fixture(autouse=True)
def _no_zeros_by_chance() -> Iterator[None]:
    """Memory that nobody filled holds NaN, and the largest integers."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


def on_meta(case: Case) -> AdditiveMetric:
    with torch.device("meta"):
        return case.build()


def at_once(module: nn.Module) -> None:
    module.to_empty(device="cpu")
    for part in module.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()


def module_by_module(module: nn.Module) -> None:
    """FSDP and Fabric look at modules with parameters or buffers of their own, and at no others."""
    for part in module.modules():
        if any(t.is_meta for t in itertools.chain(part.parameters(recurse=False), part.buffers(recurse=False))):
            part.to_empty(device="cpu", recurse=False)
            getattr(part, "reset_parameters")()  # noqa: B009 - a Tensor or Module to a type checker


def by_loading(module: nn.Module) -> None:
    """With the weights of a checkpoint, which holds no states."""
    module.load_state_dict(
        {name: torch.rand(t.shape).to(t.dtype) for name, t in module.state_dict().items()}, assign=True
    )


def assert_fresh(metric: AdditiveMetric, case: Case) -> None:
    """Assert that it is as one built here, once it has the same weights."""
    fresh = case.build()
    metric.load_state_dict(fresh.state_dict())
    batch = case.batch(4, 4)
    for _ in range(2):
        value = flat(metric(*batch)).detach()
        torch.testing.assert_close(value, flat(fresh(*batch)).detach(), rtol=0, atol=0)
        torch.testing.assert_close(metric.metric_state, fresh.metric_state, rtol=0, atol=0)
        torch.testing.assert_close(flat(metric.compute()), value.double(), rtol=1e-5, atol=1e-6)
        metric.reset()
        fresh.reset()
    torch.testing.assert_close(metric.metric_state, case.build().metric_state, rtol=0, atol=0)
    assert metric.device == torch.device("cpu")


@every_metric
@pytest.mark.parametrize("materialise", [at_once, module_by_module, by_loading], ids=lambda f: f.__name__)
def test_a_metric_from_the_meta_device_is_fresh(case: Case, materialise: Callable[[nn.Module], None]) -> None:
    model = nn.ModuleDict({"loss": on_meta(case)})
    materialise(model)
    metric: Any = model["loss"]
    assert_fresh(metric, case)


@every_metric
def test_its_default_survives_other_memory(case: Case) -> None:
    metric = case.build()
    metric.update(*case.batch(4, 4))
    metric.compute()
    metric.to_empty(device="cpu")
    metric.reset()
    assert_fresh(metric, case)


def test_values_go_with_their_memory() -> None:
    metric: Any = MaximumMeanDiscrepancyLoss()
    metric(torch.randn(4, 2), torch.randn(3, 2))
    metric.compute()
    metric.to("meta")
    assert metric._computed.is_meta
    assert metric._forward_cache.is_meta
    metric.to_empty(device="cpu")
    assert metric._computed is metric._forward_cache is None


@every_metric
def test_a_metric_can_leave_the_meta_device_by_to(case: Case) -> None:
    """What has states only can be moved: they are known to begin at 0. Weights cannot."""
    metric = on_meta(case).bfloat16()
    assert metric.num_updates.is_meta
    assert metric.update_count == 0
    if not metric.state_dict():
        assert_fresh(metric.to("cpu"), case)
        assert_fresh(on_meta(case).to("cpu", torch.float64), case)


@every_metric
def test_an_epoch_is_loaded_where_no_state_had_memory(case: Case) -> None:
    saved = case.build()
    saved.persistent(mode=True)
    saved.update(*case.batch(4, 4))
    metric = on_meta(case)
    metric.load_state_dict(saved.state_dict(), assign=True)
    torch.testing.assert_close(metric.metric_state, saved.metric_state, rtol=0, atol=0)
    torch.testing.assert_close(metric.compute(), saved.compute(), rtol=0, atol=0)
    metric.reset()
    assert_fresh(metric, case)


def moved_schedule(layer: Any) -> Any:
    layer.step()
    return layer


def moved_weights() -> nn.Module:
    module = AutomaticUpdateClassWeightModule(1, [torch.randn(4, CLASSES)], lambda rows: rows, CLASSES, "cpu")
    module.step()
    return module


BEGINNINGS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "warm start": (lambda: moved_schedule(layers.WarmStartGradientLayer()), {"iteration": torch.tensor(0)}),
    "reversal": (lambda: moved_schedule(layers.WarmStartGradientReversalLayer()), {"iteration": torch.tensor(0)}),
    "class weights": (moved_weights, {"class_weight": torch.ones(CLASSES), "num_steps": torch.tensor(0)}),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_layer_begins_anew(name: str) -> None:
    build, beginning = BEGINNINGS[name]
    for module in (build(), build().to_empty(device="cpu")):
        at_once(module)
        torch.testing.assert_close(dict(module.state_dict()), beginning, rtol=0, atol=0)


def test_a_random_map_is_drawn_anew() -> None:
    torch.manual_seed(3)
    expected = layers.RandomizedMultiLinearMap(WIDTH, CLASSES, 16)
    with torch.device("meta"):
        layer = layers.RandomizedMultiLinearMap(WIDTH, CLASSES, 16)
    layer.to_empty(device="cpu")
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.testing.assert_close(dict(layer.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_teacher_begins_anew_with_its_student(dtype: torch.dtype) -> None:
    student = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(dtype)
    teacher = layers.EmaTeacher(student, 0.5)
    nn.init.ones_(student.get_parameter("0.weight"))
    teacher.update()
    student(torch.randn(4, 2, dtype=dtype))
    teacher.to_empty(device="cpu")
    teacher.reset_parameters()
    expected = layers.EmaTeacher(copy.deepcopy(student), 0.5)
    torch.testing.assert_close(dict(teacher.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
