"""Evaluation of a network without side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adaption import _checks


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Without gradients and in evaluation mode; afterwards the mode of every submodule is restored."""
    if not isinstance(network, nn.Module):
        with torch.no_grad():
            yield
        return
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(modes[0][1])
        for module, training in modes:  # some may have been in another mode than the whole
            module.training = training


def collect_classification_results(
    data_loader: Iterable[Any], classifier: Callable[[Tensor], Tensor], device: torch.device | str
) -> Tensor:
    r"""Logits of all samples of a loader, in its order.

    .. math:: Z = \bigl(z(x_1), \dots, z(x_N)\bigr)

    The classifier `z` runs without gradients and in evaluation mode; afterwards the mode of each of its modules is
    restored. For class weights alone, :class:`ClassWeightModule` needs only the memory of one batch.

    Shapes:
        - output: :math:`(N, C)` for the `N` samples of all batches

    Args:
        data_loader: gives batches as ``x``, ``(x,)`` or ``(x, y)``.
        classifier: a Module or another callable from ``x`` to logits :math:`(N, C)`, on `device`.
        device: the device for the batches and the logits.

    Raises:
        TypeError: for a loader that is not iterable or gives anything else, and a classifier that is not callable or
            does not return a tensor.
        ValueError: for an empty loader, and logits of another shape.

    References:
        Z. Cao, L. Ma, M. Long, J. Wang: Partial Adversarial Domain Adaptation. ECCV 2018.
        https://arxiv.org/abs/1808.04205

    Example:
        >>> import torch
        >>> from adaption import collect_classification_results
        >>> loader = [(torch.tensor([[1.0, 2.0]]), "label"), (torch.tensor([[3.0, 4.0]]), "label")]
        >>> collect_classification_results(loader, torch.nn.Identity(), device="cpu")
        tensor([[1., 2.],
                [3., 4.]])
    """
    check_source(data_loader, classifier)
    _checks.device("device", device)
    results: list[Tensor] = []
    visit(data_loader, classifier, torch.device(device), results.append)
    return torch.cat(results)


def check_source(data_loader: object, classifier: object) -> None:
    """Check the loader and the classifier."""
    _checks.iterable("data_loader", data_loader, "a DataLoader")
    _checks.function("classifier", classifier)


def visit(
    data_loader: Iterable[Any],
    classifier: Callable[[Tensor], Tensor],
    device: torch.device,
    take: Callable[[Tensor], None],
    num_classes: int | None = None,
) -> None:
    """Pass the logits of every batch to `take`."""
    width: int | None = None
    with evaluating(classifier):
        for batch in data_loader:
            logits = classifier(_inputs(batch).to(device))
            if not isinstance(logits, Tensor):
                msg = (
                    f"`classifier` must return a tensor of logits, but got {type(logits).__name__}. "
                    "Wrap it in a function that returns the logits alone."
                )
                raise TypeError(msg)
            _checks.matrix("classifier(x)", logits, "classes")
            if num_classes is not None:
                repair = "Set it to the number of outputs of the classifier."
                _checks.columns("classifier(x)", logits, num_classes, "num_classes", repair)
            if width not in {None, logits.shape[1]}:
                msg = (
                    f"`classifier` must return as many columns for every batch ({width}), but returned shape "
                    f"{_checks.shape(logits)}. Let it return the logits of all classes."
                )
                raise ValueError(msg)
            width = logits.shape[1]
            take(logits)
    if width is None:
        msg = "`data_loader` must give at least one batch, but got none. Look for an iterator that is used up."
        raise ValueError(msg)


def _inputs(batch: object) -> Tensor:
    inputs = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    if not isinstance(inputs, Tensor):
        msg = (
            f"`data_loader` must give `x`, `(x,)` or `(x, y)` with a tensor `x`, but got {type(batch).__name__}. "
            "Give the loader a `collate_fn` that puts `x` first."
        )
        raise TypeError(msg)
    _checks.not_meta("data_loader", inputs)
    return inputs
