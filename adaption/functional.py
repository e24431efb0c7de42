"""The losses as pure functions: no state, no modules, clean under ``torch.compile(fullgraph=True)``."""

from adaption.adversarial.adda import adversarial_discriminative_loss
from adaption.adversarial.advent import entropy_map
from adaption.adversarial.cdan import conditional_domain_adversarial_loss
from adaption.adversarial.dann import domain_adversarial_loss
from adaption.features.bsp import batch_spectral_penalization
from adaption.features.jmmd import joint_maximum_mean_discrepancy
from adaption.features.mmd import maximum_mean_discrepancy, median_bandwidth
from adaption.layers.gradient_reversal import gradient_reversal
from adaption.weighting.pada import class_weights

__all__ = [
    "adversarial_discriminative_loss",
    "batch_spectral_penalization",
    "class_weights",
    "conditional_domain_adversarial_loss",
    "domain_adversarial_loss",
    "entropy_map",
    "gradient_reversal",
    "joint_maximum_mean_discrepancy",
    "maximum_mean_discrepancy",
    "median_bandwidth",
]
