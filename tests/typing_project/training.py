"""A training loop with metrics, as a user writes it; `nox -s types` checks it against the installed package."""

from __future__ import annotations

from typing import assert_type

import torch
from torch import Tensor, nn

import adaption
from adaption import (
    ClassificationMarginDisparityDiscrepancy,
    ConditionalDomainAdversarialLoss,
    DomainAdversarialLoss,
    JointMaximumMeanDiscrepancyLoss,
    MaximumMeanDiscrepancyLoss,
)
from adaption.layers import DomainDiscriminator, WarmStartGradientReversalLayer

FEATURES, CLASSES = 8, 3


def losses(source: Tensor, target: Tensor, logits: Tensor) -> list[Tensor]:
    """Each loss of a step, by its own way to be called."""
    mmd = MaximumMeanDiscrepancyLoss(bandwidth="mean", estimator="biased", nan_strategy="warn")
    jmmd = JointMaximumMeanDiscrepancyLoss(num_kernels=2, thetas=[nn.Linear(FEATURES, 4), nn.Identity()])
    dann = DomainAdversarialLoss(DomainDiscriminator(FEATURES, 16), grl=WarmStartGradientReversalLayer(auto_step=True))
    by_function = DomainAdversarialLoss(lambda features: features.sum(1))
    cdan = ConditionalDomainAdversarialLoss(
        DomainDiscriminator(16, 8), randomized=True, num_classes=CLASSES, features_dim=FEATURES, randomized_dim=16
    )
    mdd = ClassificationMarginDisparityDiscrepancy(margin=2)
    return [
        assert_type(mmd(source, target, source_weights=torch.ones(len(source))), Tensor),
        assert_type(jmmd([source, logits], [target, logits]), Tensor),
        assert_type(dann(source, target), Tensor),
        assert_type(by_function(source=source, target=target), Tensor),
        assert_type(cdan(logits, source, logits, target), Tensor),
        assert_type(-mdd(logits, logits, logits, logits), Tensor),
    ]


def evidence(source: Tensor, target: Tensor) -> dict[str, Tensor]:
    """A metric whose value is a dict of scalars."""
    test = adaption.MaximumMeanDiscrepancyTest(pooled=True)
    assert_type(test(source, target_features=target), dict[str, Tensor])
    return assert_type(test.compute(), dict[str, Tensor])


def train(epochs: int = 1) -> list[float]:
    """Return the domain distance of each epoch."""
    extractor, classifier = nn.Linear(4, FEATURES), nn.Linear(FEATURES, CLASSES)
    metric = adaption.MaximumMeanDiscrepancyLoss()
    optimizer = torch.optim.Adam([*extractor.parameters(), *classifier.parameters(), *metric.parameters()])
    distances: list[float] = []
    for _ in range(epochs):
        source: Tensor = extractor(torch.randn(6, 4))
        target: Tensor = extractor(torch.randn(6, 4))
        task = nn.functional.cross_entropy(classifier(source), torch.randint(CLASSES, (6,)))
        adaptation = metric(source, target)
        loss = task + adaptation
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_type(metric.update(source.detach(), target.detach()), None)
        distances.append(float(assert_type(metric.compute(), Tensor)))
        metric.reset()
    teacher = assert_type(adaption.layers.EmaTeacher(extractor, alpha=0.9), adaption.layers.EmaTeacher)
    teacher.update()
    return distances
