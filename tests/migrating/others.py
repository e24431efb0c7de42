"""What changes in value for those who come from rul-adapt, pytorch-adapt or skada."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import torch
from benchmarks.contestants import pytorch_adapt, rul_adapt, skada
from migrating.rows import (
    CLASSES,
    ONE_CLASS,
    WIDTH,
    Row,
    copied_after_forward,
    draw,
    epoch,
    heads,
    linear,
    mean_of_draws,
    shown,
    with_gradient,
)
from torch import Tensor, nn
from torch.nn import functional as F

import adaption
from adaption import functional
from adaption.functional import maximum_mean_discrepancy as mmd


def rul_adapt_rows() -> list[Row]:
    """rul-adapt."""
    uneven = [draw(32, 4, seed=1), draw(4, 32, seed=2)]

    def theirs_mmd() -> Any:
        return rul_adapt().MaximumMeanDiscrepancyLoss(5)

    def theirs_dann() -> Any:
        return rul_adapt().DomainAdversarialLoss(linear())

    return [
        Row(
            "MMD, n = m = 32",
            lambda: theirs_mmd()(*draw(32)),
            lambda: mmd(*draw(32)),
            "the exponent has the sum of absolute differences over its mean, ours squared distances over their median",
        ),
        Row(
            "MMD of two unequal batches, one at a time",
            lambda: ", ".join(shown(theirs_mmd()(*batch)) for batch in uneven),
            lambda: ", ".join(shown(mmd(*batch)) for batch in uneven),
            "32 + 4 and 4 + 32 samples",
        ),
        Row(
            "MMD of the epoch of both",
            lambda: epoch(theirs_mmd(), uneven),
            lambda: epoch(adaption.MaximumMeanDiscrepancyLoss(), uneven),
            "theirs adds up kernels of different bandwidths, and is near neither; ours is the mean of the batch values",
        ),
        Row(
            "DANN, n = m = 32",
            lambda: theirs_dann()(*draw(32)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32)),
            "",
        ),
        Row(
            "DANN, n = 32, m = 8",
            lambda: theirs_dann()(*draw(32, 8)),
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32, 8)),
            "theirs is the mean of 40 samples, ours half of each domain's mean",
        ),
        Row(
            "consistency",
            lambda: rul_adapt().ConsistencyLoss()(*draw(32)),
            lambda: adaption.ConsistencyLoss(F.l1_loss)(*draw(32)),
            "",
        ),
        Row(
            "`copy.deepcopy` of the metric after a step",
            lambda: copied_after_forward(theirs_dann()),
            lambda: copied_after_forward(adaption.DomainAdversarialLoss(linear())),
            "the states keep the graph of the step",
        ),
    ]


def pytorch_adapt_hooks() -> dict[str, Any]:
    """Its hooks, which need the whole of the package and not the losses alone."""
    for bare in ("pytorch_adapt", "pytorch_adapt.layers"):
        sys.modules.pop(bare, None)
    sys.modules.setdefault("tqdm", MagicMock())
    return vars(importlib.import_module("pytorch_adapt.hooks"))


def theirs_afn(source: Tensor) -> Tensor:
    """The loss of pytorch-adapt on both domains."""
    loss = pytorch_adapt("adaptive_feature_norm").AdaptiveFeatureNorm()
    value: Tensor = loss(source) + loss(draw(32)[1])
    return value


def theirs_sliced(source: Tensor, target: Tensor) -> Tensor:
    """The loss of pytorch-adapt, whose directions come from the global generator."""
    value: Tensor = pytorch_adapt("sliced_wasserstein").SlicedWasserstein()(source, target)
    return value


def _vat_rows() -> list[Row]:
    """VAT on samples on the boundary of two classes, where a change to either side costs the same."""
    boundary = nn.Linear(WIDTH, 2, bias=False)
    with torch.no_grad():
        boundary.weight.copy_(draw(2, seed=4)[0] / WIDTH)
        normal = F.normalize(boundary.weight[1] - boundary.weight[0], dim=0)
        inputs = draw(32)[0] - (draw(32)[0] @ normal)[:, None] * normal

    def theirs(model: nn.Module, **settings: float) -> Tensor:
        value: Tensor = pytorch_adapt("vat_loss").VATLoss(**settings)(inputs, model(inputs), model)
        return value.detach()

    def ours(model: nn.Module) -> Tensor:
        return adaption.VirtualAdversarialLoss(model, 8.0)(inputs).detach()

    def gradient_after(vat: Callable[[nn.Module], Tensor]) -> Tensor:
        model = nn.Linear(WIDTH, 2)
        model.weight.grad = torch.ones_like(model.weight)
        vat(model)
        return torch.zeros(()) if model.weight.grad is None else model.weight.grad[0, 0]

    def training_after(vat: Callable[[nn.Module], Tensor]) -> bool:
        model = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 2)).eval()
        vat(model)
        return model[0].training

    case, words = "VAT between two classes, length 8, ξ = 1e-3", "to either side of the boundary it is the same"
    return [
        Row(case, lambda: theirs(boundary, xi=1e-3), lambda: ours(boundary), words),
        Row(
            "the same with their default ξ = 1e-6",
            lambda: theirs(boundary),
            lambda: ours(boundary),
            "rounding of float32 takes the direction of some samples; ours stays at 1e-3",
        ),
        Row(
            "the gradient of a weight after VAT, 1 before it",
            lambda: gradient_after(theirs),
            lambda: gradient_after(ours),
            "theirs clears what the user has gathered",
        ),
        Row(
            "whether batch normalisation trains after VAT, in evaluation before it",
            lambda: training_after(theirs),
            lambda: training_after(ours),
            "theirs puts all of it in training",
        ),
    ]


def pytorch_adapt_rows() -> list[Row]:
    """pytorch-adapt."""
    scales = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0])
    collapsed = torch.ones(32, WIDTH)
    first, second = heads(32)[:2]
    extractor, classifier = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        extractor.weight.copy_(torch.eye(WIDTH))
        extractor.bias.zero_()
        classifier.weight.copy_(draw(CLASSES, seed=3)[0])
        classifier.bias.zero_()

    def theirs_mmd(source: Tensor, target: Tensor, mmd_type: str = "quadratic") -> Tensor:
        value: Tensor = pytorch_adapt("mmd_loss").MMDLoss(kernel_scales=scales, mmd_type=mmd_type)(source, target)
        return value

    def hook_step(name: str, target: Tensor, **models: nn.Module) -> Tensor:
        """The sum that a hook takes the gradient of, with no steps of an optimizer."""
        idle = [torch.optim.SGD(model.parameters(), lr=0.0) for model in models.values()]
        source, labels = draw(32)[0], torch.arange(32) % CLASSES
        domains = {"src_domain": torch.zeros(32), "target_domain": torch.ones(len(target))}
        _, losses = pytorch_adapt_hooks()[name](idle)(
            {"src_imgs": source, "src_labels": labels, "target_imgs": target, **domains, **models}
        )
        return torch.tensor(losses["total_loss"]["total"])

    def task() -> Tensor:
        return F.cross_entropy(classifier(draw(32)[0]), torch.arange(32) % CLASSES)

    def linear_mmd(source: Tensor, target: Tensor) -> Tensor:
        median = torch.cdist(source, source).square().median().item()
        return mmd(source, target, num_kernels=1, estimator="linear", bandwidth=median)

    def theirs_bsp(source: Tensor, target: Tensor) -> Tensor:
        loss = pytorch_adapt("batch_spectral_loss").BatchSpectralLoss(k=1)
        value: Tensor = loss(source) + loss(target)
        return value

    def diversity(logits: Tensor) -> Tensor:
        value: Tensor = pytorch_adapt("diversity_loss").DiversityLoss()(logits)
        return value

    def information_of_batches(logits: Tensor) -> Tensor:
        metric = adaption.InformationMaximizationLoss()
        for part in logits.split(4):
            metric.update(part)
        return metric.compute()

    return [
        Row(
            "MMD, quadratic, n = m = 32",
            lambda: theirs_mmd(*draw(32)),
            lambda: mmd(*draw(32), estimator="unbiased"),
            "the same estimator; their bandwidth is the median within the source, with the zeros of its diagonal",
        ),
        Row(
            "MMD, linear, n = m = 32",
            lambda: theirs_mmd(*draw(32), "linear"),
            lambda: mmd(*draw(32), estimator="linear"),
            "their default; ours takes the median of the distances in use",
        ),
        Row(
            "MMD, the source collapsed to one point",
            lambda: theirs_mmd(collapsed, draw(32)[1]),
            lambda: mmd(collapsed, draw(32)[1]),
            "their bandwidth is 0 then",
        ),
        Row("MMD, n = m = 1", lambda: theirs_mmd(*draw(1)), lambda: mmd(*draw(1)), "ours with the biased estimate"),
        Row(
            "BSP, both domains",
            lambda: theirs_bsp(*draw(32)),
            lambda: functional.batch_spectral_penalization(*draw(32)),
            "",
        ),
        Row(
            "CORAL, n = 32, m = 24",
            lambda: pytorch_adapt("coral_loss").CORALLoss()(*draw(32, 24, width=8)),
            lambda: functional.correlation_alignment(*draw(32, 24, width=8)),
            "",
        ),
        Row(
            "CORAL, a batch of one source sample",
            lambda: pytorch_adapt("coral_loss").CORALLoss()(*draw(1, 24)),
            lambda: functional.correlation_alignment(*draw(1, 24)),
            "one sample has no covariance; ours says so",
        ),
        Row(
            "AFN, both domains",
            lambda: with_gradient(theirs_afn, draw(32)[0]),
            lambda: with_gradient(lambda source: functional.adaptive_feature_norm(source, draw(32)[1]), draw(32)[0]),
            "",
        ),
        Row(
            "sliced Wasserstein, 128 directions, n = m = 32",
            lambda: theirs_sliced(*draw(32)),
            lambda: functional.sliced_wasserstein(*draw(32), F.normalize(torch.randn(WIDTH, 128), dim=0)),
            "theirs draws from the global generator, as ours does here",
        ),
        Row(
            "sliced Wasserstein, n = 32, m = 24",
            lambda: theirs_sliced(*draw(32, 24)),
            lambda: functional.sliced_wasserstein(*draw(32, 24), F.normalize(torch.randn(WIDTH, 128), dim=0)),
            "",
        ),
        Row(
            "MCD, from logits",
            lambda: pytorch_adapt("mcd_loss").MCDLoss()(first, second),
            lambda: functional.classifier_discrepancy(first.softmax(1), second.softmax(1)),
            "ours takes probabilities",
        ),
        Row(
            "MCC, n = 32, at T = 1",
            lambda: pytorch_adapt("mcc_loss").MCCLoss()(first),
            lambda: functional.minimum_class_confusion(first, 1.0),
            "their default; the paper and ours have 2.5",
        ),
        Row(
            "MCC where all samples are certain of one class",
            lambda: pytorch_adapt("mcc_loss").MCCLoss()(ONE_CLASS),
            lambda: functional.minimum_class_confusion(ONE_CLASS, 1.0),
            "a class without a sample is 0 / 0 there; here it counts 1 / C",
        ),
        Row(
            "entropy, n = 32",
            lambda: pytorch_adapt("entropy_loss").EntropyLoss()(first),
            lambda: functional.entropy_minimization(first),
            "",
        ),
        Row(
            "entropy plus diversity, n = 32",
            lambda: pytorch_adapt("entropy_loss").EntropyLoss()(first) + diversity(first),
            lambda: functional.information_maximization(first),
            "ours is both in one",
        ),
        Row(
            "diversity of the epoch of 8 batches of 4",
            lambda: torch.stack([diversity(part) for part in first.split(4)]).mean(),
            lambda: information_of_batches(first) - functional.entropy_minimization(first),
            "theirs is a mean of batch values, ours of all samples; the mean entropy is taken off ours",
        ),
        Row(
            "BNM, n = 32",
            lambda: pytorch_adapt("bnm_loss").BNMLoss()(first),
            lambda: functional.nuclear_norm_maximization(first),
            "the norm over n; ours over sqrt(n C)",
        ),
        Row(
            "BNM of the same batch, each sample four times",
            lambda: pytorch_adapt("bnm_loss").BNMLoss()(first.repeat(4, 1)),
            lambda: functional.nuclear_norm_maximization(first.repeat(4, 1)),
            "theirs depends on the size of the batch",
        ),
        Row(
            "BNM in bfloat16",
            lambda: pytorch_adapt("bnm_loss").BNMLoss()(first.bfloat16()),
            lambda: functional.nuclear_norm_maximization(first.bfloat16()),
            "torch has no decomposition in half precision; ours is in float64",
        ),
        *_vat_rows(),
        Row(
            "`DANNHook`, what a step minimises, n = 32, m = 24",
            lambda: hook_step(
                "DANNHook", draw(32, 24)[1], G=extractor, C=classifier, D=nn.Sequential(linear(), nn.Flatten(0))
            ),
            lambda: (task() + 2 * adaption.DomainAdversarialLoss(linear())(*draw(32, 24))) / 3,
            "ours is (task + 2 * DANN) / 3",
        ),
        Row(
            "`AlignerPlusCHook`, what a step minimises, n = m = 32",
            lambda: hook_step("AlignerPlusCHook", draw(32)[1], G=extractor, C=classifier),
            lambda: (task() + linear_mmd(*draw(32)) + linear_mmd(*(classifier(x).softmax(1) for x in draw(32)))) / 3,
            "ours is (task + MMD of features + MMD of probabilities) / 3, here at their bandwidths",
        ),
    ]


def skada_rows() -> list[Row]:
    """skada."""
    mdd = functional.classification_margin_disparity_discrepancy
    main, adversarial, target_main, target_adversarial = heads(32)

    def theirs_mmd(source: Tensor, target: Tensor) -> Tensor:
        value: Tensor = skada("losses").dan_loss(source, target)
        return value

    def default_dann(features: Tensor) -> Tensor:
        disc = skada("modules").DomainClassifier(num_features=WIDTH)
        value: Tensor = skada("_adversarial").DANNLoss()(disc(features), disc(draw(32)[1]))
        return value

    def skada_dann() -> Tensor:
        disc = linear()
        answers = [disc(features).sigmoid().squeeze(1) for features in draw(32)]
        value: Tensor = skada("_adversarial").DANNLoss()(*answers)
        return value

    def skada_mdd() -> Tensor:
        loss = skada("_adversarial").MDDLoss(gamma=4.0)
        value: Tensor = loss(main, target_main, adversarial, target_adversarial)
        return value

    def labelled(m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        source, target = draw(32, m)
        return source, torch.arange(32) % CLASSES, target, draw(m, width=CLASSES, seed=1)[0]

    def theirs_jdot(source: Tensor, labels: Tensor, target: Tensor, logits: Tensor) -> Tensor:
        value: Tensor = skada("losses").deepjdot_loss(labels, logits, source, target, 0.01, 1.0)
        return value

    def probabilities(of: Tensor) -> str:
        return f"{tuple(of.shape)} probabilities"

    return [
        Row(
            "MMD, n = m = 32",
            lambda: theirs_mmd(*draw(32)),
            lambda: mmd(*draw(32)),
            "theirs sums 33 kernels of the distance, not of its square",
        ),
        Row(
            "DANN with a custom discriminator, n = m = 32",
            skada_dann,
            lambda: adaption.DomainAdversarialLoss(linear())(*draw(32)),
            "theirs is the sum of both domains, ours half of it",
        ),
        Row(
            "DANN with the default discriminator",
            lambda: with_gradient(default_dann, draw(32)[0]),
            lambda: with_gradient(
                lambda source: adaption.DomainAdversarialLoss(linear())(source, draw(32)[1]), draw(32)[0]
            ),
            "theirs ends in a softmax over one output, which is always 1",
        ),
        Row(
            "MDD, n = m = 32",
            skada_mdd,
            lambda: mdd(*heads(32)),
            "**the sign**, as with dalib; theirs smooths the probabilities, and pairs every sample with every label",
        ),
        Row(
            "CORAL, n = 32, m = 24",
            lambda: skada("losses").deepcoral_loss(*draw(32, 24)),
            lambda: functional.correlation_alignment(*draw(32, 24)),
            "",
        ),
        Row(
            "CORAL, mean of 200 pairs of batches of one distribution, n = 16",
            lambda: mean_of_draws(lambda source, target: skada("losses").deepcoral_loss(source, target)),
            lambda: mean_of_draws(
                lambda source, target: functional.correlation_alignment(source, target, estimator="unbiased")
            ),
            'ours here with `estimator="unbiased"`',
        ),
        Row(
            "CORAL of one source sample",
            lambda: skada("losses").deepcoral_loss(*draw(1, 24)),
            lambda: functional.correlation_alignment(*draw(1, 24)),
            "one sample has no covariance; ours says so",
        ),
        Row(
            "MCC, n = 32, at T = 1",
            lambda: skada("losses").mcc_loss(target_main),
            lambda: functional.minimum_class_confusion(target_main, 1.0),
            "their default; its weights have a gradient, which the paper's have not",
        ),
        Row(
            "DeepJDOT, n = m = 32, at 0.01 for features and 1 for labels",
            lambda: theirs_jdot(*labelled(32)),
            lambda: functional.joint_distribution_optimal_transport(*labelled(32)),
            "theirs is the cost of the best plan, ours of one with a regularisation of 0.05",
        ),
        Row(
            "DeepJDOT, at a regularisation of 0.001",
            lambda: theirs_jdot(*labelled(32)),
            lambda: functional.joint_distribution_optimal_transport(
                *labelled(32), regularization=0.001, max_iters=1000
            ),
            "",
        ),
        Row(
            "DeepJDOT, n = 32, m = 24",
            lambda: theirs_jdot(*labelled(24)),
            lambda: functional.joint_distribution_optimal_transport(*labelled(24)),
            "",
        ),
        Row(
            "what its target term averages",
            lambda: probabilities(target_adversarial.softmax(1)[..., target_main.argmax(1)]),
            lambda: probabilities(target_adversarial.softmax(1).gather(1, target_main.argmax(1, keepdim=True))),
            "an index where a gather was meant",
        ),
    ]
