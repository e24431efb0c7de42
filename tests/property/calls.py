"""A valid call of everything public: what the hostile values of `test_hostile.py` are put into."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from cases import CLASSES, EVERY_METRIC, WIDTH, Case, cosine, seeded
from torch import Tensor, nn
from torch.nn import functional as F

import adaption
from adaption import functional, layers

N = 4
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One way to call something public.

    Args:
        name: of what is public, and of the method of it.
        build: a fresh object to call.
        arguments: fresh arguments for it, by name.
        draws: whether it takes numbers from torch's generator: random weights, dropout.
        others: arguments of the modules inside, which may be named in their place.
        asks: arguments that are called, and whose answers are checked.
    """

    name: str
    build: Callable[[], Callable[..., Any]]
    arguments: Callable[[], Arguments]
    draws: bool = False
    others: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def rows(width: int = WIDTH) -> Tensor:
    return torch.randn(N, width)


def domain_logits() -> Tensor:
    return torch.randn(N, 1)


def probabilities() -> Tensor:
    return rows().softmax(1)


def heatmaps() -> Tensor:
    return torch.randn(N, 3, 8, 7)


def keypoint_modules() -> Arguments:
    return {"pseudo_label_generator": layers.PseudoLabelGenerator2d(3, 8, 7, 1), "criterion": layers.JointsKLLoss()}


def two_domains(suffix: str, make: Callable[[], Any]) -> Arguments:
    return {f"source_{suffix}": make(), f"target_{suffix}": make()}


def weights() -> Arguments:
    return two_domains("weights", lambda: torch.rand(N))


def heads() -> Arguments:
    names = ("source_output", "source_output_adv", "target_output", "target_output_adv")
    return {name: rows() for name in names} | weights()


def kernels() -> Arguments:
    return {"num_kernels": 3, "bandwidth": "median", "estimator": "biased"}


# Those that take what the loss of their file takes need no entry.
FUNCTIONS: dict[str, Callable[[], Arguments]] = {
    "classification_margin_disparity_discrepancy": lambda: heads() | {"margin": 2.0, "reduction": "mean"},
    "conditional_domain_adversarial_loss": lambda: (
        two_domains("logits", domain_logits) | weights() | {"reduction": "mean"}
    ),
    "consistency_loss": lambda: {
        "student": rows(),
        "teacher": rows(),
        "mask": torch.ones(N, dtype=torch.bool),
        "distance_measure": cosine,
        "reduction": "mean",
    },
    "domain_adversarial_loss": lambda: two_domains("logits", domain_logits) | weights() | {"reduction": "mean"},
    "density_ratio": lambda: {"domain_logits": domain_logits(), "num_source": 40, "num_target": 30},
    "pseudo_label_loss": lambda: {
        "logits": rows(),
        "teacher_logits": rows(),
        "threshold": 0.3,
        "weighting": "mask",
        "reduction": "mean",
    },
    "entropy_map": lambda: {"logits": rows()},
    "gradient_reversal": lambda: {"features": rows(), "grad_weight": 1.0},
    "joint_maximum_mean_discrepancy": lambda: two_domains("features", lambda: [rows(), rows()]) | weights() | kernels(),
    "l2_consistency_loss": lambda: {"student": rows(), "teacher": rows(), "mask": torch.ones(N), "reduction": "mean"},
    "margin_disparity_discrepancy": lambda: (
        heads() | {"source_disparity": cosine, "target_disparity": cosine, "margin": 2.0, "reduction": "mean"}
    ),
    "marginal_entropy": lambda: {"predictions": probabilities()},
    "mutual_information": lambda: {"predictions1": probabilities(), "predictions2": probabilities()},
    "maximum_mean_discrepancy": lambda: two_domains("features", rows) | weights() | kernels(),
    "median_bandwidth": lambda: two_domains("features", rows),
    "regression_disparity": lambda: (
        {"output": heatmaps(), "output_adv": heatmaps(), "weight": torch.rand(N, 3), "mode": "min"} | keypoint_modules()
    ),
    "regression_margin_disparity_discrepancy": lambda: (
        heads() | {"margin": 2.0, "loss_function": F.mse_loss, "reduction": "mean"}
    ),
    "joint_distribution_optimal_transport": lambda: {
        "source_features": rows(),
        "source_labels": torch.tensor([0, 1, 2, 0]),
        "target_features": rows(),
        "target_logits": rows(CLASSES),
        "feature_weight": 0.5,
        "label_weight": 1.0,
        "regularization": 0.5,
        "max_iters": 50,
        "marginal_penalty": 1.0,
    },
    "adaptive_feature_norm": lambda: two_domains("features", rows) | {"step": 0.5, "radius": 3.0},
    "sliced_wasserstein": lambda: two_domains("features", rows) | {"projections": torch.randn(WIDTH, 3)},
    "sinkhorn_divergence": lambda: two_domains("features", rows) | weights() | {"regularization": 0.5, "max_iters": 50},
    "shift_log": lambda: {"x": probabilities(), "offset": 1e-6},
}


def backbone() -> nn.Module:
    return nn.Linear(WIDTH, 5)


def warm_start() -> Arguments:
    return {"alpha": 1.0, "lo": 0.0, "hi": 1.0, "max_iters": 10, "auto_step": True}


def classify(_: Tensor) -> Tensor:
    """A classifier that takes anything: what one of the user's makes of odd data is its own affair."""
    return torch.zeros(N, CLASSES)


def target_loader() -> list[tuple[Tensor, int]]:
    return [(rows(), 0), (rows(), 1)]


CONSTRUCTORS: dict[str, Callable[[], Arguments]] = {
    "AutomaticUpdateClassWeightModule": lambda: {
        "update_steps": 1,
        "data_loader": target_loader(),
        "classifier": classify,
        "num_classes": CLASSES,
        "device": "cpu",
        "temperature": 0.5,
        "partial_classes_index": [0, 1],
    },
    "ImportanceWeightModule": lambda: {"discriminator": nn.Linear(WIDTH, 1), "partial_classes_index": [0, 1]},
    "DomainDiscriminator": lambda: {"in_feature": WIDTH, "hidden_size": 5, "batch_norm": True},
    "EmaTeacher": lambda: {
        "model": backbone(),
        "alpha": 0.9,
        "buffers": "average",
        "train_mode": False,
        "warm_up": False,
    },
    "GradientReversalLayer": lambda: {"grad_weight": 1.0},
    "ImageClassifier": lambda: {
        "backbone": backbone(),
        "num_classes": CLASSES,
        "bottleneck_dim": 5,
        "width": 5,
        "grl": nn.Identity(),
        "finetune": True,
        "pool_layer": nn.Identity(),
    },
    "ImageClassifierHead": lambda: {
        "in_features": WIDTH,
        "num_classes": CLASSES,
        "bottleneck_dim": 5,
        "pool_layer": nn.Identity(),
    },
    "ImageRegressor": lambda: {
        "backbone": backbone(),
        "num_factors": 2,
        "bottleneck": nn.Identity(),
        "head": nn.Identity(),
        "adv_head": nn.Identity(),
        "bottleneck_dim": 5,
        "width": 5,
        "finetune": True,
    },
    "JointsKLLoss": lambda: {"reduction": "mean", "epsilon": 0.1},
    "MultiLinearMap": dict,
    "PoseResNet2d": lambda: {
        "backbone": backbone(),
        "upsampling": nn.Identity(),
        "feature_dim": 5,
        "num_keypoints": 3,
        "gl": nn.Identity(),
        "finetune": True,
        "num_head_layers": 2,
    },
    "PseudoLabelGenerator2d": lambda: {"num_keypoints": 3, "height": 8, "width": 7, "sigma": 1.0},
    "RandomizedMultiLinearMap": lambda: {"features_dim": WIDTH, "num_classes": CLASSES, "output_dim": 5},
    "SegmentationDiscriminator": lambda: {"num_classes": CLASSES, "ndf": 2},
    "WarmStartGradientLayer": warm_start,
    "WarmStartGradientReversalLayer": warm_start,
}

# Networks with a backbone of the user's are left out: what it makes of its input is its own affair.
FORWARDS: dict[str, Callable[[], Arguments]] = {
    "DomainDiscriminator": lambda: {"features": rows()},
    "GradientReversalLayer": lambda: {"features": rows()},
    "ImageClassifierHead": lambda: {"features": rows()},
    "JointsKLLoss": lambda: {"output": heatmaps(), "target": torch.rand(N, 3, 8, 7), "weight": torch.rand(N, 3)},
    "MultiLinearMap": lambda: {"features": rows(), "predictions": rows(CLASSES)},
    "PseudoLabelGenerator2d": lambda: {"heatmaps": heatmaps()},
    "RandomizedMultiLinearMap": lambda: {"features": rows(), "predictions": rows(CLASSES)},
    "SegmentationDiscriminator": lambda: {"maps": torch.randn(N, CLASSES, 32, 32)},
    "WarmStartGradientLayer": lambda: {"features": rows()},
    "WarmStartGradientReversalLayer": lambda: {"features": rows()},
}

METHODS: dict[tuple[str, str], Callable[[], Arguments]] = {
    ("AutomaticUpdateClassWeightModule", "get_class_weight_for_adversarial_loss"): lambda: {
        "source_labels": torch.tensor([0, 1, 2, 0])
    },
    ("ImportanceWeightModule", "get_importance_weight"): lambda: {"feature": rows()},
    ("ImportanceWeightModule", "get_partial_classes_weight"): lambda: {
        "weights": torch.rand(N),
        "labels": torch.tensor([0, 1, 2, 0]),
    },
    ("ImageClassifier", "get_parameters"): lambda: {"base_lr": 0.1},
}


# Settings of the metrics that are called, and whose answers are checked.
ASKED = (
    "criterion",
    "critic",
    "distance_measure",
    "domain_disc",
    "grl",
    "loss_function",
    "pseudo_label_generator",
    "source_disparity",
    "target_disparity",
)

# Arguments of the modules inside of a row, or its own modules, which may be named in place of the arguments.
INNER = {"CDAN": ("domain_disc",), "ADVENT": ("maps",), "DANN": ("features",), "RegDA": ("heatmaps", "target")}


def named_inside(case: Case) -> tuple[str, ...]:
    return next((names for prefix, names in INNER.items() if case.name.startswith(prefix)), ())


def public(name: str) -> Any:
    """What one of the three doors calls by a name."""
    door = next(door for door in (adaption, functional, layers) if name in door.__all__)
    return getattr(door, name)


def settings(case: Case) -> Arguments:
    """The constructor's arguments of a row."""
    metric = case.build()
    names = [n for n, p in inspect.signature(type(metric).__init__).parameters.items() if p.kind != p.VAR_KEYWORD][1:]
    return {name: getattr(metric, name) for name in names} | {"nan_strategy": "disable"}


def batch(case: Case) -> Arguments:
    return dict(zip(inputs(case), case.batch(N, N), strict=False))


@functools.cache
def inputs(case: Case) -> tuple[str, ...]:
    return tuple(case.build()._update_signature.parameters)


def of_the_same_file(name: str) -> Arguments:
    """The arguments of a function, from the first row whose loss is in its file."""
    function = public(name)
    case = next(case for case in EVERY_METRIC if type(case.build()).__module__ == function.__module__)
    known = settings(case) | batch(case)
    return {name: known[name] for name in inspect.signature(function).parameters}


def calls() -> Iterator[Call]:
    """Everything public that takes arguments."""
    for name in functional.__all__:
        arguments = FUNCTIONS.get(name) or partial(of_the_same_file, name)
        inner = ("heatmaps", "target") if name == "regression_disparity" else ()
        asks = tuple(key for key, value in arguments().items() if callable(value))
        yield Call(name, partial(public, name), arguments, others=inner, asks=asks)
    name = "collect_classification_results"
    yield Call(
        name,
        partial(public, name),
        lambda: {"data_loader": target_loader(), "classifier": classify, "device": "cpu"},
        asks=("classifier",),
    )
    for name, arguments in CONSTRUCTORS.items():
        yield Call(name, partial(public, name), arguments, draws=True)
    for name, arguments in FORWARDS.items():
        yield Call(f"{name}.forward", partial(built, name), arguments, draws=name == "ImageClassifierHead")  # dropout
    for (name, method), arguments in METHODS.items():
        yield Call(f"{name}.{method}", partial(built, name, method), arguments)
    for case in EVERY_METRIC:
        yield Call(f"{case}: forward", case.build, partial(batch, case), others=named_inside(case))
    for name, case in {type(case.build()).__name__: case for case in EVERY_METRIC}.items():
        yield from _of_metric(name, case)


def _of_metric(name: str, case: Case) -> Iterator[Call]:
    """The methods of a metric that take arguments, by a row that has it, and what its modules answer."""
    yield Call(name, partial(public, name), partial(settings, case), draws=True)
    yield Call(f"{name}.update", partial(_method, case, "update"), partial(batch, case), others=named_inside(case))
    yield Call(f"{name}.merge_state", partial(_method, case, "merge_state"), partial(_merged, case))
    if asks := tuple(key for key in ASKED if key in settings(case)):
        build = partial(partial, construct_and_call, case)
        inner = named_inside(case)
        yield Call(f"{name}: constructed and called", build, partial(settings, case), others=inner, asks=asks)


def construct_and_call(case: Case, **given: Any) -> Tensor:
    loss = type(case.build())(**given)
    value: Tensor = loss(*seeded(lambda: case.batch(N, N)))
    return value


def _method(case: Case, name: str) -> Any:
    return getattr(case.build(), name)


def _merged(case: Case) -> Arguments:
    metric = case.build()
    metric.update(*case.batch(N, N))
    return {"incoming_state": metric.metric_state}


def built(name: str, method: str = "__call__") -> Any:
    """Something public, constructed, or a method of it."""
    given = CONSTRUCTORS[name]()
    given.pop("pool_layer", None)  # one of the user's takes what it likes
    value = public(name)(**given)
    return value if method == "__call__" else getattr(value, method)
