"""The losses as functions, and the layers, without a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_type

import torch
from torch import Tensor, nn

import adaption
from adaption import functional as F
from adaption.layers import MultiLinearMap, RandomizedMultiLinearMap

TwoDomains = Callable[[Tensor, Tensor], Tensor]


def distances(source: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Functions that are passed around, with their settings."""
    losses: dict[str, TwoDomains] = {
        "MMD": F.maximum_mean_discrepancy,
        "BSP": F.batch_spectral_penalization,
        "CMD": F.central_moment_discrepancy,
        "CORAL": F.correlation_alignment,
        "DARE-GRAM": F.inverse_gram_alignment,
        "Frechet": F.frechet_distance,
        "HoMM": F.higher_order_moment_matching,
        "RSD": F.representation_subspace_distance,
        "bandwidth": F.median_bandwidth,
    }
    return {name: loss(source, target) for name, loss in losses.items()}


def adversarial(source: Tensor, target: Tensor, logits: Tensor) -> Tensor:
    """A custom discriminator behind the reversal."""
    discriminator = nn.Linear(source.shape[1], 1)
    reversed_source = assert_type(F.gradient_reversal(source, 0.5), Tensor)
    loss = F.domain_adversarial_loss(discriminator(reversed_source), discriminator(target), reduction="mean")
    weights = assert_type(F.class_weights(logits, temperature=0.5), Tensor)
    each = F.domain_adversarial_loss(discriminator(source), discriminator(target), weights[logits.argmax(1)])
    discrepancy = assert_type(F.nuclear_wasserstein_discrepancy(logits, logits), Tensor)
    information = assert_type(F.mutual_information(logits.softmax(1), logits.softmax(1)), Tensor)
    return assert_type(loss + each + discrepancy + information, Tensor)


def predictions(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Losses of the predictions for one domain, and the share beside one of them."""
    values = [F.minimum_class_confusion(logits, temperature=2.0), F.nuclear_norm_maximization(logits)]
    values += [
        F.entropy_minimization(logits, reduction="sum"),
        F.information_maximization(logits, diversity_weight=0.5),
    ]
    values += [F.entropy_separation(logits, margin=0.2), F.open_set_entropy(torch.stack([logits, -logits], dim=1))]
    values += [F.one_versus_all(torch.stack([logits, -logits], dim=1), logits.argmax(1))]
    values += [F.pseudo_label_loss(logits, teacher_logits, threshold=0.9, weighting="share")]
    pseudo_label = adaption.PseudoLabelLoss(threshold=0.9)
    pseudo_label.update(logits)
    return torch.stack(values).sum() + assert_type(pseudo_label.confident_share, Tensor)


def maps(features: Tensor, predictions: Tensor) -> Tensor:
    """The maps of CDAN."""
    product = MultiLinearMap()(features, predictions)
    randomized = RandomizedMultiLinearMap(features.shape[1], predictions.shape[1], output_dim=4)(features, predictions)
    return torch.cat([product, randomized], dim=1)


def whole_loader(batches: list[tuple[Tensor, Tensor]], classifier: nn.Module) -> Tensor:
    """The door of partial adaptation."""
    collected = adaption.collect_classification_results(batches, classifier, "cpu")
    compiled = torch.compile(adaption.functional.class_weights, fullgraph=True, backend="eager")
    return assert_type(collected, Tensor) * assert_type(compiled(collected), Tensor)
