"""The losses as pure functions: no state, no modules, clean under ``torch.compile(fullgraph=True)``."""

from adaption.adversarial.dann import domain_adversarial_loss
from adaption.features.bsp import batch_spectral_penalization
from adaption.features.jmmd import joint_maximum_mean_discrepancy
from adaption.features.mmd import maximum_mean_discrepancy, median_bandwidth
from adaption.layers.gradient_reversal import gradient_reversal

__all__ = [
    "batch_spectral_penalization",
    "domain_adversarial_loss",
    "gradient_reversal",
    "joint_maximum_mean_discrepancy",
    "maximum_mean_discrepancy",
    "median_bandwidth",
]
