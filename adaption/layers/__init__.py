"""Plain modules that the losses are used with: gradient reversal, discriminators, maps, teachers and heads."""

from adaption.layers.discriminators import DomainDiscriminator, SegmentationDiscriminator
from adaption.layers.gradient_reversal import (
    GradientReversalLayer,
    WarmStartGradientLayer,
    WarmStartGradientReversalLayer,
)
from adaption.layers.maps import MultiLinearMap, RandomizedMultiLinearMap

__all__ = [
    "DomainDiscriminator",
    "GradientReversalLayer",
    "MultiLinearMap",
    "RandomizedMultiLinearMap",
    "SegmentationDiscriminator",
    "WarmStartGradientLayer",
    "WarmStartGradientReversalLayer",
]
