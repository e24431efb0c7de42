"""The methods that the examples train, one row each: what a loss adds to a training step.

A method is a module. Called with a batch, it returns the loss of the step: cross entropy on the source, plus its
metrics times their weights. Most losses need no more than a line in `METHODS`; a second head, a teacher or a game of
its own is a small class. Weights and schedules are the papers' or the library's defaults. Chosen by target accuracy on
the seeds 100 and 101 were self-ensembling's weights, ADDA's rate, VADA's length and weights, the weights of DALN,
CORAL, CMD, Sinkhorn, sliced Wasserstein and DeepJDOT, whose values are in other units, and that the losses of
predictions wait for half of the run: their authors begin with a network trained on ImageNet, this one begins with
random weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from adaption import (
    AdaptiveFeatureNormLoss,
    AdversarialDiscriminativeLoss,
    BatchSpectralPenalizationLoss,
    CentralMomentDiscrepancyLoss,
    ClassBalanceLoss,
    ClassificationMarginDisparityDiscrepancy,
    ClassifierDiscrepancyLoss,
    ConditionalDomainAdversarialLoss,
    CorrelationAlignmentLoss,
    DomainAdversarialLoss,
    EntropyMinimizationLoss,
    InformationMaximizationLoss,
    JointDistributionOptimalTransportLoss,
    JointMaximumMeanDiscrepancyLoss,
    L2ConsistencyLoss,
    LocalMaximumMeanDiscrepancyLoss,
    MaximumMeanDiscrepancyLoss,
    MinimumClassConfusionLoss,
    NuclearNormMaximizationLoss,
    NuclearWassersteinDiscrepancyLoss,
    PseudoLabelLoss,
    SinkhornDivergenceLoss,
    SlicedWassersteinLoss,
    VirtualAdversarialLoss,
)
from adaption.layers import DomainDiscriminator, EmaTeacher, GradientReversalLayer, WarmStartGradientReversalLayer

WIDTH, CLASSES = 64, 10

Augmentation = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A small convolutional network for square images: `forward` gives the features, `classify` their logits."""

    def __init__(self, side: int = 12) -> None:
        super().__init__()
        self.extract = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()),
        )
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Features of shape `(N, WIDTH)`."""
        extracted: Tensor = self.extract(images)
        return extracted


# ---- the batch and the method -----------------------------------------------------------------------------------


def look(network: Network, source: Tensor, labels: Tensor, target: Tensor) -> dict[str, Any]:
    """A batch under the names by which the losses ask; a `MetricCollection` gives each what it asks for."""
    source_features, target_features = network(source), network(target)
    return {
        "labels": labels,
        "source_labels": labels,
        "source_images": source,
        "target_images": target,
        "source": source_features,
        "target": target_features,
        "source_features": source_features,
        "target_features": target_features,
        "source_logits": network.classify(source_features),
        "target_logits": network.classify(target_features),
    }


class Method(nn.Module):
    """Cross entropy on the source, plus metrics times their weights.

    Args:
        metrics: the metrics of the method.
        weights: the weight of each in the sum; 1 for those that are not named.
    """

    def __init__(self, metrics: Mapping[str, nn.Module] | None = None, **weights: float) -> None:
        super().__init__()
        self.metrics = MetricCollection(dict(metrics or {}))
        self.weights = weights

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a step."""
        loss = self.task(batch)
        for name, value in self.metrics(**self.inputs(batch)).items():
            loss = loss + self.weights.get(name, 1.0) * value
        return loss

    @staticmethod
    def task(batch: dict[str, Any]) -> Tensor:
        """Cross entropy on the source."""
        return F.cross_entropy(batch["source_logits"], batch["labels"], weight=batch.get("class_weights"))

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the metrics look at."""
        return batch

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What follows the optimizer's step."""

    def notes(self) -> dict[str, Any]:
        """What else an epoch leaves in the history."""
        return {}


class Joint(Method):
    """JMMD looks at features and predictions together, layer by layer."""

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Two layers for each domain."""
        return {
            f"{domain}_features": [batch[domain], batch[f"{domain}_logits"].softmax(1)]
            for domain in ("source", "target")
        }


class Growing(Method):
    """Losses whose weights grow from 0 over the run, as DSAN's: predictions are not to be relied on at first."""

    def __init__(self, metrics: Mapping[str, nn.Module], steps: int, **weights: float) -> None:
        super().__init__(metrics, **weights)
        self.step, self.steps = 0, steps

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a step."""
        whole, share = self.weights, math.tanh(5 * self.step / self.steps)  # 2 / (1 + exp(-10 p)) - 1
        self.weights = {name: share * whole.get(name, 1.0) for name in self.metrics}
        loss = super().forward(batch)
        self.weights = whole
        return loss

    def after_step(self, _optimizer: torch.optim.Optimizer) -> None:
        """Count."""
        self.step += 1


class Halves(Method):
    """Cross entropy alone for half of the run, the metrics too after it."""

    def __init__(self, metrics: Mapping[str, nn.Module] | None, steps: int, **weights: float) -> None:
        super().__init__(metrics, **weights)
        self.steps_left = steps // 2

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a step."""
        return self.first(batch) if self.steps_left > 0 else self.second(batch)

    def first(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a step in the first half."""
        return self.task(batch)

    def second(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a step in the second half."""
        return super().forward(batch)

    def after_step(self, _optimizer: torch.optim.Optimizer) -> None:
        """Count."""
        self.steps_left -= 1


class Predictions(Halves):
    """A loss of the target's predictions: after half of the run, when what it makes certain is mostly right."""

    def __init__(self, metric: nn.Module, steps: int, weight: float = 1.0) -> None:
        super().__init__({"loss": metric}, steps, loss=weight)


class PseudoLabels(Predictions):
    """What the network is confident of on target images, it learns on augmented ones."""

    def __init__(self, network: Network, steps: int, weight: float = 1.0, augment: Augmentation | None = None) -> None:
        super().__init__(PseudoLabelLoss(), steps, weight)
        self.augment = augment or move
        self.network = [network]  # in a list, so that it is not among the method's parameters

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The logits of both views."""
        network = self.network[0]
        logits = network.classify(network(self.augment(batch["target_images"])))
        return {"logits": logits, "teacher_logits": batch["target_logits"]}


class Vada(Halves):
    """DANN; after half of the run, VAT and the entropy on the target too, as VADA has them.

    No small change of a target image is to turn its prediction over, of which the entropy makes the network certain.
    Without DANN both hold in place what the source alone has learnt: the target was recognised worse than without them.
    """

    def __init__(
        self, network: Network, steps: int, epsilon: float = 1.0, weight: float = 0.01, entropy: float = 0.1
    ) -> None:
        vat = VirtualAdversarialLoss(nn.Sequential(network, network.classify), epsilon)
        metrics = {"DANN": dann(steps), "VAT": vat, "entropy": EntropyMinimizationLoss()}
        super().__init__(metrics, steps, VAT=weight, entropy=entropy)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: FBT001, FBT002
        """Those of the discriminator: the network's are the optimizer's already."""
        return self.metrics["DANN"].parameters(recurse)

    def first(self, batch: dict[str, Any]) -> Tensor:
        """DANN alone."""
        game = self.metrics["DANN"](batch["source"], batch["target"])
        return self.task(batch) + self.weights.get("DANN", 1.0) * game

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The images themselves."""
        return {**batch, "inputs": batch["target_images"]}


class MarginDisparity(Method):
    """MDD: a second head, behind a reversal, departs from the first on the target. The value is subtracted."""

    def __init__(self, steps: int) -> None:
        super().__init__({"MDD": ClassificationMarginDisparityDiscrepancy(margin=4.0)}, MDD=-1.0)
        self.reversal = WarmStartGradientReversalLayer(alpha=1.0, hi=0.1, max_iters=steps, auto_step=True)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The logits of both heads on both domains."""
        both = torch.cat([batch["source"], batch["target"]])
        source_adv, target_adv = self.head(self.reversal(both)).split([len(batch["source"]), len(batch["target"])])
        main = {"source_output": batch["source_logits"], "target_output": batch["target_logits"]}
        return {**main, "source_output_adv": source_adv, "target_output_adv": target_adv}


class OwnDiscriminator(Method):
    """DALN: the classifier tells the domains apart, behind a reversal, by the nuclear norm of its predictions."""

    def __init__(self, network: Network, steps: int, weight: float = 0.1) -> None:
        super().__init__({"DALN": NuclearWassersteinDiscrepancyLoss()}, DALN=weight)
        self.reversal = warm(steps)
        self.network = [network]  # in a list, so that it is not among the method's parameters

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The logits of the reversed features."""
        logits = self.network[0].classify(self.reversal(torch.cat([batch["source"], batch["target"]])))
        return {"source_logits": logits[: len(batch["source"])], "target_logits": logits[len(batch["source"]) :]}


class ClassifierDiscrepancy(Method):
    """MCD in one step: two heads part on the target, the features reunite them, a reversal between the two.

    The heads are two layers deep; the network's own, which is scored, learns beside them. The value is subtracted.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__({"MCD": ClassifierDiscrepancyLoss()}, MCD=-weight)
        self.reversal = GradientReversalLayer()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)) for _ in range(2)
        )

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """All heads learn the source."""
        tasks = [F.cross_entropy(head(batch["source"]), batch["labels"]) for head in self.heads]
        return super().forward(batch) + tasks[0] + tasks[1]

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Both heads' probabilities on the target."""
        features = self.reversal(batch["target"])
        return {f"predictions{i}": head(features).softmax(1) for i, head in enumerate(self.heads, start=1)}


class SelfEnsembling(Method):
    """A teacher, the average of the student over time, says what the student should on augmented target images."""

    def __init__(
        self, network: Network, consistency: float = 1.0, balance: float = 0.1, augment: Augmentation | None = None
    ) -> None:
        metrics = {"consistency": L2ConsistencyLoss(), "balance": ClassBalanceLoss(CLASSES)}
        super().__init__(metrics, consistency=consistency, balance=balance)
        self.augment = augment or move
        self.student = [network]  # in a list, so that it is not among the method's parameters
        self.teacher = EmaTeacher(nn.Sequential(network, network.classify), alpha=0.99, warm_up=True)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The student learns augmented source images, too."""
        student = self.student[0]
        logits = student.classify(student(self.augment(batch["source_images"])))
        return super().forward({**batch, "source_logits": logits})

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Student's and teacher's predictions, and where the teacher is certain."""
        student = self.student[0]
        predictions = student.classify(student(self.augment(batch["target_images"]))).softmax(1)
        taught = self.teacher(self.augment(batch["target_images"])).softmax(1)
        mask = taught.amax(1) > 0.968  # the authors' threshold
        return {"student": predictions, "teacher": taught, "mask": mask, "predictions": predictions}

    def after_step(self, _optimizer: torch.optim.Optimizer) -> None:
        """The teacher follows."""
        self.teacher.update()


def move(images: Tensor) -> Tensor:
    """Shifted by up to a pixel, sheared and scaled a little, each image by itself, with noise."""
    n = len(images)
    theta = torch.eye(2, 3).to(images).expand(n, 2, 3) + 0.1 * torch.randn(n, 2, 3).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return moved + 0.1 * torch.randn_like(moved)


class Discriminative(Halves):
    """ADDA: learn the source for half of the run, then move a copy of the encoder over to the target.

    The source encoder and the classifier stand still in the second half. Both games run in one backward pass: the
    discriminator sees detached features, the encoder a discriminator with detached parameters.
    """

    def __init__(self, network: Network, steps: int, rate: float = 0.01) -> None:
        super().__init__(None, steps)
        self.rate = rate  # in units of the first half's; where it is too much, the classes collapse
        names = ("discriminator, source", "discriminator, target", "encoder")
        self.metrics = MetricCollection({name: AdversarialDiscriminativeLoss() for name in names})
        self.domain_disc = DomainDiscriminator(WIDTH, 64, batch_norm=False)
        self.target_encoder, self.source_encoder = [network], [network]

    def second(self, batch: dict[str, Any]) -> Tensor:
        """The two games, without the source's labels."""
        with torch.no_grad():
            source = self.source_encoder[0](batch["source_images"])
        target = batch["target"]
        frozen = {name: parameter.detach() for name, parameter in self.domain_disc.named_parameters()}
        fooled = torch.func.functional_call(self.domain_disc, frozen, target)
        return (
            0.5 * self.metrics["discriminator, source"](self.domain_disc(source), "source")
            + 0.5 * self.metrics["discriminator, target"](self.domain_disc(target.detach()), "target")
            + self.metrics["encoder"](fooled, "source")
        )

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Halfway, the source encoder stays behind, and the target encoder goes on in small steps."""
        super().after_step(optimizer)
        if self.steps_left == 0:
            self.source_encoder = [copy.deepcopy(self.target_encoder[0])]
            optimizer.param_groups[0]["lr"] *= self.rate


# ---- the rows ---------------------------------------------------------------------------------------------------


def warm(steps: int) -> WarmStartGradientReversalLayer:
    """The schedule of DANN and CDAN, over the whole run."""
    return WarmStartGradientReversalLayer(alpha=10.0, max_iters=steps, auto_step=True)


def dann(steps: int) -> DomainAdversarialLoss:
    """DANN with a small discriminator."""
    return DomainAdversarialLoss(DomainDiscriminator(WIDTH, 64, batch_norm=False), grl=warm(steps))


def cdan(steps: int, *, entropy: bool) -> ConditionalDomainAdversarialLoss:
    """CDAN or CDAN+E with the same discriminator, on the outer product of features and predictions."""
    domain_disc = DomainDiscriminator(WIDTH * CLASSES, 64, batch_norm=False)
    return ConditionalDomainAdversarialLoss(domain_disc, entropy_conditioning=entropy, grl=warm(steps))


# name: (network, steps of the run) -> method
METHODS: dict[str, Callable[[Network, int], Method]] = {
    "source only": lambda _, __: Method(),
    "control": lambda _, __: Method({"MMD": MaximumMeanDiscrepancyLoss()}, MMD=0.0),
    "MMD": lambda _, __: Method({"MMD": MaximumMeanDiscrepancyLoss()}),
    "JMMD": lambda _, __: Joint({"JMMD": JointMaximumMeanDiscrepancyLoss()}),
    "LMMD": lambda _, steps: Growing({"LMMD": LocalMaximumMeanDiscrepancyLoss()}, steps, LMMD=0.5),
    "CORAL": lambda _, __: Method({"CORAL": CorrelationAlignmentLoss()}, CORAL=100.0),
    "CMD": lambda _, __: Method({"CMD": CentralMomentDiscrepancyLoss(bounds=(0.0, 3.0))}, CMD=0.1),
    "Sinkhorn": lambda _, __: Method({"Sinkhorn": SinkhornDivergenceLoss()}, Sinkhorn=0.01),
    "sliced Wasserstein": lambda _, __: Method({"SW": SlicedWassersteinLoss()}),
    "DeepJDOT": lambda _, __: Method({"JDOT": JointDistributionOptimalTransportLoss(feature_weight=0.1)}, JDOT=0.03),
    "AFN": lambda _, __: Method({"AFN": AdaptiveFeatureNormLoss()}, AFN=0.05),
    "DANN": lambda _, steps: Method({"DANN": dann(steps)}),
    "BSP + DANN": lambda _, steps: Method({"DANN": dann(steps), "BSP": BatchSpectralPenalizationLoss()}, BSP=1e-4),
    "CDAN": lambda _, steps: Method({"CDAN": cdan(steps, entropy=False)}),
    "CDAN+E": lambda _, steps: Method({"CDAN+E": cdan(steps, entropy=True)}),
    "DALN": OwnDiscriminator,
    "ADDA": Discriminative,
    "MCD": lambda _, __: ClassifierDiscrepancy(),
    "MDD": lambda _, steps: MarginDisparity(steps),
    "self-ensembling": lambda network, _: SelfEnsembling(network),
    "MCC": lambda _, steps: Predictions(MinimumClassConfusionLoss(), steps),
    "entropy": lambda _, steps: Predictions(EntropyMinimizationLoss(), steps, weight=0.1),
    "information maximisation": lambda _, steps: Predictions(InformationMaximizationLoss(), steps),
    "nuclear norm": lambda _, steps: Predictions(NuclearNormMaximizationLoss(), steps),
    "pseudo labels": PseudoLabels,
    "VADA": Vada,
}
