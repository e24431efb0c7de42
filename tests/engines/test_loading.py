"""What does not fit is refused as torch refuses parameters: a RuntimeError names the key, and no epoch is halved."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CLASSES, EVERY_METRIC, WIDTH, Case, tensors
from torch import Tensor, nn

import adaption
from adaption import layers
from adaption._metric import AdditiveMetric

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


def persistent(case: Case, *, updates: int = 1) -> AdditiveMetric:
    metric = case.build()
    metric.persistent(mode=True)
    for _ in range(updates):
        metric.update(*case.batch(4, 4))
    return metric


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def epoch(metric: AdditiveMetric) -> tuple[dict[str, Any], int]:
    return copy.deepcopy(metric.metric_state), metric.update_count


def assert_same(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def state_keys(case: Case) -> list[str]:
    return list(case.build().metric_state)


@every_metric
def test_a_missing_state_is_named(case: Case) -> None:
    saved = persistent(case, updates=2).state_dict()
    for key in state_keys(case):
        metric = persistent(case)
        before = epoch(metric)
        part = {name: value for name, value in saved.items() if name != key}
        with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
            metric.load_state_dict(part)
        assert_same(epoch(metric), before)
        assert metric.load_state_dict(part, strict=False).missing_keys == [key]
        assert_same(epoch(metric), before)  # an epoch without one of its sums would be another epoch


@every_metric
def test_a_state_of_another_shape_is_named(case: Case) -> None:
    saved = persistent(case, updates=2).state_dict()
    for key in state_keys(case):
        value = saved[key]
        # lists: no list, numbers, samples of two widths; sums: a list, one axis more
        wrong = [torch.zeros(3), [1.0], [torch.zeros(2, 3), torch.zeros(2, 4)]]
        wrong = wrong if isinstance(value, list) else [[value], torch.zeros(2, *value.shape, 3)]
        for replacement in wrong:
            metric = persistent(case)
            before = epoch(metric)
            for strict in (True, False):
                with pytest.raises(RuntimeError, match=key):
                    metric.load_state_dict({**saved, key: replacement}, strict=strict)
                assert_same(epoch(metric), before)


@every_metric
def test_unknown_keys_are_named(case: Case) -> None:
    for metric in (case.build(), persistent(case)):
        before = epoch(metric)
        with pytest.raises(RuntimeError, match=r'Unexpected key.*"nonsense"'):
            metric.load_state_dict({**metric.state_dict(), "nonsense": torch.zeros(1)})
        assert_same(epoch(metric), before)


@every_metric
def test_a_metric_that_saves_no_epoch_needs_none_and_takes_a_whole_one(case: Case) -> None:
    saved = persistent(case, updates=2)
    metric = case.build()
    metric.update(*case.batch(4, 4))
    before = epoch(metric)
    metric.load_state_dict(case.build().state_dict())
    assert_same(epoch(metric), before)
    metric.load_state_dict(saved.state_dict())
    assert_same(epoch(metric), epoch(saved))
    part = saved.state_dict()
    del part["num_updates"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"num_updates"'):
        metric.load_state_dict(part)


@every_metric
def test_loading_copies(case: Case) -> None:
    saved = persistent(case, updates=2)
    state = saved.state_dict()
    metric = persistent(case)
    metric.load_state_dict(state)
    metric.update(*case.batch(4, 4))
    assert_same(state, saved.state_dict())
    loaded = epoch(metric)
    for tensor in tensors(list(state.values())):
        tensor.zero_()
    assert_same(epoch(metric), loaded)


@every_metric
def test_sums_are_loaded_in_their_own_precision(case: Case) -> None:
    saved = persistent(case, updates=2)
    halved = {name: value.float() if torch.is_tensor(value) else value for name, value in saved.state_dict().items()}
    metric = persistent(case)
    metric.load_state_dict(halved)
    for state, original in zip(metric.metric_state.values(), saved.metric_state.values(), strict=True):
        if isinstance(state, Tensor) and isinstance(original, Tensor):
            assert state.dtype == original.dtype
    torch.testing.assert_close(metric.compute(), saved.compute(), rtol=1e-5, atol=1e-6)


@every_metric
def test_inside_a_model_keys_have_the_models_prefix(case: Case) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"loss": persistent(case)}))

    state = through_a_file(model().state_dict())
    assert model().load_state_dict(state).missing_keys == []
    del state["1.loss.num_ignored"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"1\.loss\.num_ignored"'):
        model().load_state_dict(state)


def test_class_totals_of_another_number_of_classes() -> None:
    five = adaption.ClassBalanceLoss(5)
    five.persistent(mode=True)
    five.update(torch.full((2, 5), 0.2))
    three = adaption.ClassBalanceLoss(3)
    with pytest.raises(RuntimeError, match=r"size mismatch for class_totals: got shape \(5,\), .* shape \(3,\)"):
        three.load_state_dict(five.state_dict())
    three.update(torch.full((2, 3), 1 / 3))
    assert three.update_count == 1


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "WarmStartGradientReversalLayer": layers.WarmStartGradientReversalLayer,
    "RandomizedMultiLinearMap": lambda: layers.RandomizedMultiLinearMap(WIDTH, CLASSES, 8),
    "DomainDiscriminator": lambda: layers.DomainDiscriminator(WIDTH, 8),
    "EmaTeacher": lambda: layers.EmaTeacher(nn.Linear(2, 2), 0.9),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_load_from_a_file_of_weights_only(name: str) -> None:
    layer, fresh = LAYERS[name](), LAYERS[name]()
    fresh.load_state_dict(through_a_file(layer.state_dict()))
    assert_same(dict(fresh.state_dict()), dict(layer.state_dict()))
    for key in layer.state_dict():
        state = layer.state_dict()
        del state[key]
        with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
            fresh.load_state_dict(state)
        state[key] = torch.zeros(2, 7, 5)
        with pytest.raises(RuntimeError, match=f"size mismatch for {key}"):
            fresh.load_state_dict(state)


def test_pada_weights_of_another_number_of_classes() -> None:
    def weights(classes: int) -> nn.Module:
        return adaption.AutomaticUpdateClassWeightModule(2, [torch.randn(4, 3)], nn.Linear(3, classes), classes, "cpu")

    with pytest.raises(RuntimeError, match="size mismatch for class_weight"):
        weights(5).load_state_dict(weights(4).state_dict())
