"""One row per loss and library: how a step, forward and backward, is taken there.

A peer is imported where it is built, in a process of its own. Where a package no longer imports, `_stub` or `_bare`
puts the smallest thing in the place of what is missing, and the name of the shim goes into the tables.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import adaption
from adaption import functional

Step = Callable[[], object]
Build = Callable[[int, int], Step]

CLASSES = 10
HIDDEN = 256
CONTESTANTS: dict[tuple[str, str], Build] = {}
SHIMS: list[str] = []


def contestant(loss: str, library: str) -> Callable[[Build], Build]:
    """Enter a step of `library` for `loss`; tables and pictures have a row for each."""

    def enter(build: Build) -> Build:
        CONTESTANTS[loss, library] = build
        return build

    return enter


def leaves(n: int, d: int) -> tuple[Tensor, Tensor]:
    """A source and a target batch, with memory for their gradients."""
    source, target = torch.randn(n, d, requires_grad=True), (torch.randn(n, d) + 0.1).requires_grad_()
    source.grad, target.grad = torch.zeros_like(source), torch.zeros_like(target)
    return source, target


def layers(n: int, d: int) -> tuple[list[Tensor], list[Tensor]]:
    """Features and as many columns as predictions have."""
    features, predictions = leaves(n, d), leaves(n, CLASSES)
    return [features[0], predictions[0]], [features[1], predictions[1]]


def predictions_and_features(n: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits and features of the source, then of the target."""
    features, predictions = leaves(n, d), leaves(n, CLASSES)
    return predictions[0], features[0], predictions[1], features[1]


def heads(n: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of `d` classes of the main and the adversarial head on the source, then on the target."""
    main, adversarial = leaves(n, d), leaves(n, d)
    return main[0], adversarial[0], main[1], adversarial[1]


def pairs(n: int, d: int) -> Tensor:
    """A pair of logits for each of `d` classes."""
    logits = torch.randn(n, 2, d, requires_grad=True)
    logits.grad = torch.zeros_like(logits)
    return logits


def step(loss: Callable[..., Any], *batch: Any) -> Step:
    """Forward and backward of a loss on one batch."""
    return lambda: loss(*batch).backward()


def resetting(metric: Any, *batch: Any) -> Step:
    """A step of a torchmetrics.Metric whose states would keep every graph."""

    def take() -> None:
        metric.reset()
        metric(*batch).backward()

    return take


def discriminator(d: int) -> nn.Module:
    """The same network for every library, with a logit."""
    return nn.Sequential(nn.Linear(d, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def _stub(library: str, *modules: str) -> None:
    for module in modules:
        if module not in sys.modules:
            sys.modules[module] = MagicMock(__spec__=ModuleSpec(module, None))  # torch's compiler looks for it
            SHIMS.append(f"{library}: `{module}`, which the loss does not use, is a stub")


def _bare(*packages: str) -> None:
    for package in packages:
        if package in sys.modules:
            continue
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(package)
        module = types.ModuleType(package)
        module.__path__ = list(spec.submodule_search_locations)
        sys.modules[package] = module
        SHIMS.append(f"{package}: the module of the loss is imported without `{package}/__init__.py`")


def plain_mmd(source: Tensor, target: Tensor, num_kernels: int = 5) -> Tensor:
    """The formula as one writes it down, by autograd over `torch.cdist`."""
    n = len(source)
    stacked = torch.cat([source, target])
    distances = torch.cdist(stacked, stacked).square()
    rows, columns = torch.triu_indices(len(stacked), len(stacked), offset=1)
    bandwidth = distances[rows, columns].median()
    kernel = torch.zeros(())
    for s in range(num_kernels):
        kernel = kernel + torch.exp(-(2.0 ** (s - num_kernels // 2)) * distances / bandwidth) / num_kernels
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def classes_of(n: int) -> Tensor:
    """Labels of all classes in turn."""
    return torch.arange(n) % CLASSES


def plain_lmmd(source: Tensor, labels: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """The formula as one writes it down: a matrix of weights for each block of the kernel matrix over `torch.cdist`."""
    n, p = len(source), logits.softmax(1).detach()
    a = F.one_hot(labels, CLASSES).to(p)
    common = (a.sum(0) > 0) & (F.one_hot(p.argmax(1), CLASSES).sum(0) > 0)
    a, b = a[:, common] / a[:, common].sum(0), p[:, common] / p[:, common].sum(0)
    stacked = torch.cat([source, target])
    distances = torch.cdist(stacked, stacked).square()
    rows, columns = torch.triu_indices(len(stacked), len(stacked), offset=1)
    bandwidth = distances[rows, columns].median()
    kernel = torch.zeros(())
    for s in range(5):
        kernel = kernel + torch.exp(-(2.0 ** (s - 2)) * distances / bandwidth) / 5
    within = (a @ a.T * kernel[:n, :n]).sum() + (b @ b.T * kernel[n:, n:]).sum()
    return (within - 2 * (a @ b.T * kernel[:n, n:]).sum()) / common.sum()


def plain_cdd(source: Tensor, labels: Tensor, target: Tensor, hypotheses: Tensor) -> Tensor:
    """The formula as one writes it down: a mean of each block of the kernel matrix for each pair of classes."""
    n = len(source)
    a, b = (F.one_hot(classes, CLASSES).float() for classes in (labels, hypotheses))
    common = (a.sum(0) > 0) & (b.sum(0) > 0)
    a, b = (rows[:, common] / rows[:, common].sum(0) for rows in (a, b))
    stacked = torch.cat([source, target])
    distances = torch.cdist(stacked, stacked).square()
    rows, columns = torch.triu_indices(len(stacked), len(stacked), offset=1)
    bandwidth = distances[rows, columns].median()
    kernel = torch.zeros(())
    for s in range(5):
        kernel = kernel + torch.exp(-(2.0 ** (s - 2)) * distances / bandwidth) / 5
    within_source, within_target = (a.T @ kernel[:n, :n] @ a).diag(), (b.T @ kernel[n:, n:] @ b).diag()
    discrepancies = within_source[:, None] + within_target - 2 * a.T @ kernel[:n, n:] @ b
    within, number = discrepancies.diag().sum(), len(discrepancies)
    return within / number - (discrepancies.sum() - within) / (number * (number - 1))


def plain_feature_norm(source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down."""
    norms = [features.norm(dim=1) for features in (source, target)]
    losses = [(norm - norm.detach() - 1).square().mean() for norm in norms]
    value: Tensor = losses[0] + losses[1]
    return value


def plain_sliced(source: Tensor, target: Tensor, number: int = 128) -> Tensor:
    """The formula as one writes it down, for equally many samples, with directions from torch's generator."""
    directions = F.normalize(torch.randn(source.shape[1], number), dim=0)
    value: Tensor = ((source @ directions).sort(0).values - (target @ directions).sort(0).values).square().mean()
    return value


@torch.no_grad()
def plain_plan(cost: Tensor, epsilon: Tensor, steps: int = 100) -> Tensor:
    """Sinkhorn's iteration in the log domain, of equal weights."""
    n, m = cost.shape
    scaled, f = cost / epsilon, torch.zeros(n)
    for _ in range(steps):
        g = -(f[:, None] - scaled).logsumexp(0) + math.log(n)
        f = -(g - scaled).logsumexp(1) + math.log(m)
    return torch.exp(f[:, None] + g - scaled) / (n * m)


def plain_transport(cost: Tensor, epsilon: Tensor) -> Tensor:
    """The cost of the plan, held constant, and of its entropy."""
    plan = plain_plan(cost, epsilon)
    value: Tensor = (plan * cost).sum() + epsilon * torch.special.xlogy(plan, plan * plan.numel()).sum()
    return value


def plain_jdot(source: Tensor, labels: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """The formula as one writes it down, over `torch.cdist`."""
    cost = 0.01 * torch.cdist(source, target).square() - logits.log_softmax(1).T[labels]
    value: Tensor = (plain_plan(cost, 0.05 * cost.detach().mean()) * cost).sum()
    return value


def plain_sinkhorn(source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down, over `torch.cdist`."""
    across, *within = (torch.cdist(x, y).square() for x, y in ((source, target), (source, source), (target, target)))
    epsilon = 0.05 * across.detach().mean()
    terms = [plain_transport(cost, epsilon) for cost in within]
    value: Tensor = plain_transport(across, epsilon) - terms[0] / 2 - terms[1] / 2
    return value


def plain_jmmd(source: list[Tensor], target: list[Tensor]) -> Tensor:
    """The same over layers, one kernel each."""
    n, kernel = len(source[0]), torch.ones(())
    for pair in zip(source, target, strict=True):
        stacked = torch.cat(pair)
        distances = torch.cdist(stacked, stacked).square()
        rows, columns = torch.triu_indices(len(stacked), len(stacked), offset=1)
        kernel = kernel * torch.exp(-distances / distances[rows, columns].median())
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def plain_bsp(source: Tensor, target: Tensor) -> Tensor:
    """The squares of the largest singular values, by autograd through a full decomposition."""
    loss = torch.zeros(())
    for features in (source, target):
        loss = loss + torch.linalg.svdvals(features)[0].square()
    return loss


def covariance(features: Tensor) -> Tensor:
    """Divided by the number of samples less one."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def plain_coral(source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down, with a matrix of all pairs of features."""
    return (covariance(source) - covariance(target)).square().mean() / 4


def plain_cmd(source: Tensor, target: Tensor, num_moments: int = 5) -> Tensor:
    """The formula as one writes it down, with powers."""
    means = source.mean(0), target.mean(0)
    loss: Tensor = torch.linalg.vector_norm(means[0] - means[1])
    for k in range(2, num_moments + 1):
        moments = [(features - mean).pow(k).mean(0) for features, mean in zip((source, target), means, strict=True)]
        loss = loss + torch.linalg.vector_norm(moments[0] - moments[1])
    return loss


def plain_homm(source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down, with the tensors of all third moments."""
    moments = []
    for features in (source, target):
        centred = features - features.mean(0)
        moments.append(torch.einsum("ni,nj,nk->ijk", centred, centred, centred) / len(centred))
    value: Tensor = (moments[0] - moments[1]).square().mean()
    return value


def products_homm(source: Tensor, target: Tensor) -> Tensor:
    """The same from the products of all pairs, in the precision of the features."""
    x, y = source - source.mean(0), target - target.mean(0)
    within, beside, across = (((a @ b.T) ** 3).mean() for a, b in ((x, x), (y, y), (x, y)))
    value: Tensor = (within + beside - 2 * across) / source.shape[1] ** 3
    return value


def plain_frechet(source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down, with the eigenvalues of the product of the covariances."""
    first, second = covariance(source), covariance(target)
    roots = torch.linalg.eigvals(first @ second).sqrt().real
    traces = first.trace() + second.trace() - 2 * roots.sum()
    distance: Tensor = (source.mean(0) - target.mean(0)).square().sum() + traces
    return distance


def plain_subspace(source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down."""
    bases = [torch.linalg.svd(features.T, full_matrices=False)[0] for features in (source, target)]
    p, cosines, q = torch.linalg.svd(bases[0].T @ bases[1])
    value: Tensor = (1 - cosines.square()).sqrt().sum() + 0.1 * (p.abs() - q.T.abs()).norm()
    return value


def plain_inverse_gram(source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down, with pseudoinverses of the Gram matrices."""
    ones = [torch.cat([torch.ones(len(features), 1), features], 1) for features in (source, target)]
    grams = [features.T @ features / len(features) for features in ones]
    values = [torch.linalg.svdvals(gram) for gram in grams]
    kept = max(1, *(int((value.cumsum(0) / value.sum() <= 0.9).sum()) - 1 for value in values))
    inverses = [
        torch.linalg.pinv(gram, rtol=(value[kept] / value[0]).detach())
        for gram, value in zip(grams, values, strict=True)
    ]
    angle = (1 - F.cosine_similarity(inverses[0], inverses[1], dim=0)).abs().mean()
    scale: Tensor = torch.linalg.vector_norm((values[0] - values[1])[:kept]) / kept
    return 0.05 * angle + 0.001 * scale


def plain_dann(disc: nn.Module, *features: Tensor) -> Tensor:
    """The cross-entropy of the discriminator on the reversed features of each domain."""
    loss = torch.zeros(())
    for label, part in enumerate(features):
        answer = disc(functional.gradient_reversal(part))
        loss = loss + F.binary_cross_entropy_with_logits(answer, torch.full_like(answer, label)) / 2
    return loss


def plain_cdan(disc: nn.Module, logits: tuple[Tensor, Tensor], features: tuple[Tensor, Tensor]) -> Tensor:
    """The outer product of features and predictions, and the cross-entropy of the discriminator on it."""
    loss = torch.zeros(())
    for label, (g, f) in enumerate(zip(logits, features, strict=True)):
        joint = torch.einsum("nc,nd->ncd", g.softmax(1).detach(), f).flatten(1)
        answer = disc(functional.gradient_reversal(joint))
        loss = loss + F.binary_cross_entropy_with_logits(answer, torch.full_like(answer, label)) / 2
    return loss


def plain_mdd(source: Tensor, source_adv: Tensor, target: Tensor, target_adv: Tensor) -> Tensor:
    """The formula as one writes it down, with the logarithm of one minus a probability."""
    disagreement = -F.cross_entropy(source_adv, source.argmax(1))
    probability = target_adv.softmax(1).gather(1, target.argmax(1, keepdim=True))
    return 4 * disagreement + (1 - probability).log().mean()


def plain_mcc(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """The formula as one writes it down, with the matrix of all pairs of classes."""
    p = (logits / temperature).softmax(1)
    certainty = 1 + torch.exp((p * p.log()).sum(1)).detach()
    weights = len(p) * certainty / certainty.sum()
    confusion = (p * weights[:, None]).T @ p
    confusion = confusion / confusion.sum(1, keepdim=True)
    return (confusion.sum() - confusion.trace()) / len(confusion)


def plain_entropy(logits: Tensor) -> Tensor:
    """The formula as one writes it down."""
    p = logits.softmax(1)
    return -(p * p.log()).sum(1).mean()


def plain_separation(logits: Tensor) -> Tensor:
    """The formula as one writes it down."""
    p = logits.softmax(1)
    distances = (-(p * p.log()).sum(1) - math.log(p.shape[1]) / 2).abs()
    value: Tensor = -(distances * (distances > 0.5)).mean()
    return value


def plain_one_versus_all(logits: Tensor, labels: Tensor) -> Tensor:
    """The formula as one writes it down."""
    unknown, known = logits.log_softmax(1).unbind(1)
    own = F.one_hot(labels, logits.shape[2])
    positive, negative = -(known * own).sum(1), (-unknown * (1 - own)).max(1).values
    return positive.mean() + negative.mean()


def plain_information(logits: Tensor) -> Tensor:
    """The same, less the entropy of the mean."""
    p = logits.softmax(1)
    mean = p.mean(0)
    value: Tensor = -(p * p.log()).sum(1).mean() + (mean * mean.log()).sum()
    return value


def plain_nuclear_norm(logits: Tensor) -> Tensor:
    """Torch's own nuclear norm, by a decomposition that autograd differentiates."""
    p = logits.softmax(1)
    norm: Tensor = torch.linalg.matrix_norm(p, "nuc")
    largest: float = p.numel() ** 0.5
    return -norm / largest


def plain_mutual_information(logits: Tensor, others: Tensor) -> Tensor:
    """The formula as one writes it down."""
    joint = logits.softmax(1).T @ others.softmax(1)
    joint = (joint + joint.T) / (2 * joint.sum())
    marginal = joint.sum(0)
    value: Tensor = -(joint * (joint / (marginal[:, None] * marginal)).log()).sum()
    return value


def plain_vat(model: nn.Module, inputs: Tensor) -> Tensor:
    """The formula as one writes it down, for a network without dropout and batch normalisation."""
    with torch.no_grad():
        p = model(inputs).softmax(1)
    direction = F.normalize(torch.randn_like(inputs)).requires_grad_()
    loss = F.kl_div(model(inputs + 1e-3 * direction).log_softmax(1), p, reduction="batchmean")
    (gradient,) = torch.autograd.grad(loss, direction)
    return F.kl_div(model(inputs + 3.5 * F.normalize(gradient)).log_softmax(1), p, reduction="batchmean")


def plain_nuclear_wasserstein(source: Tensor, target: Tensor) -> Tensor:
    """Two nuclear norms by torch's own decomposition."""
    return plain_nuclear_norm(source) - plain_nuclear_norm(target)


def plain_wasserstein(critic: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """The formula as one writes it down, with points from the global generator."""
    scores = [critic(functional.gradient_reversal(features)) for features in (source, target)]
    number = max(len(source), len(target))
    pairs = source[torch.randint(len(source), (number,))], target[torch.randint(len(target), (number,))]
    share = torch.rand(number, 1)
    points = (share * pairs[0] + (1 - share) * pairs[1]).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    value: Tensor = scores[1].mean() - scores[0].mean() + 10 * (gradient.norm(dim=1) - 1).square().mean()
    return value


def floor(source: Tensor, target: Tensor) -> None:
    """What no full-size implementation goes below: one product for the distances, one exp, one for the gradient."""
    with torch.no_grad():
        stacked = torch.cat([source, target])
        _ = (stacked @ stacked.T).mul_(-1e-3).exp_() @ stacked


@contestant("MMD", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.maximum_mean_discrepancy, *leaves(n, d))


@contestant("MMD", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_mmd, *leaves(n, d))


@contestant("MMD", "floor")
def _(n: int, d: int) -> Step:
    batch = leaves(n, d)
    return lambda: floor(*batch)


def tllib(module: str) -> Any:
    _stub("TLLib", "qpsolvers")
    if "float" not in vars(np):
        vars(np)["float"] = float
        SHIMS.append("TLLib: `numpy.float`, which NumPy has dropped, is `float` again")
    return importlib.import_module(f"dalib.{module}")


@contestant("MMD", "TLLib")
def _(n: int, d: int) -> Step:
    dan = tllib("adaptation.dan")
    gaussians = [tllib("modules.kernels").GaussianKernel(alpha=2.0**k) for k in range(-3, 2)]
    return step(dan.MultipleKernelMaximumMeanDiscrepancy(gaussians), *leaves(n, d))


def pytorch_adapt(module: str) -> Any:
    _bare("pytorch_adapt", "pytorch_adapt.layers")
    _stub("pytorch-adapt", "tqdm")
    return importlib.import_module(f"pytorch_adapt.layers.{module}")


@contestant("MMD", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    scales = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0])
    return step(pytorch_adapt("mmd_loss").MMDLoss(kernel_scales=scales, mmd_type="quadratic"), *leaves(n, d))


def rul_adapt() -> Any:
    _bare("rul_adapt", "rul_adapt.loss")
    return importlib.import_module("rul_adapt.loss.adaption")


@contestant("MMD", "rul-adapt")
def _(n: int, d: int) -> Step:
    return resetting(rul_adapt().MaximumMeanDiscrepancyLoss(5), *leaves(n, d))


def skada(module: str) -> Any:
    _bare("skada", "skada.deep")
    _stub("skada", "skorch", "skada.deep.base", "skada.deep.utils")
    sys.modules["skada.deep.base"].BaseDALoss = nn.Module  # type: ignore[attr-defined]
    return importlib.import_module(f"skada.deep.{module}")


@contestant("MMD", "skada")
def _(n: int, d: int) -> Step:
    return step(skada("losses").dan_loss, *leaves(n, d))


@contestant("MMD", "geomloss (1 kernel)")
def _(n: int, d: int) -> Step:
    geomloss = importlib.import_module("geomloss")
    return step(geomloss.SamplesLoss("gaussian", blur=d**0.5, backend="tensorized"), *leaves(n, d))


@contestant("JMMD", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.joint_maximum_mean_discrepancy, *layers(n, d))


@contestant("JMMD", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_jmmd, *layers(n, d))


@contestant("JMMD", "TLLib")
def _(n: int, d: int) -> Step:
    jan, kernels = tllib("adaptation.jan"), tllib("modules.kernels")
    gaussians = [[kernels.GaussianKernel()], [kernels.GaussianKernel()]]
    return step(jan.JointMultipleKernelMaximumMeanDiscrepancy(gaussians, linear=False), *layers(n, d))


@contestant("JMMD", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    return step(pytorch_adapt("mmd_loss").MMDLoss(mmd_type="quadratic"), *layers(n, d))


@contestant("JMMD", "rul-adapt")
def _(n: int, d: int) -> Step:
    return resetting(rul_adapt().JointMaximumMeanDiscrepancyLoss(), *layers(n, d))


def labels_and_logits(n: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of the source, features and logits of the target."""
    (source, target), logits = leaves(n, d), torch.randn(n, CLASSES)
    return source, classes_of(n), target, logits + 3 * F.one_hot(classes_of(n), CLASSES)


@contestant("LMMD", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.local_maximum_mean_discrepancy, *labels_and_logits(n, d))


@contestant("LMMD", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_lmmd, *labels_and_logits(n, d))


def labels_of_both(n: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of both domains."""
    source, target = leaves(n, d)
    return source, classes_of(n), target, classes_of(n)


@contestant("CDD", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.contrastive_domain_discrepancy, *labels_of_both(n, d))


@contestant("CDD", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_cdd, *labels_of_both(n, d))


@contestant("sliced Wasserstein", "adaption")
def _(n: int, d: int) -> Step:
    return step(adaption.SlicedWassersteinLoss(), *leaves(n, d))


@contestant("sliced Wasserstein", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_sliced, *leaves(n, d))


@contestant("sliced Wasserstein", "POT")
def _(n: int, d: int) -> Step:
    ot = importlib.import_module("ot")
    return step(lambda source, target: ot.sliced_wasserstein_distance(source, target, n_projections=128), *leaves(n, d))


@contestant("sliced Wasserstein", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    return step(pytorch_adapt("sliced_wasserstein").SlicedWasserstein(), *leaves(n, d))


@contestant("AFN", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.adaptive_feature_norm, *leaves(n, d))


@contestant("AFN", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_feature_norm, *leaves(n, d))


@contestant("AFN", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    loss = pytorch_adapt("adaptive_feature_norm").AdaptiveFeatureNorm()
    return step(lambda source, target: loss(source) + loss(target), *leaves(n, d))


@contestant("JDOT", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.joint_distribution_optimal_transport, *labels_and_logits(n, d))


@contestant("JDOT", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_jdot, *labels_and_logits(n, d))


@contestant("JDOT", "skada, POT")
def _(n: int, d: int) -> Step:
    source, labels, target, logits = labels_and_logits(n, d)
    return step(skada("losses").deepjdot_loss, labels, logits, source, target, 0.01, 1.0)


@contestant("Sinkhorn", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.sinkhorn_divergence, *leaves(n, d))


@contestant("Sinkhorn", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_sinkhorn, *leaves(n, d))


@contestant("Sinkhorn", "geomloss")
def _(n: int, d: int) -> Step:
    geomloss = importlib.import_module("geomloss")
    blur = (0.05 * d) ** 0.5  # its cost is half of ours, whose mean is 2 d, and its regularisation the square of this
    return step(geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, backend="tensorized"), *leaves(n, d))


@contestant("BSP", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.batch_spectral_penalization, *leaves(n, d))


@contestant("BSP", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_bsp, *leaves(n, d))


@contestant("BSP", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    loss = pytorch_adapt("batch_spectral_loss").BatchSpectralLoss(k=1)
    return step(lambda source, target: loss(source) + loss(target), *leaves(n, d))


@contestant("CORAL", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.correlation_alignment, *leaves(n, d))


@contestant("CORAL", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_coral, *leaves(n, d))


@contestant("CORAL", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    return step(pytorch_adapt("coral_loss").CORALLoss(), *leaves(n, d))


@contestant("CORAL", "skada")
def _(n: int, d: int) -> Step:
    return step(skada("losses").deepcoral_loss, *leaves(n, d))


@contestant("CMD", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.central_moment_discrepancy, *leaves(n, d))


@contestant("CMD", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_cmd, *leaves(n, d))


@contestant("HoMM", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.higher_order_moment_matching, *leaves(n, d))


@contestant("HoMM", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_homm, *leaves(n, d))


@contestant("HoMM", "products in float32")
def _(n: int, d: int) -> Step:
    return step(products_homm, *leaves(n, d))


@contestant("Fréchet", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.frechet_distance, *leaves(n, d))


@contestant("Fréchet", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_frechet, *leaves(n, d))


@contestant("DARE-GRAM", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.inverse_gram_alignment, *leaves(n, d))


@contestant("DARE-GRAM", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_inverse_gram, *leaves(n, d))


@contestant("RSD", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.representation_subspace_distance, *leaves(n, d))


@contestant("RSD", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_subspace, *leaves(n, d))


@contestant("DANN", "adaption")
def _(n: int, d: int) -> Step:
    return step(adaption.DomainAdversarialLoss(discriminator(d)), *leaves(n, d))


@contestant("DANN", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_dann, discriminator(d), *leaves(n, d))


@contestant("DANN", "TLLib")
def _(n: int, d: int) -> Step:
    dann = tllib("adaptation.dann")
    return step(dann.DomainAdversarialLoss(nn.Sequential(discriminator(d), nn.Sigmoid())), *leaves(n, d))


@contestant("DANN", "rul-adapt")
def _(n: int, d: int) -> Step:
    return resetting(rul_adapt().DomainAdversarialLoss(discriminator(d)), *leaves(n, d))


@contestant("WDGRL", "adaption")
def _(n: int, d: int) -> Step:
    return step(adaption.WassersteinDomainLoss(discriminator(d)), *leaves(n, d))


@contestant("WDGRL", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_wasserstein, discriminator(d), *leaves(n, d))


@contestant("CDAN", "adaption")
def _(n: int, d: int) -> Step:
    loss = adaption.ConditionalDomainAdversarialLoss(discriminator(CLASSES * d))
    return step(loss, *predictions_and_features(n, d))


@contestant("CDAN", "plain autograd")
def _(n: int, d: int) -> Step:
    disc, batch = discriminator(CLASSES * d), predictions_and_features(n, d)
    return step(plain_cdan, disc, batch[::2], batch[1::2])


@contestant("CDAN", "TLLib")
def _(n: int, d: int) -> Step:
    cdan = tllib("adaptation.cdan")
    loss = cdan.ConditionalDomainAdversarialLoss(nn.Sequential(discriminator(CLASSES * d), nn.Sigmoid()))
    return step(loss, *predictions_and_features(n, d))


@contestant("MDD", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.classification_margin_disparity_discrepancy, *heads(n, d))


@contestant("MDD", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_mdd, *heads(n, d))


@contestant("MDD", "TLLib")
def _(n: int, d: int) -> Step:
    return step(tllib("adaptation.mdd").MarginDisparityDiscrepancy(), *heads(n, d))


@contestant("MDD", "skada")
def _(n: int, d: int) -> Step:
    source, source_adv, target, target_adv = heads(n, d)
    return step(skada("_adversarial").MDDLoss(), source, target, source_adv, target_adv)


@contestant("MCC", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.minimum_class_confusion, leaves(n, d)[1])


@contestant("MCC", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_mcc, leaves(n, d)[1])


@contestant("MCC", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    return step(pytorch_adapt("mcc_loss").MCCLoss(T=2.5), leaves(n, d)[1])


@contestant("MCC", "skada")
def _(n: int, d: int) -> Step:
    loss = skada("losses").mcc_loss
    return step(lambda logits: loss(logits, T=2.5), leaves(n, d)[1])


@contestant("entropy", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.entropy_minimization, leaves(n, d)[1])


@contestant("entropy", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_entropy, leaves(n, d)[1])


@contestant("entropy", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    return step(pytorch_adapt("entropy_loss").EntropyLoss(), leaves(n, d)[1])


@contestant("DANCE", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.entropy_separation, leaves(n, d)[1])


@contestant("DANCE", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_separation, leaves(n, d)[1])


@contestant("OVANet, source", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.one_versus_all, pairs(n, d), torch.arange(n) % d)


@contestant("OVANet, source", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_one_versus_all, pairs(n, d), torch.arange(n) % d)


@contestant("OVANet, target", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.open_set_entropy, pairs(n, d))


@contestant("OVANet, target", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_entropy, pairs(n, d))


@contestant("information", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.information_maximization, leaves(n, d)[1])


@contestant("information", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_information, leaves(n, d)[1])


@contestant("information", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    entropy, diversity = pytorch_adapt("entropy_loss").EntropyLoss(), pytorch_adapt("diversity_loss").DiversityLoss()
    return step(lambda logits: entropy(logits) + diversity(logits), leaves(n, d)[1])


@contestant("mutual information", "adaption")
def _(n: int, d: int) -> Step:
    return step(lambda z, y: functional.mutual_information(z.softmax(1), y.softmax(1)), *leaves(n, d))


@contestant("mutual information", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_mutual_information, *leaves(n, d))


def hidden_layers(d: int) -> nn.Module:
    """A network of two hidden layers."""
    return nn.Sequential(nn.Linear(d, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES))


def convolutions() -> nn.Module:
    """A network of two convolutions, for images of 3 x 32 x 32 that are passed flat."""
    return nn.Sequential(
        *(nn.Unflatten(1, (3, 32, 32)), nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
    )


def vat_step(model: nn.Module, n: int, d: int) -> Step:
    return step(adaption.VirtualAdversarialLoss(model), leaves(n, d)[0].detach())


def plain_vat_step(model: nn.Module, n: int, d: int) -> Step:
    return step(lambda inputs: plain_vat(model, inputs), leaves(n, d)[0].detach())


@contestant("VAT", "adaption")
def _(n: int, d: int) -> Step:
    return vat_step(hidden_layers(d), n, d)


@contestant("VAT", "plain autograd")
def _(n: int, d: int) -> Step:
    return plain_vat_step(hidden_layers(d), n, d)


@contestant("nuclear norm", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.nuclear_norm_maximization, leaves(n, d)[1])


@contestant("nuclear norm", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_nuclear_norm, leaves(n, d)[1])


@contestant("nuclear norm", "pytorch-adapt")
def _(n: int, d: int) -> Step:
    return step(pytorch_adapt("bnm_loss").BNMLoss(), leaves(n, d)[1])


@contestant("DALN", "adaption")
def _(n: int, d: int) -> Step:
    return step(functional.nuclear_wasserstein_discrepancy, *leaves(n, d))


@contestant("DALN", "plain autograd")
def _(n: int, d: int) -> Step:
    return step(plain_nuclear_wasserstein, *leaves(n, d))
