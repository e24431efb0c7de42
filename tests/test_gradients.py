"""Each loss's value and gradient against autograd of the paper's formula, for every argument and every module inside.

An argument that the formula holds constant must have no gradient, or one of 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    CLASSES,
    WIDTH,
    Case,
    cast,
    cosine,
    curved_critic,
    features,
    heads,
    heatmaps,
    layers,
    samples,
    seeded,
    tensors,
    tree_map,
    two_predictions,
    weighted_heads,
    with_weights,
)
from formulas import FORMULAS, turned
from torch import Tensor, nn
from torch.nn import functional as F

import adaption
from adaption.layers import JointsKLLoss, PseudoLabelGenerator2d


def row(name: str, build: Callable[[], Any], batch: Callable[[int, int], Any], like: str) -> Case:
    """A row with further settings, whose function is that of another row."""
    function = next(case.function for case in CASES if case.name == like)
    return Case(name, build, batch, function)


def with_weights_of_layers(n: int, m: int) -> Any:
    return *layers(n, m), torch.rand(n), torch.rand(m)


def masked_by_shares(n: int, _: int) -> Any:
    return *two_predictions(n, n), torch.rand(n)


def deep_vat(epsilon: float = 3.5, **settings: Any) -> adaption.VirtualAdversarialLoss:
    """Of a network that is not linear, with several classes."""
    model = seeded(lambda: nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, CLASSES)))
    return adaption.VirtualAdversarialLoss(model, epsilon, **settings).eval()


def inputs_and_logits(n: int, m: int) -> Any:
    return *samples(n, m), torch.randn(n, CLASSES)


def kernels() -> list[Case]:
    """Every rule for the bandwidth with every estimate, few kernels and many, on features and on layers."""
    rows = []
    estimators, numbers = ("biased", "unbiased", "linear"), (1, 4)
    for bandwidth, estimator, number in itertools.product(("median", "mean", 3.0), estimators, numbers):
        settings: dict[str, Any] = {"bandwidth": bandwidth, "estimator": estimator}
        name = f"{bandwidth} {estimator} {number}"
        mmd = partial(adaption.MaximumMeanDiscrepancyLoss, number, **settings)
        rows.append(row(f"MMD {name}", mmd, with_weights if estimator == "biased" else features, "MMD"))
        if estimator != "linear":
            jmmd = partial(adaption.JointMaximumMeanDiscrepancyLoss, number, **settings)
            batch = with_weights_of_layers if estimator == "biased" else layers
            rows.append(row(f"JMMD {name}", jmmd, batch, "JMMD"))
    return rows


ROWS = [
    *CASES,
    *kernels(),
    row("BSP 1", adaption.BatchSpectralPenalizationLoss, features, "BSP"),
    row("HoMM 4", lambda: adaption.HigherOrderMomentMatchingLoss(4), features, "HoMM"),
    row("MDD each", lambda: adaption.MarginDisparityDiscrepancy(cosine, cosine, 2), weighted_heads, "MDD samples"),
    row(
        "MDD regression none",
        lambda: adaption.RegressionMarginDisparityDiscrepancy(2.0, F.mse_loss, "none"),
        heads,
        "MDD regression",
    ),
    row("VAT steps", lambda: deep_vat(num_iterations=3), samples, "VAT"),
    row("VAT logits", lambda: deep_vat(1.0, xi=0.1), inputs_and_logits, "VAT"),
    row("consistency shares", adaption.L2ConsistencyLoss, masked_by_shares, "consistency L2"),
    row("PADA 1", lambda: adaption.ClassWeightModule(1.0), lambda _, m: (torch.randn(m, WIDTH),), "PADA"),
    row("WDGRL curved", lambda: adaption.WassersteinDomainLoss(curved_critic()).eval(), features, "WDGRL"),
    row("OSBP 0", lambda: adaption.UnknownClassBinaryCrossEntropy(0.0), lambda n, _: (torch.randn(n, 4),), "OSBP"),
    row("OSBP 1", lambda: adaption.UnknownClassBinaryCrossEntropy(1.0), lambda n, _: (torch.randn(n, 4),), "OSBP"),
    row(
        "RegDA max",
        lambda: adaption.RegressionDisparity(PseudoLabelGenerator2d(3, 8, 7, 1), JointsKLLoss(epsilon=1e-3)),
        lambda n, _: (*heatmaps(n, n), torch.rand(n, 3), "max"),
        "RegDA",
    ),
]
every_row = pytest.mark.parametrize("case", ROWS, ids=str)


@pytest.mark.parametrize("name", [name for name in adaption.__all__ if hasattr(getattr(adaption, name), "update")])
def test_every_loss_has_a_formula(name: str) -> None:
    assert name in FORMULAS, f"`{name}` has no formula. Write the paper's in tests/formulas.py, for autograd to take."


def asked(batch: Any) -> Any:
    """The batch in float64 with all of it, but for what is not real, asking for gradients."""
    return tree_map(
        lambda tensor: tensor.detach().clone().requires_grad_(tensor.is_floating_point()), cast(batch, torch.float64)
    )


def gradients(value: Tensor, metric: Any, batch: Any) -> list[Tensor]:
    """The gradient of each floating-point tensor of the batch and each parameter inside, 0 where it has none."""
    inputs = [*(tensor for tensor in tensors(batch) if tensor.requires_grad), *metric.parameters()]
    cotangent = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)
    return list(torch.autograd.grad((value * cotangent).sum(), inputs, allow_unused=True, materialize_grads=True))


@every_row
@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7), (9, 2)])
@pytest.mark.parametrize("through", ["metric", "function"])
def test_value_and_gradients_are_those_of_the_formula(case: Case, n: int, m: int, through: str) -> None:
    metric: Any = case.build().double()
    paired = case.paired or metric.extra_repr().count("'linear'") or getattr(metric, "reduction", "mean") != "mean"
    drawn = case.batch(n, n if paired else m)
    batch, twin = asked(drawn), asked(drawn)
    value = metric(*batch) if through == "metric" else case.function(metric, *batch)
    # the functions do not know of the reversal
    turn = {"turn": turned} if through == "metric" and hasattr(metric, "grl") else {}
    expected = FORMULAS[type(metric).__name__](metric, *twin, **turn)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    for left, right in zip(gradients(value, metric, batch), gradients(expected, metric, twin), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-11)
