"""Plain modules that the losses are used with: gradient reversal, discriminators, maps, teachers and heads."""

from adaption.layers.discriminators import DomainDiscriminator
from adaption.layers.gradient_reversal import (
    GradientReversalLayer,
    WarmStartGradientLayer,
    WarmStartGradientReversalLayer,
)

__all__ = [
    "DomainDiscriminator",
    "GradientReversalLayer",
    "WarmStartGradientLayer",
    "WarmStartGradientReversalLayer",
]
