"""Losses for unsupervised domain adaptation, each one a `torchmetrics.Metric`.

One object is the training loss, ``metric(source, target).backward()``, and the log of the epoch, ``metric.compute()``.
"""

from adaption.adversarial.dann import DomainAdversarialLoss
from adaption.features.bsp import BatchSpectralPenalizationLoss
from adaption.features.jmmd import JointMaximumMeanDiscrepancyLoss
from adaption.features.mmd import MaximumMeanDiscrepancyLoss

__version__ = "0.1.0"

__all__ = [
    "BatchSpectralPenalizationLoss",
    "DomainAdversarialLoss",
    "JointMaximumMeanDiscrepancyLoss",
    "MaximumMeanDiscrepancyLoss",
]
