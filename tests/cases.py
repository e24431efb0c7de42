"""One row per loss. The laws in `test_contract.py` and the guards in `test_surface.py` run over all rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from formulas import FORMULAS, evidence, random_features, virtual_adversarial, wasserstein
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import adaption
from adaption import functional
from adaption._metric import AdditiveMetric
from adaption.layers import DomainDiscriminator, JointsKLLoss, PseudoLabelGenerator2d, SegmentationDiscriminator

WIDTH = 6
CLASSES = 3


@dataclass(frozen=True)
class Case:
    """A loss with settings, batches for it, and its function.

    Args:
        build: makes the metric, always the same one.
        batch: `(n, m)` -> the positional arguments of `update`, random, float32.
        function: `(metric, *batch)` -> the value by the public function.
        looked_at: positions of the arguments that the value has a gradient for.
        paired: whether the mathematics needs `n = m`.
        epoch: how batch values make up the epoch value: ``"samples"`` (exact over all samples), ``"n+m"`` (batch values
            weighted by samples), ``"batches"`` (mean of batch values), ``"cat"`` (all values), ``"evidence"`` (the test
            of many batches).
    """

    name: str
    build: Callable[[], AdditiveMetric]
    batch: Callable[[int, int], tuple[Any, ...]]
    function: Callable[..., Any]
    looked_at: tuple[int, ...] = (0, 1)
    paired: bool = False
    epoch: str = "samples"

    def __str__(self) -> str:
        return self.name


def features(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, WIDTH), torch.randn(m, WIDTH) + 0.5


def enough_features(n: int, m: int) -> tuple[Tensor, Tensor]:
    """Two samples more where there are several, for an estimate that needs four."""
    return features(*(size + 2 if size > 1 else size for size in (n, m)))


def wide_features(n: int, m: int) -> tuple[Tensor, Tensor]:
    """More features than samples of both domains together."""
    return torch.randn(n, 4 * WIDTH), torch.randn(m, 4 * WIDTH) + 0.5


def layers(n: int, m: int) -> tuple[list[Tensor], list[Tensor]]:
    (source, target), (source_logits, target_logits) = features(n, m), features(n, m)
    return [source, source_logits.softmax(1)], [target, target_logits.softmax(1)]


def places(*sizes: int) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    """Features at the places of an image or a sequence."""
    return lambda n, m: (torch.randn(n, WIDTH, *sizes), torch.randn(m, WIDTH, *sizes) + 0.5)


def weighted_images(n: int, m: int) -> tuple[Any, ...]:
    return *places(2, 3)(n, m), torch.rand(n), torch.rand(m, 1)


def with_weights(n: int, m: int) -> tuple[Any, ...]:
    return *features(n, m), torch.rand(n), torch.rand(m)


def logits_and_features(n: int, m: int) -> tuple[Tensor, ...]:
    (source, target) = features(n, m)
    return torch.randn(n, CLASSES), source, torch.randn(m, CLASSES), target


def labels_and_logits(n: int, m: int) -> tuple[Tensor, ...]:
    """Features and labels of the source, features and logits of the target; the first class is in both."""
    source, target = features(n, m)
    likely = 2.0 * F.one_hot(torch.arange(m) % CLASSES, CLASSES)
    return source, torch.arange(n) % CLASSES, target, torch.rand(m, CLASSES) - 0.5 + likely


def labels_of_both(n: int, m: int) -> tuple[Tensor, ...]:
    """Features and labels of both domains; the first class is in both."""
    source, target = features(n, m)
    return source, torch.arange(n) % CLASSES, target, torch.arange(m) % CLASSES


def images(domain_label: str) -> Callable[[int, int], tuple[Any, ...]]:
    return lambda n, _: (torch.randn(n, CLASSES, 32, 33), domain_label)


def predictions(n: int, _: int) -> tuple[Tensor]:
    return (torch.randn(n, WIDTH).softmax(1),)


def dense_predictions(n: int, _: int) -> tuple[Tensor]:
    return (torch.randn(n, WIDTH, 2, 3).softmax(1),)


def two_dense_predictions(n: int, _: int) -> tuple[Tensor, Tensor]:
    return (*dense_predictions(n, n), *dense_predictions(n, n))


def masked_dense_predictions(n: int, _: int) -> tuple[Tensor, Tensor, Tensor]:
    return *two_dense_predictions(n, n), torch.arange(n) % 2 == 0


def two_predictions(n: int, _: int) -> tuple[Tensor, Tensor]:
    return (*predictions(n, n), *predictions(n, n))


def masked_predictions(n: int, _: int) -> tuple[Tensor, Tensor, Tensor]:
    return *two_predictions(n, n), torch.arange(n) % 2 == 0


def logits(n: int, _: int) -> tuple[Tensor]:
    return (torch.randn(n, WIDTH),)


def logits_of_both(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, CLASSES), 2 * torch.randn(m, CLASSES)


def open_logits(n: int, _: int) -> tuple[Tensor]:
    """A pair of logits for each class."""
    return (torch.randn(n, 2, CLASSES),)


def labelled_open_logits(n: int, _: int) -> tuple[Tensor, Tensor]:
    return *open_logits(n, n), torch.arange(n) % CLASSES


def losses_and_ratios(n: int, _: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n).square(), torch.rand(n) + 0.1


def labelled_logits(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(n, CLASSES), torch.arange(n) % CLASSES, torch.randn(m, CLASSES) + torch.eye(CLASSES)[0]


def two_domain_logits(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n), torch.randn(m, 1) + 0.5


def with_ensemble(n: int, _: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, CLASSES), torch.randn(n, CLASSES)


def with_candidates(n: int, _: int) -> tuple[Tensor, list[Tensor]]:
    return torch.randn(n, CLASSES, 2), [torch.randn(n, CLASSES, 2) for _ in range(3)]


def samples(n: int, _: int) -> tuple[Tensor]:
    return (torch.randn(n, WIDTH),)


def dense_logits(n: int, _: int) -> tuple[Tensor]:
    return (torch.randn(n, WIDTH, 2, 3),)


def logits_and_teacher(n: int, _: int) -> tuple[Tensor, Tensor]:
    return (*logits(n, n), *logits(n, n))


def dense_logits_and_teacher(n: int, _: int) -> tuple[Tensor, Tensor]:
    return (*dense_logits(n, n), *dense_logits(n, n))


def heads(n: int, m: int) -> tuple[Tensor, ...]:
    """The outputs of a main and an adversarial head on both domains."""
    return *features(n, n), *features(m, m)


def dense_heads(n: int, m: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(size, WIDTH, 2, 3) for size in (n, n, m, m))


def weighted_heads(n: int, m: int) -> tuple[Tensor, ...]:
    return *heads(n, m), torch.rand(n), torch.rand(m, 1)


def heatmaps(n: int, _: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 8, 7), torch.randn(n, 3, 8, 7)


def weighted_heatmaps(n: int, _: int) -> tuple[Tensor, Tensor, Tensor]:
    return *heatmaps(n, n), torch.rand(n, 3)


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """A measure with one value per sample."""
    return 1 - F.cosine_similarity(left, right, dim=1)


def seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)  # `torch.manual_seed` notes the call for devices that are not there
        return build()


def discriminator(width: int = WIDTH) -> nn.Module:
    """Without batch normalisation and dropout: the value of a sample does not depend on its batch."""
    module: nn.Module = seeded(lambda: DomainDiscriminator(width, 8, batch_norm=False))
    return module


def classifier() -> nn.Module:
    """Of two classes and linear: whatever the direction, the worst change is along the normal of the boundary."""
    module: nn.Module = seeded(lambda: nn.Linear(WIDTH, 2))
    return module


def convolutions(kind: type[nn.Module]) -> nn.Module:
    """A discriminator with a logit at each place, which looks at that place alone."""
    module: nn.Module = seeded(lambda: nn.Sequential(kind(WIDTH, 8, 1), nn.ReLU(), kind(8, 1, 1)))
    return module


def dense_dann(kind: type[nn.Module] = nn.Conv2d, reduction: str = "mean") -> Callable[[], AdditiveMetric]:
    return lambda: adaption.DomainAdversarialLoss(convolutions(kind), reduction)


def segmentation_discriminator() -> nn.Module:
    module: nn.Module = seeded(lambda: SegmentationDiscriminator(CLASSES, ndf=2))
    return module


def curved_critic() -> nn.Module:
    """A critic whose slope differs from point to point. A bias at its end would have no part in the value."""
    module: nn.Module = seeded(lambda: nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 1, bias=False)))
    return module


def critic_of_images() -> nn.Module:
    """One score for an image, by what is linear in it."""
    module: nn.Module = seeded(
        lambda: nn.Sequential(nn.Conv2d(WIDTH, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    return module


def _mmd(metric: Any, *batch: Any) -> Tensor:
    settings = {"num_kernels": metric.num_kernels, "bandwidth": metric.bandwidth, "estimator": metric.estimator}
    return functional.maximum_mean_discrepancy(*batch, **settings)


def _jmmd(metric: Any, source: list[Tensor], target: list[Tensor], *weights: Tensor) -> Tensor:
    if metric.thetas is not None:  # both domains in one batch
        pairs = zip(metric.thetas, source, target, strict=True)
        mapped = [theta(torch.cat(pair)).tensor_split([len(pair[0])]) for theta, *pair in pairs]
        source, target = ([pair[domain] for pair in mapped] for domain in (0, 1))
    settings = {"num_kernels": metric.num_kernels, "bandwidth": metric.bandwidth, "estimator": metric.estimator}
    return functional.joint_maximum_mean_discrepancy(source, target, *weights, **settings)


def _lmmd(metric: Any, *batch: Tensor) -> Tensor:
    settings = {"num_kernels": metric.num_kernels, "bandwidth": metric.bandwidth}
    return functional.local_maximum_mean_discrepancy(*batch, **settings)


def _cdd(metric: Any, *batch: Tensor) -> Tensor:
    settings = {"num_kernels": metric.num_kernels, "bandwidth": metric.bandwidth}
    return functional.contrastive_domain_discrepancy(*batch, **settings)


def _jdot(metric: Any, *batch: Any) -> Tensor:
    names = ("feature_weight", "label_weight", "regularization", "max_iters", "marginal_penalty")
    settings: dict[str, Any] = {name: getattr(metric, name) for name in names}
    return functional.joint_distribution_optimal_transport(*batch, **settings)


def _feature_norm(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    return functional.adaptive_feature_norm(source, target, step=metric.step, radius=metric.radius)


def _sliced(metric: Any, source: Tensor, target: Tensor) -> Tensor:
    directions = metric.directions(source.shape[1], metric.num_projections, source)
    return functional.sliced_wasserstein(source, target, directions)


def _sinkhorn(metric: Any, *batch: Tensor) -> Tensor:
    settings = {"regularization": metric.regularization, "max_iters": metric.max_iters}
    return functional.sinkhorn_divergence(*batch, **settings)


def _bsp(metric: Any, *batch: Tensor) -> Tensor:
    return functional.batch_spectral_penalization(*batch, num_singular_values=metric.num_singular_values)


def _coral(metric: Any, *batch: Tensor) -> Tensor:
    return functional.correlation_alignment(*batch, estimator=metric.estimator)


def _cmd(metric: Any, *batch: Tensor) -> Tensor:
    return functional.central_moment_discrepancy(*batch, num_moments=metric.num_moments, bounds=metric.bounds)


def _homm(metric: Any, *batch: Tensor) -> Tensor:
    return functional.higher_order_moment_matching(*batch, order=metric.order)


def _dare_gram(metric: Any, *batch: Tensor) -> Tensor:
    weights = {"angle_weight": metric.angle_weight, "scale_weight": metric.scale_weight}
    return functional.inverse_gram_alignment(*batch, energy=metric.energy, **weights)


def _dann(metric: Any, source: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
    logits = metric.domain_disc(source), metric.domain_disc(target)
    return functional.domain_adversarial_loss(*logits, *weights, reduction=metric.reduction)


def _cdan(metric: Any, *batch: Tensor) -> Tensor:
    logits: list[Tensor] = []
    weights: list[Tensor] = []
    for class_logits, features in (batch[:2], batch[2:]):
        predictions = class_logits.softmax(1).detach()
        logits.append(metric.domain_disc(metric.joint_map(features, predictions)))
        weights.append(1 + (predictions * predictions.log()).sum(1).exp())
    weights = weights if metric.entropy_conditioning else []
    return functional.conditional_domain_adversarial_loss(*logits, *weights, reduction=metric.reduction)


def _adda(_: Any, *batch: Any) -> Tensor:
    return functional.adversarial_discriminative_loss(*batch)


def _advent(metric: Any, logits: Tensor, domain_label: str) -> Tensor:
    domain_logits = metric.domain_disc(functional.entropy_map(logits))
    return functional.adversarial_discriminative_loss(domain_logits, domain_label)


def _class_weights(metric: Any, target_logits: Tensor) -> Tensor:
    return functional.class_weights(target_logits, metric.temperature)


def cdan(**settings: Any) -> AdditiveMetric:
    width = settings.get("randomized_dim", WIDTH * CLASSES)
    metric: AdditiveMetric = seeded(lambda: adaption.ConditionalDomainAdversarialLoss(discriminator(width), **settings))
    return metric


def advent() -> AdditiveMetric:
    return adaption.DomainAdversarialEntropyLoss(segmentation_discriminator())


def _mdd(metric: Any, *batch: Tensor) -> Tensor:
    settings: dict[str, Any] = {"margin": metric.margin, "reduction": metric.reduction}
    if isinstance(metric, adaption.ClassificationMarginDisparityDiscrepancy):
        return functional.classification_margin_disparity_discrepancy(*batch, **settings)
    if isinstance(metric, adaption.RegressionMarginDisparityDiscrepancy):
        settings["loss_function"] = metric.loss_function
        return functional.regression_margin_disparity_discrepancy(*batch, **settings)
    settings |= {"source_disparity": metric.source_disparity, "target_disparity": metric.target_disparity}
    return functional.margin_disparity_discrepancy(*batch, **settings)


def _regda(metric: Any, *batch: Any) -> Tensor:
    modules = {"pseudo_label_generator": metric.pseudo_label_generator, "criterion": metric.criterion}
    return functional.regression_disparity(*batch, **modules)


def _consistency(metric: Any, *batch: Tensor) -> Tensor:
    if isinstance(metric, adaption.L2ConsistencyLoss):
        return functional.l2_consistency_loss(*batch, reduction=metric.reduction)
    settings = {"distance_measure": metric.distance_measure, "reduction": metric.reduction}
    return functional.consistency_loss(*batch, **settings)


def _entropy(metric: Any, target_logits: Tensor) -> Tensor:
    return functional.entropy_minimization(target_logits, reduction=metric.reduction)


def _information(metric: Any, target_logits: Tensor) -> Tensor:
    return functional.information_maximization(target_logits, metric.diversity_weight)


def _pseudo_label(metric: Any, *batch: Tensor) -> Tensor:
    settings = {"threshold": metric.threshold, "weighting": metric.weighting, "reduction": metric.reduction}
    return functional.pseudo_label_loss(*batch, **settings)


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
    Case(
        "MMD random features",
        lambda: adaption.MaximumMeanDiscrepancyLoss(
            2, bandwidth=9.0, pooled="random_features", num_random_features=16, estimator="unbiased"
        ),
        features,
        random_features,
    ),
    Case("JMMD", adaption.JointMaximumMeanDiscrepancyLoss, layers, _jmmd, epoch="n+m"),
    Case(
        "JMMD thetas",
        lambda: adaption.JointMaximumMeanDiscrepancyLoss(2, thetas=_thetas()),
        layers,
        _jmmd,
        epoch="n+m",
    ),
    Case("JMMD pooled", lambda: adaption.JointMaximumMeanDiscrepancyLoss(pooled=True), layers, _jmmd),
    Case(
        "JMMD pooled thetas",
        lambda: adaption.JointMaximumMeanDiscrepancyLoss(2, thetas=_thetas(), pooled=True),
        layers,
        _jmmd,
    ),
    Case("BSP", lambda: adaption.BatchSpectralPenalizationLoss(2), features, _bsp, epoch="batches"),
    Case("LMMD", adaption.LocalMaximumMeanDiscrepancyLoss, labels_and_logits, _lmmd, looked_at=(0, 2), epoch="n+m"),
    Case("CDD", adaption.ContrastiveDomainDiscrepancyLoss, labels_of_both, _cdd, looked_at=(0, 2), epoch="batches"),
    Case("CORAL", adaption.CorrelationAlignmentLoss, features, _coral),
    Case(
        "CORAL unbiased",
        lambda: adaption.CorrelationAlignmentLoss(estimator="unbiased"),
        enough_features,
        _coral,
    ),
    Case("CMD", lambda: adaption.CentralMomentDiscrepancyLoss(4, bounds=(-2.0, 2.0)), features, _cmd),
    Case(
        "RSD",
        adaption.RepresentationSubspaceDistanceLoss,
        wide_features,
        lambda metric, *batch: functional.representation_subspace_distance(*batch, bases_weight=metric.bases_weight),
        epoch="batches",
    ),
    Case("HoMM", adaption.HigherOrderMomentMatchingLoss, features, _homm, epoch="batches"),
    Case(
        "JDOT",
        lambda: adaption.JointDistributionOptimalTransportLoss(0.5, regularization=1.0),
        labels_and_logits,
        _jdot,
        looked_at=(0, 2, 3),
        epoch="batches",
    ),
    Case(
        "JDOT unbalanced",
        lambda: adaption.JointDistributionOptimalTransportLoss(0.5, 2, regularization=1.0, marginal_penalty=0.5),
        labels_and_logits,
        _jdot,
        looked_at=(0, 2, 3),
        epoch="batches",
    ),
    Case("AFN", lambda: adaption.AdaptiveFeatureNormLoss(0.5), features, _feature_norm),
    Case("AFN radius", lambda: adaption.AdaptiveFeatureNormLoss(radius=5.0), features, _feature_norm),
    Case(  # in evaluation, where its directions are always the same
        "sliced Wasserstein",
        lambda: adaption.SlicedWassersteinLoss(8).eval(),
        features,
        _sliced,
        epoch="batches",
    ),
    Case(
        "Sinkhorn",
        lambda: adaption.SinkhornDivergenceLoss(regularization=1.0),
        with_weights,
        _sinkhorn,
        epoch="batches",
    ),
    Case(
        "Fréchet",
        adaption.FrechetDistanceLoss,
        features,
        lambda _, *batch: functional.frechet_distance(*batch),
    ),
    Case(
        "DARE-GRAM",
        lambda: adaption.InverseGramAlignmentLoss(0.95, angle_weight=1.0, scale_weight=0.1),
        features,
        _dare_gram,
    ),
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
    Case("DANN dense", dense_dann(), places(2, 3), _dann),
    Case("DANN dense weighted", dense_dann(), weighted_images, _dann),
    Case("DANN dense none", dense_dann(reduction="none"), places(2, 3), _dann, paired=True, epoch="cat"),
    Case("DANN sequence", dense_dann(nn.Conv1d), places(5), _dann),
    Case("DANN sequence sum", dense_dann(nn.Conv1d, "sum"), places(5), _dann, paired=True),
    Case("CDAN", cdan, logits_and_features, _cdan, looked_at=(1, 3)),
    Case("CDAN+E", lambda: cdan(entropy_conditioning=True), logits_and_features, _cdan, looked_at=(1, 3)),
    Case(
        "CDAN random",
        lambda: cdan(randomized=True, num_classes=CLASSES, features_dim=WIDTH, randomized_dim=16),
        logits_and_features,
        _cdan,
        looked_at=(1, 3),
    ),
    Case("CDAN sum", lambda: cdan(reduction="sum"), logits_and_features, _cdan, looked_at=(1, 3), paired=True),
    Case(
        "CDAN+E sum",
        lambda: cdan(entropy_conditioning=True, reduction="sum"),
        logits_and_features,
        _cdan,
        looked_at=(1, 3),
        paired=True,
    ),
    Case(
        "CDAN none",
        lambda: cdan(reduction="none"),
        logits_and_features,
        _cdan,
        looked_at=(1, 3),
        paired=True,
        epoch="cat",
    ),
    Case(
        "CDAN+E none",  # not the batches' values side by side: the weights are normalised over the epoch
        lambda: cdan(entropy_conditioning=True, reduction="none"),
        logits_and_features,
        _cdan,
        looked_at=(1, 3),
        paired=True,
    ),
    Case(
        "ADDA source",
        adaption.AdversarialDiscriminativeLoss,
        lambda n, _: (torch.randn(n, 1), "source"),
        _adda,
        looked_at=(0,),
    ),
    Case(
        "ADDA target",
        adaption.AdversarialDiscriminativeLoss,
        lambda n, _: (torch.randn(n), "target"),
        _adda,
        looked_at=(0,),
    ),
    Case(
        "ADDA dense",
        adaption.AdversarialDiscriminativeLoss,
        lambda n, _: (torch.randn(n, 1, 2, 3), "target"),
        _adda,
        looked_at=(0,),
    ),
    Case(  # linear: its slope is the same at all points, so that batches add up to one
        "WDGRL",
        lambda: adaption.WassersteinDomainLoss(seeded(lambda: nn.Linear(WIDTH, 1, bias=False))),
        features,
        wasserstein,
    ),
    Case(
        "WDGRL without penalty",
        lambda: adaption.WassersteinDomainLoss(curved_critic(), gradient_penalty=0),
        features,
        wasserstein,
    ),
    Case("WDGRL dense", lambda: adaption.WassersteinDomainLoss(critic_of_images()), places(2, 3), wasserstein),
    Case(
        "DALN",
        adaption.NuclearWassersteinDiscrepancyLoss,
        logits_of_both,
        lambda _, *batch: functional.nuclear_wasserstein_discrepancy(*batch),
    ),
    Case("ADVENT source", advent, images("source"), _advent, looked_at=(0,)),
    Case("ADVENT target", advent, images("target"), _advent, looked_at=(0,)),
    Case(
        "PADA", lambda: adaption.ClassWeightModule(0.5), lambda _, m: (torch.randn(m, CLASSES),), _class_weights, (0,)
    ),
    Case(
        "MCD",
        adaption.ClassifierDiscrepancyLoss,
        two_predictions,
        lambda _, *batch: functional.classifier_discrepancy(*batch),
    ),
    Case(
        "MCD dense",
        adaption.ClassifierDiscrepancyLoss,
        two_dense_predictions,
        lambda _, *batch: functional.classifier_discrepancy(*batch),
    ),
    Case(
        "MCD marginal entropy",
        adaption.MarginalEntropyLoss,
        predictions,
        lambda _, *batch: functional.marginal_entropy(*batch),
        looked_at=(0,),
    ),
    Case(
        "MCD marginal entropy dense",
        adaption.MarginalEntropyLoss,
        dense_predictions,
        lambda _, *batch: functional.marginal_entropy(*batch),
        looked_at=(0,),
    ),
    Case("MDD scalar", lambda: adaption.MarginDisparityDiscrepancy(F.mse_loss, F.l1_loss), heads, _mdd),
    Case("MDD samples", lambda: adaption.MarginDisparityDiscrepancy(cosine, cosine, 2), weighted_heads, _mdd),
    Case("MDD sum", lambda: adaption.MarginDisparityDiscrepancy(cosine, cosine, 2, "sum"), heads, _mdd, paired=True),
    Case("MDD", adaption.ClassificationMarginDisparityDiscrepancy, heads, _mdd, looked_at=(1, 3)),
    Case(
        "MDD weighted",
        lambda: adaption.ClassificationMarginDisparityDiscrepancy(2.0),
        weighted_heads,
        _mdd,
        looked_at=(1, 3),
    ),
    Case("MDD dense", adaption.ClassificationMarginDisparityDiscrepancy, dense_heads, _mdd, looked_at=(1, 3)),
    Case(
        "MDD dense none",
        lambda: adaption.ClassificationMarginDisparityDiscrepancy(4.0, "none"),
        dense_heads,
        _mdd,
        looked_at=(1, 3),
        paired=True,
        epoch="cat",
    ),
    Case(
        "MDD none",
        lambda: adaption.ClassificationMarginDisparityDiscrepancy(4.0, "none"),
        heads,
        _mdd,
        looked_at=(1, 3),
        paired=True,
        epoch="cat",
    ),
    Case(
        "MDD regression",
        lambda: adaption.RegressionMarginDisparityDiscrepancy(2.0, F.smooth_l1_loss),
        weighted_heads,
        _mdd,
        looked_at=(1, 3),
    ),
    Case(
        "RegDA",
        lambda: adaption.RegressionDisparity(PseudoLabelGenerator2d(3, 8, 7, 1), JointsKLLoss(epsilon=1e-4)),
        heatmaps,
        _regda,
        looked_at=(1,),
    ),
    Case(
        "RegDA weighted",
        lambda: adaption.RegressionDisparity(PseudoLabelGenerator2d(3, 8, 7), JointsKLLoss("sum")),
        weighted_heatmaps,
        _regda,
        looked_at=(1,),
    ),
    Case(
        "OSBP",
        lambda: adaption.UnknownClassBinaryCrossEntropy(0.3),
        logits,
        lambda metric, batch: functional.unknown_class_binary_cross_entropy(batch, metric.t),
        looked_at=(0,),
    ),
    Case(
        "DANCE",
        lambda: adaption.EntropySeparationLoss(WIDTH, margin=0.2),
        logits,
        lambda metric, batch: functional.entropy_separation(batch, margin=metric.margin),
        looked_at=(0,),
    ),
    Case(
        "OVANet source",
        adaption.OneVersusAllLoss,
        labelled_open_logits,
        lambda _, *batch: functional.one_versus_all(*batch),
        looked_at=(0,),
    ),
    Case(
        "OVANet target",
        adaption.OpenSetEntropyLoss,
        open_logits,
        lambda _, batch: functional.open_set_entropy(batch),
        looked_at=(0,),
    ),
    Case(
        "MCC",
        adaption.MinimumClassConfusionLoss,
        logits,
        lambda metric, batch: functional.minimum_class_confusion(batch, metric.temperature),
        looked_at=(0,),
    ),
    Case("entropy", adaption.EntropyMinimizationLoss, logits, _entropy, looked_at=(0,)),
    Case("entropy dense", adaption.EntropyMinimizationLoss, dense_logits, _entropy, looked_at=(0,)),
    Case("entropy sum", lambda: adaption.EntropyMinimizationLoss("sum"), logits, _entropy, looked_at=(0,)),
    Case(
        "entropy none",
        lambda: adaption.EntropyMinimizationLoss("none"),
        logits,
        _entropy,
        looked_at=(0,),
        epoch="cat",
    ),
    Case("information", adaption.InformationMaximizationLoss, logits, _information, looked_at=(0,)),
    Case(
        "information dense",
        lambda: adaption.InformationMaximizationLoss(0.5),
        dense_logits,
        _information,
        looked_at=(0,),
    ),
    Case(
        "nuclear norm",
        adaption.NuclearNormMaximizationLoss,
        logits,
        lambda _, batch: functional.nuclear_norm_maximization(batch),
        looked_at=(0,),
    ),
    Case("pseudo label", lambda: adaption.PseudoLabelLoss(0.3), logits, _pseudo_label, looked_at=(0,)),
    Case(
        "pseudo label teacher",
        lambda: adaption.PseudoLabelLoss(0.3, reduction="sum"),
        logits_and_teacher,
        _pseudo_label,
        looked_at=(0,),
    ),
    Case(
        "pseudo label share dense",
        lambda: adaption.PseudoLabelLoss(0.3, weighting="share"),
        dense_logits_and_teacher,
        _pseudo_label,
        looked_at=(0,),
    ),
    Case(
        "pseudo label share none",
        lambda: adaption.PseudoLabelLoss(0.3, weighting="share", reduction="none"),
        logits_and_teacher,
        _pseudo_label,
        looked_at=(0,),
        epoch="cat",
    ),
    Case(  # in evaluation, where the direction that it starts from is always the same
        "VAT",
        lambda: adaption.VirtualAdversarialLoss(classifier()).eval(),
        samples,
        virtual_adversarial,
        looked_at=(0,),
    ),
    Case("consistency scalar", lambda: adaption.ConsistencyLoss(F.l1_loss), two_predictions, _consistency),
    Case("consistency masked", lambda: adaption.ConsistencyLoss(cosine), masked_predictions, _consistency),
    Case("consistency L2", adaption.L2ConsistencyLoss, masked_predictions, _consistency),
    Case("consistency L2 sum", lambda: adaption.L2ConsistencyLoss("sum"), two_predictions, _consistency),
    Case("consistency L2 none", lambda: adaption.L2ConsistencyLoss("none"), two_predictions, _consistency, epoch="cat"),
    Case("consistency L2 dense", adaption.L2ConsistencyLoss, masked_dense_predictions, _consistency),
    Case(
        "consistency L2 dense none",
        lambda: adaption.L2ConsistencyLoss("none"),
        two_dense_predictions,
        _consistency,
        epoch="cat",
    ),
    Case(
        "mutual information",
        adaption.MutualInformationLoss,
        two_predictions,
        lambda _, *batch: functional.mutual_information(*batch),
    ),
    Case(
        "mutual information dense",
        adaption.MutualInformationLoss,
        two_dense_predictions,
        lambda _, *batch: functional.mutual_information(*batch),
    ),
    Case(
        "class balance",
        lambda: adaption.ClassBalanceLoss(WIDTH),
        predictions,
        lambda _, *batch: functional.class_balance_loss(*batch),
        looked_at=(0,),
    ),
]


def _formula(metric: Any, *batch: Any) -> Any:
    """Of a score: there is no public function beside it."""
    return FORMULAS[type(metric).__name__](metric, *batch)


# Metrics that nobody trains: no law about gradients is theirs. `looked_at` says where a NaN is put.
SCORES = [
    Case("IWV", adaption.ImportanceWeightedValidation, losses_and_ratios, _formula, (0,)),
    Case("DEV", adaption.DeepEmbeddedValidation, losses_and_ratios, _formula, (0,)),
    Case("agreement", adaption.EnsembleAgreement, with_ensemble, _formula, (0,)),
    Case("agreement of candidates", adaption.EnsembleAgreement, with_candidates, _formula, (0,)),
    Case("SND", lambda: adaption.SoftNeighborhoodDensity(0.1), logits, _formula, (0,)),
    Case("label shift", lambda: adaption.LabelShiftWeights(CLASSES), labelled_logits, _formula, (0, 2)),
    Case(
        "label shift by EM", lambda: adaption.LabelShiftWeights(CLASSES, method="em"), labelled_logits, _formula, (2,)
    ),
    Case("domain accuracy", adaption.DomainAccuracy, two_domain_logits, _formula),
    Case("proxy A-distance", adaption.ProxyADistance, two_domain_logits, _formula),
    Case("two-sample test", adaption.MaximumMeanDiscrepancyTest, features, _formula, epoch="evidence"),
    Case(
        "two-sample test pooled",
        lambda: adaption.MaximumMeanDiscrepancyTest(3, pooled=True, num_permutations=19),
        features,
        _formula,
    ),
]

EVERY_METRIC = [*CASES, *SCORES]
# those whose function is public; the others are formulas of the tests
FUNCTIONS = [case for case in CASES if case.function not in (random_features, virtual_adversarial, wasserstein)]
PER_CLASS = ("PADA", "label shift", "label shift by EM")  # their value is a vector over classes


def tree_map(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """`function` of every tensor of a batch."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: tree_map(function, item) for name, item in batch.items()}
    return type(batch)(tree_map(function, item) for item in batch) if isinstance(batch, (list, tuple)) else batch


def tensors(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda tensor: found.append(tensor) or tensor, batch)  # type: ignore[func-returns-value]
    return found


def flat(value: Any) -> Tensor:
    """A value as one tensor: the scalars of a dict side by side."""
    return torch.stack(list(value.values())) if isinstance(value, dict) else value


def in_any_order(case: Case, value: Any) -> Tensor:
    """What does not depend on the order of the samples: class weights as they are, losses of single samples sorted.

    A pooled test draws its labelings by the position of the samples.
    """
    if isinstance(value, dict):
        return flat(
            {name: part for name, part in value.items() if not (case.name.endswith("pooled") and name == "p_value")}
        )
    tensor: Tensor = value
    return tensor if case.name in PER_CLASS else tensor.flatten().sort().values


def cast(batch: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, batch)


def joined(parts: tuple[Any, ...]) -> Any:
    """One argument of several batches, as that of one large batch."""
    if isinstance(parts[0], list):
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]
    return torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]


def looked_at(case: Case, batch: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that the value has a gradient for."""
    return tensors([batch[position] for position in case.looked_at])


def where_looked_at(case: Case, function: Callable[[Tensor], Tensor], batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """The batch with `function` of what the loss looks at, and a copy of the rest."""
    return tuple(
        tree_map(function, item) if position in case.looked_at else copy.deepcopy(item)
        for position, item in enumerate(batch)
    )


def with_gradient(case: Case, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """The batch with what the loss looks at requiring gradients."""
    return where_looked_at(case, lambda tensor: tensor.detach().clone().requires_grad_(), batch)


def with_nan(case: Case, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """The batch with NaN in all that the loss looks at."""
    return where_looked_at(case, lambda tensor: torch.full_like(tensor, torch.nan), batch)


def elsewhere(tensor: Tensor) -> Tensor:
    """A tensor of that shape that says it is on another device, which this machine need not have."""
    with FakeTensorMode():
        return torch.zeros(tensor.shape, device="cuda")


def epoch_value(case: Case, metric: AdditiveMetric, batches: list[tuple[Any, ...]]) -> Any:
    """The epoch value of batches by the public function alone, as `case.epoch` has it."""
    if case.epoch == "evidence":
        return evidence(metric, batches)
    if case.epoch == "samples":
        with torch.no_grad():
            return case.function(metric, *(joined(parts) for parts in zip(*batches, strict=True)))
    values = [case.function(metric, *batch).detach() for batch in batches]
    if case.epoch == "cat":
        return torch.cat(values)
    weights = [sum(map(len, looked_at(case, batch))) if case.epoch == "n+m" else 1 for batch in batches]
    return sum((v * w for v, w in zip(values, weights, strict=True)), torch.zeros(())) / sum(weights)


def refuses(metric: AdditiveMetric, match: str, *batch: Any, error: type[Exception] = ValueError) -> None:
    """Assert that `forward` and `update` raise, and that nothing accumulated is lost."""
    before = copy.deepcopy(metric.metric_state), metric.update_count
    for call in (metric, metric.update):
        with pytest.raises(error, match=match):
            call(*batch)
        torch.testing.assert_close((metric.metric_state, metric.update_count), before, rtol=0, atol=0)
