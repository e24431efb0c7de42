"""Plain modules that the losses are used with: gradient reversal, discriminators, maps, teachers and heads."""

from adaption.layers.discriminators import DomainDiscriminator
from adaption.layers.ema import EmaTeacher
from adaption.layers.gradient_reversal import (
    GradientReversalLayer,
    WarmStartGradientLayer,
    WarmStartGradientReversalLayer,
)
from adaption.layers.heads import ImageClassifier, ImageClassifierHead, ImageRegressor
from adaption.layers.keypoints import JointsKLLoss, PoseResNet2d, PseudoLabelGenerator2d

__all__ = [
    "DomainDiscriminator",
    "EmaTeacher",
    "GradientReversalLayer",
    "ImageClassifier",
    "ImageClassifierHead",
    "ImageRegressor",
    "JointsKLLoss",
    "PoseResNet2d",
    "PseudoLabelGenerator2d",
    "WarmStartGradientLayer",
    "WarmStartGradientReversalLayer",
]
