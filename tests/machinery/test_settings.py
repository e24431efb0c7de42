"""Every argument of a constructor is an attribute of its name, and two metrics compare what their settings mean."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CLASSES, EVERY_METRIC, WIDTH, Case
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

import adaption
from adaption import layers
from adaption._metric import AdditiveMetric

every_metric = pytest.mark.parametrize("case", EVERY_METRIC, ids=str)


def as_rul_adapt_reads(module: nn.Module) -> dict[str, Any]:
    """The arguments that rul-adapt 0.6.1 writes into a checkpoint, and passes to the class when it loads one."""
    found = {name: getattr(module, name) for name in list(inspect.signature(type(module).__init__).parameters)[1:]}
    return {name: list(value) if isinstance(value, nn.ModuleList) else value for name, value in found.items()}


def spread(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with the keywords spelled out."""
    return {**{name: value for name, value in arguments.items() if name != "kwargs"}, **arguments["kwargs"]}


@every_metric
@pytest.mark.parametrize("given", [spread, dict], ids=["spread", "as kwargs"])
def test_a_metric_can_be_built_from_its_attributes(case: Case, given: Callable[..., dict[str, Any]]) -> None:
    keywords: dict[str, Any] = {"nan_strategy": "ignore", "compute_on_cpu": True, "sync_on_compute": False}
    plain = case.build()
    assert plain.kwargs == {}
    metric: AdditiveMetric = type(plain)(**{**spread(as_rul_adapt_reads(plain)), **keywords})
    assert metric.kwargs == keywords
    again: AdditiveMetric = type(metric)(**given(as_rul_adapt_reads(metric)))
    assert repr(again) == repr(metric)
    assert again.kwargs == keywords
    again.load_state_dict(metric.state_dict())  # a random map
    batch = case.batch(4, 4)
    torch.testing.assert_close(again(*batch), metric(*batch), rtol=0, atol=0)


@every_metric
def test_keywords_are_attributes(case: Case) -> None:
    metric = case.build()
    for name in inspect.signature(AdditiveMetric.__init__).parameters:
        assert name == "self" or hasattr(metric, name)
    for name in ("gather_distributed", "num_classes", "features_dim", "randomized_dim", "grl", "reduction"):
        assert hasattr(metric, name) == (name in inspect.signature(type(metric).__init__).parameters) or name in {
            *("num_classes", "reduction")
        }


def test_unknown_keywords_are_refused_in_either_form() -> None:
    for keywords in ({"band_width": 2.0}, {"kwargs": {"band_width": 2.0}}):
        with pytest.raises(ValueError, match=r"`band_width` is not an argument of Maximum.* mean `bandwidth`\?"):
            adaption.MaximumMeanDiscrepancyLoss(**keywords)
    with pytest.raises(
        ValueError, match=r"`x` is not .* It takes `domain_disc`, `reduction`, `grl`, `nan_strategy`, and"
    ):
        adaption.DomainAdversarialLoss(nn.Linear(2, 1), x=3)


def backbone() -> nn.Module:
    return nn.Linear(4, WIDTH)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "DomainDiscriminator": lambda: layers.DomainDiscriminator(WIDTH, 8),
    "EmaTeacher": lambda: layers.EmaTeacher(nn.Linear(2, 2), 0.9),
    "GradientReversalLayer": lambda: layers.GradientReversalLayer(0.5),
    "ImageClassifier": lambda: layers.ImageClassifier(backbone(), CLASSES, 8, 8, pool_layer=nn.Flatten()),
    "ImageClassifierHead": lambda: layers.ImageClassifierHead(WIDTH, CLASSES, 8),
    "ImageRegressor": lambda: layers.ImageRegressor(backbone(), 2, bottleneck_dim=8, width=8),
    "JointsKLLoss": lambda: layers.JointsKLLoss("sum", 0.1),
    "MultiLinearMap": layers.MultiLinearMap,
    "PoseResNet2d": lambda: layers.PoseResNet2d(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), 4, 2, num_head_layers=1),
    "PseudoLabelGenerator2d": lambda: layers.PseudoLabelGenerator2d(2, 8, 7, 1),
    "RandomizedMultiLinearMap": lambda: layers.RandomizedMultiLinearMap(WIDTH, CLASSES, 8),
    "SegmentationDiscriminator": lambda: layers.SegmentationDiscriminator(CLASSES, 4),
    "WarmStartGradientLayer": lambda: layers.WarmStartGradientLayer(2.0, 0.1, 0.9, 7, auto_step=True),
    "WarmStartGradientReversalLayer": lambda: layers.WarmStartGradientReversalLayer(2.0, 0.1, 0.9, 7),
    "AutomaticUpdateClassWeightModule": lambda: adaption.AutomaticUpdateClassWeightModule(
        2, [torch.randn(4, CLASSES)], nn.Identity(), CLASSES, "cpu", 0.5, [0, 1]
    ),
    "ImportanceWeightModule": lambda: adaption.ImportanceWeightModule(nn.Linear(WIDTH, 1), [0, 2]),
}


def test_no_module_is_forgotten() -> None:
    public = {name: getattr(door, name) for door in (adaption, layers) for name in door.__all__}
    modules = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, nn.Module)}
    assert set(LAYERS) == {name for name in modules if not issubclass(public[name], Metric)}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_can_be_built_from_its_attributes(name: str) -> None:
    layer = LAYERS[name]()
    named = [
        parameter
        for parameter, kind in list(inspect.signature(type(layer).__init__).parameters.items())[1:]
        # of a plain Module, and the method that every Module has
        if kind.kind in {kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY} and parameter != "buffers"
    ]
    again = type(layer)(**{parameter: getattr(layer, parameter) for parameter in named})
    assert repr(again) == repr(layer)
    for parameter in named:
        same = getattr(again, parameter), getattr(layer, parameter)
        assert same[0] is same[1] or same[0] == same[1]


# ---- merging asks whether settings are the same ----------------------------------------------------------------------


def cosine_of(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda left, right: scale * (1 - F.cosine_similarity(left, right, dim=1))


class Scaled:
    """A measure without an equality of its own."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        return self.scale * (left - right).square().sum(1)

    def measure(self, left: Tensor, right: Tensor) -> Tensor:
        return self(left, right)


# each pair: settings that differ, each of which equals its copy and its twin
MEASURES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "functions": (lambda: F.l1_loss, lambda: F.mse_loss),
    "lambdas": (lambda: lambda a, b: (a - b).abs().sum(1), lambda: lambda a, b: (a - b).abs().mean(1)),
    "closures": (lambda: cosine_of(1.0), lambda: cosine_of(2.0)),
    "partials": (
        lambda: functools.partial(F.mse_loss, reduction="mean"),
        lambda: functools.partial(F.mse_loss, reduction="none"),
    ),
    "objects": (lambda: Scaled(1.0), lambda: Scaled(2.0)),
    "methods": (lambda: Scaled(1.0).measure, lambda: Scaled(2.0).measure),
    "modules": (lambda: nn.L1Loss(), lambda: nn.MSELoss()),  # noqa: PLW0108 - alike
    "settings of a module": (lambda: nn.HuberLoss(delta=1.0), lambda: nn.HuberLoss(delta=2.0)),
}


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (adaption.ConsistencyLoss, "distance_measure"),
        (lambda measure: adaption.MarginDisparityDiscrepancy(measure, measure), "source_disparity"),
        (lambda measure: adaption.RegressionDisparity(nn.Identity(), measure), "criterion"),
    ],
    ids=["consistency", "MDD", "RegDA"],
)
def test_merging_compares_what_settings_mean(kind: str, build: Callable[[Any], AdditiveMetric], name: str) -> None:
    left, right = ((build(make()), build(make())) for make in MEASURES[kind])
    for one, other in (left, right):
        one.merge_state(other)  # built in the same way
        one.merge_state(copy.deepcopy(other))
    for one, other in itertools.product(left, right):
        with pytest.raises(ValueError, match=f"(?s)`incoming_state` must be a .*, whose .*`{name}`.* differ"):
            one.merge_state(other)


def test_merging_compares_numbers_by_their_value() -> None:
    metric = adaption.ClassificationMarginDisparityDiscrepancy(4)
    metric.merge_state(adaption.ClassificationMarginDisparityDiscrepancy(4.0))
    with pytest.raises(ValueError, match="whose `margin` differ"):
        metric.merge_state(adaption.ClassificationMarginDisparityDiscrepancy(4.5))
