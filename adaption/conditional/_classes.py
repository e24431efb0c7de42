"""Checks for losses on features and classes, and one-hot labels."""

from __future__ import annotations

import torch
from torch import Tensor

from adaption import _checks
from adaption.features.mmd import check_pair


def check_labels_and_logits(
    source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_logits: Tensor
) -> None:
    """Features of both domains, the classes of the source samples, and the logits of the target samples."""
    check_pair(source_features, target_features)
    _checks.flat_logits("target_logits", target_logits)
    _checks.same_batch("target_features", target_features, "target_logits", target_logits)
    _check_labels("source", source_features, source_labels, target_logits.shape[1])


def check_labels_of_both(
    source_features: Tensor, source_labels: Tensor, target_features: Tensor, target_labels: Tensor
) -> None:
    """Features of both domains, and the classes of their samples; the number of classes is not known."""
    check_pair(source_features, target_features)
    _check_labels("source", source_features, source_labels)
    _check_labels("target", target_features, target_labels)


def _check_labels(domain: str, features: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    _checks.labels(f"{domain}_labels", labels, num_classes)
    _checks.same_batch(f"{domain}_features", features, f"{domain}_labels", labels)


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """A row for each label, 1 at its class; NaN for an unknown class, which only the CPU refuses."""
    rows = (labels.view(-1, 1) == torch.arange(num_classes, device=labels.device)).to(dtype)
    return rows / rows.sum(1, keepdim=True)
