"""The classes of the target where they are known, to check the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from adaption import _checks


def check_index(classes: Iterable[int] | None, num_classes: int | None = None) -> list[int] | None:
    """`partial_classes_index` as a list of classes, each at least 0 and below `num_classes`."""
    if classes is None:
        return None
    _checks.iterable("partial_classes_index", classes, "the classes that the target has, e.g. `[0, 1]`")
    index = list(classes)
    for position, label in enumerate(index):
        _checks.count(f"partial_classes_index[{position}]", label, at_least=0)
    if not index or (num_classes is not None and max(index) >= num_classes):
        bound = "name at least one class" if not index else f"lie below `num_classes` ({num_classes})"
        msg = f"`partial_classes_index` must {bound}, but got {index}. Pass the classes that the target has."
        raise ValueError(msg)
    return index


def split_means(values: Tensor, labels: Tensor, index: list[int] | None) -> tuple[Tensor, Tensor]:
    """The mean of `values` over labels in `index`, and over all others; NaN where there are none."""
    if index is None:
        msg = (
            "`partial_classes_index` must be given for `get_partial_classes_weight`, but is None. "
            "Pass the classes that the target has to the constructor, or do without this diagnosis."
        )
        raise ValueError(msg)
    shared = torch.isin(labels, torch.tensor(index, device=labels.device))
    return values[shared].mean(), values[~shared].mean()
