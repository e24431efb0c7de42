"""Losses for unsupervised domain adaptation, each one a `torchmetrics.Metric`.

One object is the training loss, ``metric(source, target).backward()``, and the log of the epoch, ``metric.compute()``.
"""

from adaption.adversarial.adda import AdversarialDiscriminativeLoss
from adaption.adversarial.advent import DomainAdversarialEntropyLoss
from adaption.adversarial.cdan import ConditionalDomainAdversarialLoss
from adaption.adversarial.dann import DomainAdversarialLoss
from adaption.features.bsp import BatchSpectralPenalizationLoss
from adaption.features.jmmd import JointMaximumMeanDiscrepancyLoss
from adaption.features.mmd import MaximumMeanDiscrepancyLoss
from adaption.weighting._evaluation import collect_classification_results
from adaption.weighting.iwan import ImportanceWeightModule
from adaption.weighting.pada import AutomaticUpdateClassWeightModule, ClassWeightModule

__version__ = "0.1.0"

__all__ = [
    "AdversarialDiscriminativeLoss",
    "AutomaticUpdateClassWeightModule",
    "BatchSpectralPenalizationLoss",
    "ClassWeightModule",
    "ConditionalDomainAdversarialLoss",
    "DomainAdversarialEntropyLoss",
    "DomainAdversarialLoss",
    "ImportanceWeightModule",
    "JointMaximumMeanDiscrepancyLoss",
    "MaximumMeanDiscrepancyLoss",
    "collect_classification_results",
]
