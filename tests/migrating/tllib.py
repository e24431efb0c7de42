"""What changes in value for those who come from TLLib: 0.4 from a checkout of its repository, dalib 0.2 from PyPI."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from benchmarks.contestants import tllib as dalib
from migrating.rows import (
    CLASSES,
    ONE_CLASS,
    WIDTH,
    Negated,
    Row,
    conditional,
    draw,
    heads,
    linear,
    mean_of_draws,
    with_gradient,
)
from torch import Tensor, nn
from torch.nn import functional as F

import adaption
from adaption import functional
from adaption.functional import maximum_mean_discrepancy as mmd
from adaption.layers import RandomizedMultiLinearMap, WarmStartGradientReversalLayer

RANDOM = {"randomized": True, "num_classes": CLASSES, "features_dim": WIDTH, "randomized_dim": 32}
certain = torch.tensor([[30.0, 0.0]])  # float32 calls this probability 1


def find(checkout: Path) -> None:
    """Let `tllib` be what lies in a checkout, without the packages that its losses do not use."""
    if not (checkout / "tllib" / "alignment").is_dir():
        msg = f"--tllib must name a checkout of TLLib, with a folder tllib/alignment in it, but got {checkout}."
        raise SystemExit(msg)
    rooms = "alignment", "modules", "normalization", "self_training", "utils"
    for package in ("tllib", *(f"tllib.{room}" for room in rooms)):
        module = types.ModuleType(package)
        module.__path__ = [str(checkout.joinpath(*package.split(".")))]
        sys.modules[package] = module
    for unused in ("prettytable", "cv2"):
        sys.modules.setdefault(unused, MagicMock())
    for alias, builtin in (("float", float), ("int", int)):  # dropped from NumPy
        vars(np).setdefault(alias, builtin)


def tllib(module: str) -> Any:
    """A module of TLLib 0.4."""
    return importlib.import_module(f"tllib.{module}")


def on_plain_numpy(call: Callable[[], Any]) -> Any:
    """What happens without the shim that gives NumPy its old aliases back."""
    aliases: dict[str, Any] = {name: vars(np).pop(name) for name in ("float", "int") if name in vars(np)}
    try:
        return call()
    finally:
        vars(np).update(aliases)


def saved(module: nn.Module) -> str:
    """How many tensors a checkpoint has of a module."""
    return f"saved: {len(module.state_dict())}"


def steps_in_eval(layer: Any, count: str) -> int:
    """How far a schedule moves during validation."""
    layer.eval()
    layer(torch.zeros(1))
    return int(getattr(layer, count))


def dan(source: Tensor, target: Tensor, *, linear: bool = False) -> Tensor:
    """With the kernels of its example."""
    kernels = [tllib("modules.kernels").GaussianKernel(alpha=2.0**k) for k in range(-3, 2)]
    value: Tensor = tllib("alignment.dan").MultipleKernelMaximumMeanDiscrepancy(kernels, linear=linear)(source, target)
    return value


def mean_distance(source: Tensor, target: Tensor) -> float:
    """The mean over all pairs, also of a sample with itself."""
    stacked = torch.cat([source, target])
    return torch.cdist(stacked, stacked).square().mean().item()


def mean_difference(source: Tensor, target: Tensor) -> Tensor:
    """What TLLib adds to CORAL."""
    return (source.mean(0) - target.mean(0)).square().mean()


def afn(delta: float, source: Tensor, target: Tensor) -> Tensor:
    """On each domain, as its example has it."""
    loss = tllib("normalization.afn").AdaptiveFeatureNorm(delta)
    value: Tensor = loss(source) + loss(target)
    return value


def jan(source: list[Tensor], target: list[Tensor]) -> Tensor:
    """With the kernels of its example."""
    gaussian = tllib("modules.kernels").GaussianKernel
    kernels = [gaussian(alpha=2.0**k) for k in range(-3, 2)], [gaussian(sigma=0.92, track_running_stats=False)]
    loss = tllib("alignment.jan").JointMultipleKernelMaximumMeanDiscrepancy(kernels, linear=False)
    value: Tensor = loss(source, target)
    return value


def with_sigmoid(disc: nn.Module) -> nn.Module:
    """It asks for probabilities."""
    return nn.Sequential(disc, nn.Sigmoid())


def dann(disc: nn.Module, **settings: Any) -> Any:
    """Its DANN."""
    return tllib("alignment.dann").DomainAdversarialLoss(disc, **settings)


def cdan(**settings: Any) -> Any:
    """Its CDAN."""
    disc = with_sigmoid(linear(settings.get("randomized_dim", WIDTH * CLASSES)))
    return tllib("alignment.cdan").ConditionalDomainAdversarialLoss(disc, **settings)


def our_cdan(disc: nn.Module, **settings: Any) -> adaption.ConditionalDomainAdversarialLoss:
    """Ours on the same discriminator."""
    return adaption.ConditionalDomainAdversarialLoss(disc, **settings)


def mdd(*batch: Tensor) -> Tensor:
    """Its MDD."""
    value: Tensor = tllib("alignment.mdd").ClassificationMarginDisparityDiscrepancy(margin=4)(*batch)
    return value


def at_certainty(loss: Callable[..., Tensor]) -> str:
    """Where both heads are certain."""
    return with_gradient(lambda adversarial: loss(certain, certain, certain, adversarial), certain)


def two_logits() -> nn.Linear:
    """A discriminator of two outputs: the first is the target, and exceeds the second by what `linear` gives."""
    disc, one = nn.Linear(WIDTH, 2), linear()
    with torch.no_grad():
        disc.weight.copy_(torch.cat([one.weight, torch.zeros_like(one.weight)]))
        disc.bias.copy_(torch.cat([one.bias, torch.zeros(1)]))
    return disc


class Difference(nn.Module):
    """The logit of two."""

    def forward(self, logits: Tensor) -> Tensor:
        """Of the target."""
        return logits[:, 0] - logits[:, 1]


def tllib_rows() -> list[Row]:
    """TLLib 0.4."""
    our_mdd = functional.classification_margin_disparity_discrepancy
    constant = torch.ones(16, WIDTH)
    absent = F.one_hot(torch.zeros(8, dtype=torch.int64), 4).float()
    logits, features = heads(32)[:2], draw(32)
    layers = tuple([features[i], logits[i].softmax(1)] for i in range(2))
    maps, keypoints = draw(2 * CLASSES, 2 * 3, width=64 * 64)
    maps, keypoints = maps.view(2, CLASSES, 64, 64), keypoints.view(2, 3, 64, 64)

    def warm_start() -> Any:
        return tllib("modules.grl").WarmStartGradientReverseLayer(auto_step=True)

    return [
        Row(
            "any warm start (DANN, CDAN, MDD) on today's NumPy",
            lambda: on_plain_numpy(partial(warm_start(), torch.ones(1))),
            lambda: WarmStartGradientReversalLayer(auto_step=True)(torch.ones(1)).item(),
            "`np.float` is gone from NumPy; the rows below put it back",
        ),
        Row(
            "MMD, n = m = 32",
            lambda: dan(*draw(32)),
            lambda: mmd(*draw(32)),
            "theirs sums five kernels, ours is their mean; another estimator and bandwidth",
        ),
        Row(
            "the same, from our pieces",
            lambda: dan(*draw(32)),
            lambda: 5 * mmd(*draw(32), estimator="unbiased", bandwidth=mean_distance(*draw(32))) + 2 / 31,
            "5 * unbiased + 2 / (n - 1), at the mean squared distance, the zeros of the diagonal included",
        ),
        Row(
            "MMD as `dan.py` takes it, mean of 200 pairs of batches, n = m = 32",
            lambda: mean_of_draws(partial(dan, linear=True), n=32, shift=0.5),
            lambda: mean_of_draws(
                lambda *batch: 5 * mmd(*batch, estimator="linear", bandwidth="mean") + 2 / 31, n=32, shift=0.5
            ),
            "`linear=True`, its example's default; ours is 5 * linear + 2 / (n - 1)",
        ),
        Row(
            "MMD of a batch with itself, n = 16",
            lambda: dan(draw(16)[0], draw(16)[0]),
            lambda: mmd(draw(16)[0], draw(16)[0]),
            "the distance of anything to itself is 0",
        ),
        Row(
            "MMD, mean of 200 pairs of batches of one distribution, n = 16",
            lambda: mean_of_draws(dan),
            lambda: mean_of_draws(partial(mmd, estimator="unbiased")),
            'theirs adds 2 / (n - 1) to stay positive; ours here with `estimator="unbiased"`',
        ),
        Row("MMD, n = 32, m = 24", lambda: dan(*draw(32, 24)), lambda: mmd(*draw(32, 24)), "the last batch"),
        Row("MMD, n = m = 1", lambda: dan(*draw(1)), lambda: mmd(*draw(1)), ""),
        Row("MMD of constant features", lambda: dan(constant, constant), lambda: mmd(constant, constant), ""),
        Row(
            "JMMD as `jan.py` takes it, n = m = 32",
            lambda: jan(layers[0], layers[1]),
            lambda: (
                5
                * functional.joint_maximum_mean_discrepancy(
                    layers[0],
                    layers[1],
                    num_kernels=[5, 1],
                    bandwidth=[mean_distance(*draw(32)), 2 * 0.92**2],
                    estimator="unbiased",
                )
                + 2 / 31
            ),
            "5 * unbiased + 2 / (n - 1); `mean` as a bandwidth leaves out the zeros of the diagonal",
        ),
        Row(
            "JMMD of a batch with itself, n = 16",
            lambda: jan([draw(16)[0]] * 2, [draw(16)[0]] * 2),
            lambda: functional.joint_maximum_mean_discrepancy([draw(16)[0]] * 2, [draw(16)[0]] * 2),
            "as MMD",
        ),
        Row(
            "DANN, the same discriminator",
            lambda: dann(with_sigmoid(linear()))(*draw(32)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32)),
            "theirs calls the source 1, ours 0",
        ),
        Row(
            "DANN, our discriminator's logit negated",
            lambda: dann(with_sigmoid(linear()))(*draw(32)),
            lambda: adaption.DomainAdversarialLoss(Negated(linear()))(*draw(32)),
            "so a trained discriminator is taken over",
        ),
        Row(
            "DANN, two logits; ours on their difference",
            lambda: dann(two_logits(), sigmoid=False)(*draw(32)),
            lambda: adaption.DomainAdversarialLoss(nn.Sequential(two_logits(), Difference()))(*draw(32)),
            "",
        ),
        Row(
            "DANN, n = 32, m = 24",
            lambda: dann(with_sigmoid(linear()))(*draw(32, 24)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32, 24)),
            "`chunk(2)` asks for equal halves",
        ),
        Row(
            "cross entropy of a target sample that looks like source, logit 30",
            lambda: with_gradient(
                lambda z: tllib("alignment.adda").DomainAdversarialLoss()(z.sigmoid(), "target"), torch.tensor([30.0])
            ),
            lambda: with_gradient(
                lambda z: functional.adversarial_discriminative_loss(-z, "target"), torch.tensor([30.0])
            ),
            "the sigmoid is 1 in float32; where the discriminator errs most, nothing is learned",
        ),
        Row(
            "CDAN, our discriminator's logit negated",
            lambda: cdan()(*conditional(32, 32)),
            lambda: our_cdan(Negated(linear(WIDTH * CLASSES)))(*conditional(32, 32)),
            "",
        ),
        Row(
            "CDAN+E, our discriminator's logit negated",
            lambda: cdan(entropy_conditioning=True)(*conditional(32, 32)),
            lambda: our_cdan(Negated(linear(WIDTH * CLASSES)), entropy_conditioning=True)(*conditional(32, 32)),
            "",
        ),
        Row(
            "CDAN's random matrices in a checkpoint",
            lambda: saved(tllib("alignment.cdan").RandomizedMultiLinearMap(WIDTH, CLASSES, 32)),
            lambda: saved(RandomizedMultiLinearMap(WIDTH, CLASSES, 32)),
            "a resumed run would meet another map",
        ),
        Row(
            "gradient reversal, steps of the schedule after one batch of validation",
            lambda: steps_in_eval(warm_start(), "iter_num"),
            lambda: steps_in_eval(WarmStartGradientReversalLayer(auto_step=True), "iteration"),
            "",
        ),
        Row(
            "gradient reversal, its place in the schedule in a checkpoint",
            lambda: saved(warm_start()),
            lambda: saved(WarmStartGradientReversalLayer(auto_step=True)),
            "",
        ),
        Row(
            "MCD, discrepancy",
            lambda: tllib("alignment.mcd").classifier_discrepancy(*(p.softmax(1) for p in heads(32)[:2])),
            lambda: functional.classifier_discrepancy(*(p.softmax(1) for p in heads(32)[:2])),
            "",
        ),
        Row(
            "MCD, balance where three of four classes are absent",
            lambda: tllib("alignment.mcd").entropy(absent),
            lambda: functional.marginal_entropy(absent),
            "theirs has an epsilon inside the logarithm; an absent class costs more here",
        ),
        Row(
            "MDD",
            lambda: mdd(*heads(32)),
            lambda: our_mdd(*heads(32)),
            "the same, the sign too: both are subtracted, as in the paper",
        ),
        Row(
            "MDD where both heads are certain",
            lambda: at_certainty(mdd),
            lambda: at_certainty(our_mdd),
            "log(1 - p) from the logits; theirs is cut off, and the adversarial head stops",
        ),
        Row(
            "BSP",
            lambda: tllib("alignment.bsp").BatchSpectralPenalizationLoss()(*draw(32)),
            lambda: functional.batch_spectral_penalization(*draw(32)),
            "",
        ),
        Row(
            "CORAL",
            lambda: tllib("alignment.coral").CorrelationAlignmentLoss()(*draw(32)),
            lambda: 4 * functional.correlation_alignment(*draw(32)) + mean_difference(*draw(32)),
            "theirs adds the mean squared difference of the means, and has no 1 / 4",
        ),
        Row(
            "AFN, both domains, at delta 0.5",
            lambda: afn(0.5, *draw(32)),
            lambda: functional.adaptive_feature_norm(*draw(32), 0.5),
            "",
        ),
        Row(
            "MCC, n = 32, at temperature 2.5",
            lambda: tllib("self_training.mcc").MinimumClassConfusionLoss(2.5)(heads(32)[2]),
            lambda: functional.minimum_class_confusion(heads(32)[2]),
            "theirs has an epsilon inside the logarithm of the entropy",
        ),
        Row(
            "MCC where all samples are certain of one class",
            lambda: tllib("self_training.mcc").MinimumClassConfusionLoss(2.5)(ONE_CLASS),
            lambda: functional.minimum_class_confusion(ONE_CLASS),
            "a class without a sample is 0 / 0 there; here it counts 1 / C",
        ),
        Row(
            "ADVENT, the source, on a CPU",
            lambda: tllib("alignment.advent").DomainAdversarialEntropyLoss(nn.AvgPool3d((CLASSES, 1, 1)))(maps),
            lambda: adaption.DomainAdversarialEntropyLoss(nn.AvgPool3d((CLASSES, 1, 1)))(maps),
            "`get_device()` names no CPU",
        ),
        Row(
            "RegDA's pseudo labels on today's NumPy",
            lambda: on_plain_numpy(
                lambda: sum(x.sum() for x in tllib("alignment.regda").PseudoLabelGenerator2d(3)(keypoints))
            ),
            lambda: sum(x.sum() for x in adaption.layers.PseudoLabelGenerator2d(3)(keypoints)),
            "the sum over all pixels of both; `np.int` is gone from NumPy",
        ),
    ]


def dalib_rows() -> list[Row]:
    """Where dalib 0.2 is another than TLLib 0.4."""
    our_mdd = functional.classification_margin_disparity_discrepancy

    def dalib_mdd(*batch: Tensor) -> Tensor:
        value: Tensor = dalib("adaptation.mdd").MarginDisparityDiscrepancy(margin=4)(*batch)
        return value

    def dalib_cdan() -> Tensor:
        loss = dalib("adaptation.cdan").ConditionalDomainAdversarialLoss
        value: Tensor = loss(with_sigmoid(linear(32)), **RANDOM)(*conditional(8, 8))
        return value

    return [
        Row(
            "MDD",
            lambda: dalib_mdd(*heads(32)),
            lambda: our_mdd(*heads(32)),
            "**the sign**: theirs is added to the task loss, ours is subtracted, as in TLLib 0.4 and in the paper",
        ),
        Row(
            "MDD where both heads are certain",
            lambda: at_certainty(dalib_mdd),
            lambda: at_certainty(our_mdd),
            "as TLLib 0.4, with the other sign",
        ),
        Row(
            "CDAN randomized",
            dalib_cdan,
            lambda: our_cdan(linear(32), **RANDOM)(*conditional(8, 8)),
            "the matrices of 0.2 are multiplied from the wrong side; ours is random: compare no value",
        ),
    ]
