"""The nuclear norm of predictions relative to its largest value: for a batch with its gradient, and from sums."""

from __future__ import annotations

import torch
from torch import Tensor

from adaption import _checks
from adaption._closed_form import ClosedForm
from adaption._spectrum import finite, poison
from adaption._states import sum_dtype


def predictions(name: str, logits: Tensor) -> Tensor:
    """The softmax of a batch of logits, which is checked."""
    _checks.flat_logits(name, logits)
    return logits.softmax(1)


def norm_of_batch(p: Tensor) -> Tensor:
    """The nuclear norm of predictions ``(n, C)`` divided by that of certain and balanced ones, ``sqrt(n C)``."""
    largest: float = p.numel() ** 0.5
    return _nuclear_norm([p]) / largest


def gram_of_classes(p: Tensor) -> Tensor:
    """``P'P``, row by row: it adds up over samples, and gives the norm of all of them."""
    rows = p.detach().to(sum_dtype(p.device))
    return (rows.T @ rows).flatten()


def norm_of_sums(gram: Tensor, number: Tensor) -> Tensor:
    """The same as `norm_of_batch`, from the sum of the batches' Gram matrices."""
    classes = num_classes(gram)
    (norm,) = _sum_of_roots(gram.view(classes, classes), gram.dtype)
    return norm / (number * classes).sqrt()


def num_classes(gram: Tensor) -> int:
    """The number of classes of a Gram matrix that is stored row by row."""
    classes: int = round(gram.numel() ** 0.5)
    return classes


def check_classes_of_before(name: str, logits: Tensor, gram: Tensor) -> None:
    """The number of classes is that of the first batch of the epoch; a scalar state has seen none."""
    if gram.ndim:
        _checks.classes_of_before(name, logits, num_classes(gram))


def _evaluate(tensors: list[Tensor], needed: list[bool], _options: list[float]) -> list[Tensor]:
    """The nuclear norm of a matrix, and its gradient if it is needed."""
    (matrix,) = tensors
    rows = matrix.to(sum_dtype(matrix.device))
    tall = len(rows) > rows.shape[1]
    gram = rows.T @ rows if tall else rows @ rows.T
    if not needed[0]:
        return [_sum_of_roots(gram, matrix.dtype)[0].to(matrix.dtype)]
    norm, inverse = _sum_of_roots(gram, matrix.dtype, inverse=True)
    gradient = rows @ inverse if tall else inverse @ rows
    return [norm.to(matrix.dtype), gradient.to(matrix.dtype)]


def _sum_of_roots(gram: Tensor, dtype: torch.dtype, *, inverse: bool = False) -> tuple[Tensor, ...]:
    """The sum of the square roots of the eigenvalues of a Gram matrix, and its inverse root if needed.

    Eigenvalues below the rounding errors of the matrix, or of entries in `dtype`, count as 0 in both.
    """
    lost = poison(gram)
    values, vectors = torch.linalg.eigh(finite(gram))
    rounding = max(len(gram) * torch.finfo(gram.dtype).eps, (4 * torch.finfo(dtype).eps) ** 2)
    roots = values.where(values > rounding * values[-1], 0.0).sqrt()
    if not inverse:
        return (roots.sum() + lost,)
    scaled = vectors * roots.reciprocal().where(roots > 0, 0.0)
    return roots.sum() + lost, scaled @ vectors.T + lost


_nuclear_norm = ClosedForm("nuclear_norm", _evaluate)
