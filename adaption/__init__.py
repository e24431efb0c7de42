"""Losses for unsupervised domain adaptation, each one a `torchmetrics.Metric`.

One object is the training loss, ``metric(source, target).backward()``, and the log of the epoch, ``metric.compute()``.
"""

from adaption.adversarial.dann import DomainAdversarialLoss
from adaption.ensemble.class_balance import ClassBalanceLoss
from adaption.ensemble.consistency import ConsistencyLoss, L2ConsistencyLoss
from adaption.features.bsp import BatchSpectralPenalizationLoss
from adaption.features.jmmd import JointMaximumMeanDiscrepancyLoss
from adaption.features.mmd import MaximumMeanDiscrepancyLoss
from adaption.hypothesis.mcd import ClassifierDiscrepancyLoss, MarginalEntropyLoss
from adaption.hypothesis.mdd import (
    ClassificationMarginDisparityDiscrepancy,
    MarginDisparityDiscrepancy,
    RegressionMarginDisparityDiscrepancy,
)
from adaption.hypothesis.osbp import UnknownClassBinaryCrossEntropy
from adaption.hypothesis.regda import RegressionDisparity

__version__ = "0.1.0"

__all__ = [
    "BatchSpectralPenalizationLoss",
    "ClassBalanceLoss",
    "ClassificationMarginDisparityDiscrepancy",
    "ClassifierDiscrepancyLoss",
    "ConsistencyLoss",
    "DomainAdversarialLoss",
    "JointMaximumMeanDiscrepancyLoss",
    "L2ConsistencyLoss",
    "MarginDisparityDiscrepancy",
    "MarginalEntropyLoss",
    "MaximumMeanDiscrepancyLoss",
    "RegressionDisparity",
    "RegressionMarginDisparityDiscrepancy",
    "UnknownClassBinaryCrossEntropy",
]
