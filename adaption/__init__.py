"""Losses for unsupervised domain adaptation, each one a `torchmetrics.Metric`.

One object is the training loss, ``metric(source, target).backward()``, and the log of the epoch, ``metric.compute()``.
"""

from adaption import functional as functional  # all three doors are open after `import adaption`
from adaption import layers as layers
from adaption.adversarial.adda import AdversarialDiscriminativeLoss
from adaption.adversarial.advent import DomainAdversarialEntropyLoss
from adaption.adversarial.cdan import ConditionalDomainAdversarialLoss
from adaption.adversarial.dann import DomainAdversarialLoss
from adaption.adversarial.nuclear_wasserstein import NuclearWassersteinDiscrepancyLoss
from adaption.adversarial.wasserstein import WassersteinDomainLoss
from adaption.conditional.cdd import ContrastiveDomainDiscrepancyLoss
from adaption.conditional.jdot import JointDistributionOptimalTransportLoss
from adaption.conditional.lmmd import LocalMaximumMeanDiscrepancyLoss
from adaption.distance.domain_accuracy import DomainAccuracy, ProxyADistance
from adaption.distance.mmd_test import MaximumMeanDiscrepancyTest
from adaption.ensemble.class_balance import ClassBalanceLoss
from adaption.ensemble.consistency import ConsistencyLoss, L2ConsistencyLoss
from adaption.ensemble.mutual_information import MutualInformationLoss
from adaption.ensemble.vat import VirtualAdversarialLoss
from adaption.features.bsp import BatchSpectralPenalizationLoss
from adaption.features.cmd import CentralMomentDiscrepancyLoss
from adaption.features.coral import CorrelationAlignmentLoss
from adaption.features.feature_norm import AdaptiveFeatureNormLoss
from adaption.features.frechet import FrechetDistanceLoss
from adaption.features.homm import HigherOrderMomentMatchingLoss
from adaption.features.inverse_gram import InverseGramAlignmentLoss
from adaption.features.jmmd import JointMaximumMeanDiscrepancyLoss
from adaption.features.mmd import MaximumMeanDiscrepancyLoss
from adaption.features.sinkhorn import SinkhornDivergenceLoss
from adaption.features.sliced_wasserstein import SlicedWassersteinLoss
from adaption.features.subspace import RepresentationSubspaceDistanceLoss
from adaption.hypothesis.mcd import ClassifierDiscrepancyLoss, MarginalEntropyLoss
from adaption.hypothesis.mdd import (
    ClassificationMarginDisparityDiscrepancy,
    MarginDisparityDiscrepancy,
    RegressionMarginDisparityDiscrepancy,
)
from adaption.hypothesis.regda import RegressionDisparity
from adaption.predictions.entropy import EntropyMinimizationLoss
from adaption.predictions.entropy_separation import EntropySeparationLoss
from adaption.predictions.information import InformationMaximizationLoss
from adaption.predictions.mcc import MinimumClassConfusionLoss
from adaption.predictions.nuclear_norm import NuclearNormMaximizationLoss
from adaption.predictions.one_versus_all import OneVersusAllLoss, OpenSetEntropyLoss
from adaption.predictions.osbp import UnknownClassBinaryCrossEntropy
from adaption.predictions.pseudo_label import PseudoLabelLoss
from adaption.selection.agreement import EnsembleAgreement
from adaption.selection.importance import DeepEmbeddedValidation, ImportanceWeightedValidation
from adaption.selection.neighborhood import SoftNeighborhoodDensity
from adaption.weighting._evaluation import collect_classification_results
from adaption.weighting.iwan import ImportanceWeightModule
from adaption.weighting.label_shift import LabelShiftWeights
from adaption.weighting.pada import AutomaticUpdateClassWeightModule, ClassWeightModule

__version__ = "0.1.0"

__all__ = [
    "AdaptiveFeatureNormLoss",
    "AdversarialDiscriminativeLoss",
    "AutomaticUpdateClassWeightModule",
    "BatchSpectralPenalizationLoss",
    "CentralMomentDiscrepancyLoss",
    "ClassBalanceLoss",
    "ClassWeightModule",
    "ClassificationMarginDisparityDiscrepancy",
    "ClassifierDiscrepancyLoss",
    "ConditionalDomainAdversarialLoss",
    "ConsistencyLoss",
    "ContrastiveDomainDiscrepancyLoss",
    "CorrelationAlignmentLoss",
    "DeepEmbeddedValidation",
    "DomainAccuracy",
    "DomainAdversarialEntropyLoss",
    "DomainAdversarialLoss",
    "EnsembleAgreement",
    "EntropyMinimizationLoss",
    "EntropySeparationLoss",
    "FrechetDistanceLoss",
    "HigherOrderMomentMatchingLoss",
    "ImportanceWeightModule",
    "ImportanceWeightedValidation",
    "InformationMaximizationLoss",
    "InverseGramAlignmentLoss",
    "JointDistributionOptimalTransportLoss",
    "JointMaximumMeanDiscrepancyLoss",
    "L2ConsistencyLoss",
    "LabelShiftWeights",
    "LocalMaximumMeanDiscrepancyLoss",
    "MarginDisparityDiscrepancy",
    "MarginalEntropyLoss",
    "MaximumMeanDiscrepancyLoss",
    "MaximumMeanDiscrepancyTest",
    "MinimumClassConfusionLoss",
    "MutualInformationLoss",
    "NuclearNormMaximizationLoss",
    "NuclearWassersteinDiscrepancyLoss",
    "OneVersusAllLoss",
    "OpenSetEntropyLoss",
    "ProxyADistance",
    "PseudoLabelLoss",
    "RegressionDisparity",
    "RegressionMarginDisparityDiscrepancy",
    "RepresentationSubspaceDistanceLoss",
    "SinkhornDivergenceLoss",
    "SlicedWassersteinLoss",
    "SoftNeighborhoodDensity",
    "UnknownClassBinaryCrossEntropy",
    "VirtualAdversarialLoss",
    "WassersteinDomainLoss",
    "collect_classification_results",
]
