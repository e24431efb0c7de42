"""Modules that are used with the losses: gradient reversal, discriminators, maps, teachers and heads."""

from adaption.layers.discriminators import DomainDiscriminator, SegmentationDiscriminator
from adaption.layers.ema import EmaTeacher
from adaption.layers.gradient_reversal import (
    GradientReversalLayer,
    WarmStartGradientLayer,
    WarmStartGradientReversalLayer,
)
from adaption.layers.heads import ImageClassifier, ImageClassifierHead, ImageRegressor
from adaption.layers.keypoints import JointsKLLoss, PoseResNet2d, PseudoLabelGenerator2d
from adaption.layers.maps import MultiLinearMap, RandomizedMultiLinearMap

__all__ = [
    "DomainDiscriminator",
    "EmaTeacher",
    "GradientReversalLayer",
    "ImageClassifier",
    "ImageClassifierHead",
    "ImageRegressor",
    "JointsKLLoss",
    "MultiLinearMap",
    "PoseResNet2d",
    "PseudoLabelGenerator2d",
    "RandomizedMultiLinearMap",
    "SegmentationDiscriminator",
    "WarmStartGradientLayer",
    "WarmStartGradientReversalLayer",
]
