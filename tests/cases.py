"""One row per loss. The laws in `test_contract.py` and the guards in `test_surface.py` run over all rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import adaption
from adaption import functional
from adaption._metric import AdditiveMetric
from adaption.layers import DomainDiscriminator

WIDTH = 6


@dataclass(frozen=True)
class Case:
    """A loss with settings, batches for it, and its function.

    Args:
        build: makes the metric, always the same one.
        batch: `(n, m)` -> the positional arguments of `update`, random, float32.
        function: `(metric, *batch)` -> the value by the public function.
        paired: whether the mathematics needs `n = m`.
        epoch: how batch values make up the epoch value: ``"samples"`` (exact over all samples), ``"n+m"`` (batch values
            weighted by samples), ``"batches"`` (mean of batch values), ``"cat"`` (all values).
    """

    name: str
    build: Callable[[], AdditiveMetric]
    batch: Callable[[int, int], tuple[Any, ...]]
    function: Callable[..., Tensor]
    paired: bool = False
    epoch: str = "samples"

    def __str__(self) -> str:
        return self.name


def features(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, WIDTH), torch.randn(m, WIDTH) + 0.5


def layers(n: int, m: int) -> tuple[list[Tensor], list[Tensor]]:
    (source, target), (source_logits, target_logits) = features(n, m), features(n, m)
    return [source, source_logits.softmax(1)], [target, target_logits.softmax(1)]


def with_weights(n: int, m: int) -> tuple[Any, ...]:
    return *features(n, m), torch.rand(n), torch.rand(m)


def seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build()


def discriminator() -> nn.Module:
    """Without batch normalisation and dropout: the value of a sample does not depend on its batch."""
    module: nn.Module = seeded(lambda: DomainDiscriminator(WIDTH, 8, batch_norm=False))
    return module


def _mmd(metric: Any, *batch: Any) -> Tensor:
    settings = {"num_kernels": metric.num_kernels, "bandwidth": metric.bandwidth, "estimator": metric.estimator}
    return functional.maximum_mean_discrepancy(*batch, **settings)


def _jmmd(metric: Any, source: list[Tensor], target: list[Tensor], *weights: Tensor) -> Tensor:
    if metric.thetas is not None:
        source = [theta(layer) for theta, layer in zip(metric.thetas, source, strict=True)]
        target = [theta(layer) for theta, layer in zip(metric.thetas, target, strict=True)]
    settings = {"num_kernels": metric.num_kernels, "bandwidth": metric.bandwidth, "estimator": metric.estimator}
    return functional.joint_maximum_mean_discrepancy(source, target, *weights, **settings)


def _bsp(metric: Any, *batch: Tensor) -> Tensor:
    return functional.batch_spectral_penalization(*batch, num_singular_values=metric.num_singular_values)


def _dann(metric: Any, source: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
    logits = metric.domain_disc(source), metric.domain_disc(target)
    return functional.domain_adversarial_loss(*logits, *weights, reduction=metric.reduction)


def _thetas() -> list[nn.Module]:
    return [seeded(lambda: nn.Linear(WIDTH, 3)), nn.Identity()]


CASES = [
    Case("MMD", adaption.MaximumMeanDiscrepancyLoss, features, _mmd, epoch="n+m"),
    Case("MMD weighted", lambda: adaption.MaximumMeanDiscrepancyLoss(3), with_weights, _mmd, epoch="n+m"),
    Case(
        "MMD unbiased",
        lambda: adaption.MaximumMeanDiscrepancyLoss(bandwidth="mean", estimator="unbiased"),
        features,
        _mmd,
        epoch="n+m",
    ),
    Case(
        "MMD linear",
        lambda: adaption.MaximumMeanDiscrepancyLoss(bandwidth=4.0, estimator="linear"),
        features,
        _mmd,
        paired=True,
        epoch="n+m",
    ),
    Case("MMD pooled", lambda: adaption.MaximumMeanDiscrepancyLoss(pooled=True), with_weights, _mmd),
    Case("JMMD", adaption.JointMaximumMeanDiscrepancyLoss, layers, _jmmd, epoch="n+m"),
    Case(
        "JMMD thetas",
        lambda: adaption.JointMaximumMeanDiscrepancyLoss(2, thetas=_thetas()),
        layers,
        _jmmd,
        epoch="n+m",
    ),
    Case("JMMD pooled", lambda: adaption.JointMaximumMeanDiscrepancyLoss(pooled=True), layers, _jmmd),
    Case("BSP", lambda: adaption.BatchSpectralPenalizationLoss(2), features, _bsp, epoch="batches"),
    Case("DANN", lambda: adaption.DomainAdversarialLoss(discriminator()), features, _dann),
    Case("DANN weighted", lambda: adaption.DomainAdversarialLoss(discriminator()), with_weights, _dann),
    Case("DANN sum", lambda: adaption.DomainAdversarialLoss(discriminator(), "sum"), features, _dann, paired=True),
    Case(
        "DANN none",
        lambda: adaption.DomainAdversarialLoss(discriminator(), "none"),
        features,
        _dann,
        paired=True,
        epoch="cat",
    ),
]


def tree_map(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """`function` of every tensor of a batch."""
    if isinstance(batch, Tensor):
        return function(batch)
    return type(batch)(tree_map(function, item) for item in batch) if isinstance(batch, (list, tuple)) else batch


def tensors(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda tensor: found.append(tensor) or tensor, batch)  # type: ignore[func-returns-value]
    return found


def cast(batch: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, batch)


def with_gradient(batch: Any) -> Any:
    """The batch with gradients required of its first two arguments: what the losses look at."""
    looked_at, rest = batch[:2], batch[2:]
    fresh = tree_map(lambda tensor: tensor.detach().clone().requires_grad_(), looked_at)
    return (*fresh, *copy.deepcopy(rest))
