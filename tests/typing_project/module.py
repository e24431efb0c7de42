"""Metrics as attributes of a Module."""

from __future__ import annotations

from typing import NamedTuple, assert_type

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from adaption import DomainAdversarialLoss, L2ConsistencyLoss
from adaption.layers import DomainDiscriminator, EmaTeacher, ImageClassifierHead


class Step(NamedTuple):
    """What one batch gives."""

    loss: Tensor
    logits: Tensor


class Model(nn.Module):
    """A network that is trained with DANN and a teacher."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.extractor = nn.Linear(4, width)
        self.head = ImageClassifierHead(width, num_classes, bottleneck_dim=width)
        self.dann = DomainAdversarialLoss(DomainDiscriminator(width, width))
        self.consistency = L2ConsistencyLoss(reduction="mean")
        self.teacher = EmaTeacher(self.head, alpha=0.99)

    def forward(self, source: Tensor, target: Tensor) -> Step:
        """Return the adaptation losses of a batch, and the logits of the source."""
        source_features: Tensor = self.extractor(source)
        target_features: Tensor = self.extractor(target)
        student: Tensor = self.head(target_features).softmax(1)
        teacher: Tensor = self.teacher(target_features).softmax(1)
        loss = self.dann(source_features, target_features) + self.consistency(student, teacher)
        return Step(assert_type(loss, Tensor), self.head(source_features))

    def epoch(self) -> dict[str, float]:
        """Return the log of the epoch."""
        return {"dann": self.dann.compute().item(), "consistency": self.consistency.compute().item()}


def log(model: Model) -> list[str]:
    """Name what the library shares with torchmetrics."""
    metrics: list[Metric] = [model.dann, model.consistency]
    collection = MetricCollection({"dann": model.dann})
    assert_type(model.dann.num_ignored, Tensor)
    assert_type(model.dann.device, torch.device)
    return [type(metric).__name__ for metric in metrics] + [str(name) for name in collection]
