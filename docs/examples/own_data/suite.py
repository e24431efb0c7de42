"""The losses to try, one line each: their inputs, their weight, and when they start.

The weights work well on other data; the command also tries larger and smaller ones. A schedule lasts for the whole
run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from adaption import (
    ClassificationMarginDisparityDiscrepancy,
    ConditionalDomainAdversarialLoss,
    CorrelationAlignmentLoss,
    DomainAdversarialLoss,
    InverseGramAlignmentLoss,
    L2ConsistencyLoss,
    MaximumMeanDiscrepancyLoss,
    MinimumClassConfusionLoss,
    RegressionMarginDisparityDiscrepancy,
    SinkhornDivergenceLoss,
)
from adaption.layers import DomainDiscriminator, EmaTeacher, WarmStartGradientReversalLayer
from own_data.files import Data
from own_data.networks import Network

SOURCE_ONLY, CONTROL = "source only", "control"


class Batch(NamedTuple):
    """The data of both domains in a step; outputs are logits, or values of a regression."""

    labels: Tensor
    target: Tensor
    source_features: Tensor
    target_features: Tensor
    source_outputs: Tensor
    target_outputs: Tensor


class Added(nn.Module):
    """A weighted metric, added to the loss after a given share of the run."""

    def __init__(
        self, metric: Metric, see: Callable[[Batch], tuple[Any, ...]], weight: float = 1.0, begin: float = 0.0
    ) -> None:
        super().__init__()
        self.metric, self.see, self.weight, self.begin = metric, see, weight, begin

    def forward(self, batch: Batch, progress: float) -> Tensor | float:
        """The term added to the task loss; `progress` goes from 0 to 1 over the run."""
        return self.weight * self.metric(*self.see(batch)) if progress >= self.begin else 0.0

    def after_step(self) -> None:
        """Run after the optimizer's step."""


class Margin(Added):
    """MDD: a second head, after a reversal, learns to disagree with the first on the target. Its value is negated."""

    def __init__(self, metric: Metric, width: int, outputs: int, steps: int) -> None:
        super().__init__(metric, self.outputs, weight=-1.0)
        self.reversal = WarmStartGradientReversalLayer(alpha=1.0, hi=0.1, max_iters=steps, auto_step=True)
        self.head = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, outputs))

    def outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Outputs of both heads on both domains."""
        both = torch.cat([batch.source_features, batch.target_features])
        source, target = self.head(self.reversal(both)).tensor_split([len(batch.source_features)])
        return batch.source_outputs, source, batch.target_outputs, target


class SelfEnsembling(Added):
    """A teacher, the moving average of the network, predicts differently augmented target images."""

    def __init__(self, network: Network) -> None:
        super().__init__(L2ConsistencyLoss(), self.predictions)
        self.student = [network]  # in a list, so that it is not among the parameters
        self.teacher = EmaTeacher(network, alpha=0.99, warm_up=True)

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of student and teacher, and a mask where the teacher is confident."""
        student = self.student[0](moved(batch.target)).softmax(1)
        teacher = self.teacher(moved(batch.target)).softmax(1)
        return student, teacher, teacher.amax(1) > 0.968  # the authors' threshold

    def after_step(self) -> None:
        """Update the teacher."""
        self.teacher.update()


def moved(images: Tensor) -> Tensor:
    """Shift, shear and scale each image a little, and add noise."""
    n = len(images)
    theta = torch.eye(2, 3).expand(n, 2, 3) + 0.1 * torch.randn(n, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return images + 0.1 * torch.randn_like(images)


def features(batch: Batch) -> tuple[Tensor, Tensor]:
    """Features of both domains."""
    return batch.source_features, batch.target_features


def conditional(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits and features of both domains."""
    return batch.source_outputs, batch.source_features, batch.target_outputs, batch.target_features


def target_outputs(batch: Batch) -> tuple[Tensor]:
    """Logits of the target."""
    return (batch.target_outputs,)


def warm(steps: int) -> WarmStartGradientReversalLayer:
    """DANN's reversal schedule."""
    return WarmStartGradientReversalLayer(alpha=10.0, max_iters=steps, auto_step=True)


def discriminator(width: int) -> DomainDiscriminator:
    """A small discriminator."""
    return DomainDiscriminator(width, 64, batch_norm=False)


def mmd(weight: float = 1.0) -> Added:
    """MMD of the features."""
    return Added(MaximumMeanDiscrepancyLoss(), features, weight)


def dann(width: int, steps: int) -> Added:
    """DANN of the features."""
    return Added(DomainAdversarialLoss(discriminator(width), grl=warm(steps)), features)


def cdan(width: int, classes: int, steps: int) -> Added:
    """CDAN+E, with a random map if there are many classes."""
    wide = width * classes > 4096
    loss = ConditionalDomainAdversarialLoss(
        discriminator(1024 if wide else width * classes),
        entropy_conditioning=True,
        randomized=wide,
        num_classes=classes if wide else None,
        features_dim=width if wide else None,
        randomized_dim=1024,
        grl=warm(steps),
    )
    return Added(loss, conditional)


Make = Callable[[Network, int, int], Added | None]  # (network, width of its features, steps of the run)


def suite(data: Data) -> dict[str, Make]:
    """The losses for these data, baselines first."""
    rows: dict[str, Make] = {
        SOURCE_ONLY: lambda *_: None,
        CONTROL: lambda *_: mmd(0.0),
        "DANN": lambda _, width, steps: dann(width, steps),
    }
    classes = len(data.classes)
    if not classes:
        disparity = RegressionMarginDisparityDiscrepancy
        return {
            **rows,
            "MMD": lambda *_: mmd(3.0),
            "CORAL": lambda *_: Added(CorrelationAlignmentLoss(), features, 100.0),
            "Sinkhorn": lambda *_: Added(SinkhornDivergenceLoss(), features),
            "DARE-GRAM": lambda *_: Added(InverseGramAlignmentLoss(), features),
            "MDD": lambda _, width, steps: Margin(disparity(), width, 1, steps),
        }
    rows |= {
        "MMD": lambda *_: mmd(),
        "CORAL": lambda *_: Added(CorrelationAlignmentLoss(), features, 100.0),
        "CDAN+E": lambda _, width, steps: cdan(width, classes, steps),
        "MDD": lambda _, width, steps: Margin(
            ClassificationMarginDisparityDiscrepancy(margin=4.0), width, classes, steps
        ),
        "MCC": lambda *_: Added(MinimumClassConfusionLoss(), target_outputs, begin=0.5),
    }
    if data.kind == "images":
        rows["self-ensembling"] = lambda network, *_: SelfEnsembling(network)
    return rows
