"""Losses for unsupervised domain adaptation, each one a `torchmetrics.Metric`.

One object is the training loss, ``metric(source, target).backward()``, and the log of the epoch, ``metric.compute()``.
What each loss is based on::

    MMD        MaximumMeanDiscrepancyLoss                kernel means of the features
    JMMD       JointMaximumMeanDiscrepancyLoss           the same for several layers together
    CORAL      CorrelationAlignmentLoss                  covariances of the features
    CMD        CentralMomentDiscrepancyLoss              central moments of the features, one by one
    HoMM       HigherOrderMomentMatchingLoss             moments of third or higher order
    Frechet    FrechetDistanceLoss                       means and covariances, as in the FID
    SW         SlicedWassersteinLoss                     optimal transport along random directions
    Sinkhorn   SinkhornDivergenceLoss                    optimal transport with entropic regularisation
    AFN        AdaptiveFeatureNormLoss                   norms of the features, which it increases
    BSP        BatchSpectralPenalizationLoss             the largest singular values; with DANN or CDAN
    DARE-GRAM  InverseGramAlignmentLoss                  inverse Gram matrices; for regression
    RSD        RepresentationSubspaceDistanceLoss        angles between subspaces; for regression
    LMMD       LocalMaximumMeanDiscrepancyLoss           kernel means class by class (DSAN)
    CDD        ContrastiveDomainDiscrepancyLoss          the same, and different classes apart (CAN)
    JDOT       JointDistributionOptimalTransportLoss     transport of features and labels (DeepJDOT)
    DANN       DomainAdversarialLoss                     a discriminator of the features
    CDAN       ConditionalDomainAdversarialLoss          a discriminator of features and predictions
    ADDA       AdversarialDiscriminativeLoss             a target encoder against a fixed source encoder
    ADVENT     DomainAdversarialEntropyLoss              a discriminator of entropy maps; for segmentation
    DALN       NuclearWassersteinDiscrepancyLoss         the classifier itself as the critic
    WDGRL      WassersteinDomainLoss                     a critic with a gradient penalty
    MCD        ClassifierDiscrepancyLoss                 two classifiers that disagree on the target
    MCD        MarginalEntropyLoss                       its second term, for balanced predictions
    MDD        ClassificationMarginDisparityDiscrepancy  an adversarial head, for classes
    MDD        RegressionMarginDisparityDiscrepancy      the same for regression
    MDD        MarginDisparityDiscrepancy                the same with disparities of your choice
    RegDA      RegressionDisparity                       an adversarial head, for keypoints
    MCC        MinimumClassConfusionLoss                 classes that the predictions confuse
    EM         EntropyMinimizationLoss                   certain predictions
    IM         InformationMaximizationLoss               certain predictions of all classes (SHOT)
    BNM        NuclearNormMaximizationLoss               the same by the nuclear norm
    PL         PseudoLabelLoss                           confident predictions as labels
    OSBP       UnknownClassBinaryCrossEntropy            open sets: an output for unknown classes
    DANCE      EntropySeparationLoss                     open sets: known or unknown by the entropy
    OVANet     OneVersusAllLoss                          open sets: one classifier for each class
    OVANet     OpenSetEntropyLoss                        its entropy on the target
    SE         ConsistencyLoss                           a student and its teacher (self-ensembling)
    SE         L2ConsistencyLoss                         the same by squared distances
    SE         ClassBalanceLoss                          its second term, against a collapse
    VAT        VirtualAdversarialLoss                    predictions that do not change nearby
    IIC        MutualInformationLoss                     mutual information of two predictions
    PADA       ClassWeightModule                         partial sets: weights of classes
    PADA       AutomaticUpdateClassWeightModule          the same, updated during training
    IWAN       ImportanceWeightModule                    partial sets: weights of samples
    BBSE       LabelShiftWeights                         weights where class proportions differ
    MMD test   MaximumMeanDiscrepancyTest                distance of the domains, with a p-value
    -          DomainAccuracy                            how often a discriminator is right
    PAD        ProxyADistance                            the same as a distance
    IWV        ImportanceWeightedValidation              the risk on the target, from source losses
    DEV        DeepEmbeddedValidation                    the same with less variance
    -          EnsembleAgreement                         a score of a model: agreement with others
    SND        SoftNeighborhoodDensity                   a score of a model: density of predictions

The formulas are in `adaption.functional`, networks and their parts in `adaption.layers`.
"""

from typing import TYPE_CHECKING

from adaption import _names
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

if not TYPE_CHECKING:  # a type checker is to find the names there are, and no others
    __getattr__ = _names.unknown(__name__, __doc__ or "", __all__)

    def __dir__() -> list[str]:
        return sorted([*__all__, "__version__", "functional", "layers"])
