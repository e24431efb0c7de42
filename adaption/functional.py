"""The losses as pure functions: no state, no modules, and they compile with ``torch.compile(fullgraph=True)``."""

from adaption.adversarial.adda import adversarial_discriminative_loss
from adaption.adversarial.advent import entropy_map
from adaption.adversarial.cdan import conditional_domain_adversarial_loss
from adaption.adversarial.dann import domain_adversarial_loss
from adaption.adversarial.nuclear_wasserstein import nuclear_wasserstein_discrepancy
from adaption.conditional.cdd import contrastive_domain_discrepancy
from adaption.conditional.jdot import joint_distribution_optimal_transport
from adaption.conditional.lmmd import local_maximum_mean_discrepancy
from adaption.ensemble.class_balance import class_balance_loss
from adaption.ensemble.consistency import consistency_loss, l2_consistency_loss
from adaption.ensemble.mutual_information import mutual_information
from adaption.features.bsp import batch_spectral_penalization
from adaption.features.cmd import central_moment_discrepancy
from adaption.features.coral import correlation_alignment
from adaption.features.feature_norm import adaptive_feature_norm
from adaption.features.frechet import frechet_distance
from adaption.features.homm import higher_order_moment_matching
from adaption.features.inverse_gram import inverse_gram_alignment
from adaption.features.jmmd import joint_maximum_mean_discrepancy
from adaption.features.mmd import maximum_mean_discrepancy, median_bandwidth
from adaption.features.sinkhorn import sinkhorn_divergence
from adaption.features.sliced_wasserstein import sliced_wasserstein
from adaption.features.subspace import representation_subspace_distance
from adaption.hypothesis.mcd import classifier_discrepancy, marginal_entropy
from adaption.hypothesis.mdd import (
    classification_margin_disparity_discrepancy,
    margin_disparity_discrepancy,
    regression_margin_disparity_discrepancy,
    shift_log,
)
from adaption.hypothesis.regda import regression_disparity
from adaption.layers.gradient_reversal import gradient_reversal
from adaption.predictions.entropy import entropy_minimization
from adaption.predictions.entropy_separation import entropy_separation
from adaption.predictions.information import information_maximization
from adaption.predictions.mcc import minimum_class_confusion
from adaption.predictions.nuclear_norm import nuclear_norm_maximization
from adaption.predictions.one_versus_all import one_versus_all, open_set_entropy
from adaption.predictions.osbp import unknown_class_binary_cross_entropy
from adaption.predictions.pseudo_label import pseudo_label_loss
from adaption.selection.importance import density_ratio
from adaption.weighting.label_shift import label_shift_weights
from adaption.weighting.pada import class_weights

__all__ = [
    "adaptive_feature_norm",
    "adversarial_discriminative_loss",
    "batch_spectral_penalization",
    "central_moment_discrepancy",
    "class_balance_loss",
    "class_weights",
    "classification_margin_disparity_discrepancy",
    "classifier_discrepancy",
    "conditional_domain_adversarial_loss",
    "consistency_loss",
    "contrastive_domain_discrepancy",
    "correlation_alignment",
    "density_ratio",
    "domain_adversarial_loss",
    "entropy_map",
    "entropy_minimization",
    "entropy_separation",
    "frechet_distance",
    "gradient_reversal",
    "higher_order_moment_matching",
    "information_maximization",
    "inverse_gram_alignment",
    "joint_distribution_optimal_transport",
    "joint_maximum_mean_discrepancy",
    "l2_consistency_loss",
    "label_shift_weights",
    "local_maximum_mean_discrepancy",
    "margin_disparity_discrepancy",
    "marginal_entropy",
    "maximum_mean_discrepancy",
    "median_bandwidth",
    "minimum_class_confusion",
    "mutual_information",
    "nuclear_norm_maximization",
    "nuclear_wasserstein_discrepancy",
    "one_versus_all",
    "open_set_entropy",
    "pseudo_label_loss",
    "regression_disparity",
    "regression_margin_disparity_discrepancy",
    "representation_subspace_distance",
    "shift_log",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "unknown_class_binary_cross_entropy",
]
