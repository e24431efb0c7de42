"""Which tests answer for which module.

The rows of the laws are chosen by the name of the loss; a file of tests is taken whole. The first to fail ends a run,
so what fails most often stands first.
"""

from __future__ import annotations

from pathlib import Path

LAWS = (
    "test_gradients.py",
    "test_contract.py",
    "engines/test_torchmetrics.py",
    "test_precision.py",
    "property/test_hostile.py",
)

ENGINE = ("features/test_engine.py", "features/test_mmd.py", "features/test_jmmd.py", "property/test_awkward.py")

# module: files under tests/, and what names the rows of the laws
SUITES: dict[str, tuple[tuple[str, ...], str]] = {
    "_checks.py": (("property/test_hostile.py", "hypothesis_family", "predictions", "layers", "adversarial"), ""),
    "_closed_form.py": (
        (*ENGINE, "features/test_bsp.py", "machinery/test_shortcuts.py", "predictions/test_entropy.py"),
        "BSP or entropy or MDD",
    ),
    "_directions.py": (("features/test_sliced_wasserstein.py", "ensemble/test_vat.py"), ""),
    "_dense.py": (ENGINE, ""),
    "_distances.py": (ENGINE, ""),
    "_distributed.py": (("distributed", "machinery/test_joining.py"), ""),
    "_draws.py": (("machinery/test_draws.py", "features/test_sliced_wasserstein.py"), "liced or WDGRL"),
    "_global_batch.py": (("distributed/test_gather.py", "distributed/test_gradients.py"), ""),
    "_host.py": (("machinery/test_mapped.py", "machinery/test_waiting.py", "predictions/test_entropy.py"), ""),
    "_kernels.py": ((*ENGINE, "distance/test_mmd_test.py", "conditional/test_cdd.py"), ""),
    "_median.py": (ENGINE, ""),
    "_metric.py": (
        ("test_nan_strategy.py", "engines/test_loading.py", "engines/test_torchmetrics.py", "machinery"),
        "L2 or (DANN and none) or (MMD and pooled) or entropy or two-sample",
    ),
    "_modes.py": (("machinery/test_mapped.py", "machinery/test_own_memory.py"), ""),
    "_names.py": (("test_surface.py",), ""),
    "_nuclear_norm.py": (
        ("predictions/test_nuclear_norm.py", "adversarial/test_nuclear_wasserstein.py"),
        "uclear or DALN",
    ),
    "_settings.py": (("machinery/test_settings.py", "machinery/test_joining.py"), ""),
    "_signature.py": (("machinery/test_calls.py",), ""),
    "_states.py": (
        ("machinery", "engines/test_loading.py", "engines/test_torchmetrics.py"),
        "L2 or (DANN and none) or (MMD and pooled) or entropy or two-sample",
    ),
    "_passes.py": (
        ("ensemble/test_vat.py", "adversarial/test_discriminator.py", "adversarial/test_adda.py"),
        "VAT or DANN",
    ),
    "_precision.py": (("hypothesis_family/test_mdd.py", "machinery"), "L2 or DANN or OSBP or MDD or entropy"),
    "_reduction.py": (("hypothesis_family/test_mdd.py", "ensemble"), "DANN or L2 or MDD or consistency"),
    "_queued.py": (ENGINE, ""),
    "_spectrum.py": (
        (
            "features/test_bsp.py",
            "features/test_decompositions.py",
            "features/test_inverse_gram.py",
            "features/test_subspace.py",
        ),
        "BSP or DARE-GRAM or RSD",
    ),
    "_transport.py": (("features/test_sinkhorn.py", "conditional/test_jdot.py"), "Sinkhorn or JDOT"),
    "_unmoved.py": (("machinery/test_modules_inside.py",), "DANN"),
    "adversarial/_discriminator.py": (("adversarial",), "DANN or ADDA"),
    "adversarial/_entropy.py": (("adversarial/test_advent.py", "adversarial/test_cdan.py"), "ADVENT or CDAN"),
    "adversarial/adda.py": (("adversarial/test_adda.py",), "ADDA or adversarial_discriminative"),
    "adversarial/advent.py": (("adversarial/test_advent.py",), "ADVENT or DomainAdversarialEntropy or entropy_map"),
    "adversarial/cdan.py": (("adversarial/test_cdan.py",), "CDAN or ConditionalDomain or conditional_domain"),
    "adversarial/dann.py": (("adversarial/test_dann.py",), "DANN or DomainAdversarialLoss or domain_adversarial"),
    "adversarial/nuclear_wasserstein.py": (
        ("adversarial/test_nuclear_wasserstein.py",),
        "DALN or nuclear_wasserstein or NuclearWasserstein",
    ),
    "adversarial/wasserstein.py": (("adversarial/test_wasserstein.py",), "WDGRL or WassersteinDomain"),
    "conditional/_classes.py": (("conditional",), "LMMD or CDD"),
    "conditional/cdd.py": (("conditional/test_cdd.py",), "CDD or contrastive or Contrastive"),
    "conditional/jdot.py": (("conditional/test_jdot.py",), "JDOT or joint_dist or JointDist"),
    "conditional/lmmd.py": (("conditional/test_lmmd.py",), "LMMD or local_max or LocalMax"),
    "distance/domain_accuracy.py": (
        ("distance/test_domain_accuracy.py",),
        "accuracy or DomainAcc or A-distance or ProxyA",
    ),
    "distance/_quantiles.py": (("distance/test_mmd_test.py",), ""),
    "distance/mmd_test.py": (("distance/test_mmd_test.py",), "two-sample or MaximumMeanDiscrepancyTest"),
    "ensemble/class_balance.py": (("ensemble/test_class_balance.py",), "balance"),
    "ensemble/consistency.py": (("ensemble/test_consistency.py",), "onsistency"),
    "features/_random_features.py": (("features/test_random_features.py",), "random and features"),
    "ensemble/vat.py": (("ensemble/test_vat.py",), "VAT or irtual"),
    "ensemble/mutual_information.py": (("ensemble/test_mutual_information.py",), "utual"),
    "features/_moments.py": (
        ("features/test_moments.py", "features/test_coral.py", "features/test_cmd.py", "features/test_frechet.py"),
        "CORAL or CMD or chet or GRAM",
    ),
    "features/bsp.py": (("features/test_bsp.py",), "BSP or spectral"),
    "features/cmd.py": (("features/test_cmd.py",), "CMD or entral"),
    "features/coral.py": (("features/test_coral.py",), "CORAL or orrelation"),
    "features/frechet.py": (("features/test_frechet.py",), "chet"),
    "features/feature_norm.py": (("features/test_feature_norm.py",), "AFN or feature_norm or FeatureNorm"),
    "features/homm.py": (("features/test_homm.py",), "HoMM or igher"),
    "features/inverse_gram.py": (("features/test_inverse_gram.py",), "GRAM or nverse"),
    "features/jmmd.py": (("features/test_jmmd.py", "features/test_engine.py"), "JMMD or joint_max or JointMax"),
    "features/mmd.py": (
        ("features/test_mmd.py", "features/test_random_features.py", "features/test_engine.py"),
        "MMD or maximum_mean or MaximumMean",
    ),
    "features/sinkhorn.py": (("features/test_sinkhorn.py",), "inkhorn"),
    "features/sliced_wasserstein.py": (("features/test_sliced_wasserstein.py",), "liced"),
    "features/subspace.py": (("features/test_subspace.py",), "RSD or ubspace"),
    "hypothesis/mcd.py": (("hypothesis_family/test_mcd.py",), "MCD or ClassifierDisc or arginal"),
    "hypothesis/mdd.py": (("hypothesis_family/test_mdd.py",), "MDD or argin or shift_log"),
    "hypothesis/regda.py": (
        ("hypothesis_family/test_regda.py",),
        "RegDA or regression_disparity or RegressionDisparity",
    ),
    "layers/_parametrised.py": (("layers/test_ema.py",), ""),
    "layers/_two_heads.py": (("layers/test_heads.py", "layers/test_keypoints.py"), "Image or Pose"),
    "layers/discriminators.py": (("layers/test_discriminators.py",), "Discriminator"),
    "layers/ema.py": (("layers/test_ema.py", "engines/test_resume.py", "machinery/test_deferred.py"), "EmaTeacher"),
    "layers/gradient_reversal.py": (
        ("layers/test_gradient_reversal.py", "machinery/test_checkpointing.py", "machinery/test_default_dtype.py"),
        "Gradient or gradient",
    ),
    "layers/heads.py": (("layers/test_heads.py",), "Image"),
    "layers/keypoints.py": (("layers/test_keypoints.py",), "Pose or Pseudo or Joints or RegDA"),
    "layers/maps.py": (("layers/test_maps.py",), "Map"),
    "predictions/_entropy.py": (
        (
            "machinery/test_shortcuts.py",
            "predictions/test_entropy.py",
            "predictions/test_information.py",
            "predictions/test_entropy_separation.py",
            "predictions/test_one_versus_all.py",
        ),
        "entropy or information or DANCE or OVANet",
    ),
    "predictions/entropy.py": (("predictions/test_entropy.py",), "entropy or EntropyMin"),
    "predictions/entropy_separation.py": (("predictions/test_entropy_separation.py",), "DANCE or eparation"),
    "predictions/information.py": (("predictions/test_information.py",), "information or Information"),
    "predictions/mcc.py": (("predictions/test_mcc.py",), "MCC or lass_confusion or ClassConfusion"),
    "predictions/nuclear_norm.py": (("predictions/test_nuclear_norm.py",), "uclear"),
    "predictions/one_versus_all.py": (
        ("predictions/test_one_versus_all.py",),
        "OVANet or one_versus or OneVersus or open_set or OpenSet",
    ),
    "predictions/osbp.py": (("predictions/test_osbp.py",), "OSBP or nknown"),
    "predictions/pseudo_label.py": (
        ("predictions/test_pseudo_label.py",),
        "pseudo or PseudoLabelLoss",
    ),
    "selection/agreement.py": (("selection/test_agreement.py",), "agreement or EnsembleAgreement"),
    "selection/importance.py": (
        ("selection/test_importance.py",),
        "IWV or DEV or ImportanceWeightedValidation or DeepEmbedded or density_ratio",
    ),
    "selection/neighborhood.py": (("selection/test_neighborhood.py",), "SND or SoftNeighborhood"),
    "weighting/_evaluation.py": (("weighting",), "collect or AutomaticUpdate"),
    "weighting/_partial.py": (("weighting",), "AutomaticUpdate or Importance"),
    "weighting/label_shift.py": (("weighting/test_label_shift.py",), "label and shift or LabelShift or label_shift"),
    "weighting/iwan.py": (("weighting/test_iwan.py",), "Importance"),
    "weighting/pada.py": (("weighting/test_pada.py",), "PADA or class_weights or ClassWeight"),
}


def arguments(module: str) -> list[str]:
    """What pytest is told."""
    files, rows = SUITES[module.removeprefix("adaption/")]
    own = [*(f"tests/{file}" for file in files), "--doctest-modules", module]
    if not rows:
        return own
    # the own files and the examples by their names, which -k sees too, and the laws by their rows
    names = [Path(file).stem for file in (*files, module)]
    return [*own, *(f"tests/{law}" for law in LAWS), "-k", " or ".join([*names, rows])]
