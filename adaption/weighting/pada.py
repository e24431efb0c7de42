"""PADA: source classes that the target predictions never name weigh little."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from adaption import _checks
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision
from adaption.weighting._evaluation import check_source, visit
from adaption.weighting._partial import check_index, split_means


def class_weights(target_logits: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Share of each class in the predictions on the target, relative to the largest.

    .. math::
        \gamma = \frac1m \sum_{j=1}^m \mathrm{softmax}(z_j / T), \qquad w_k = \frac{\gamma_k}{\max_l \gamma_l}

    with the class logits `z` of `m` target samples and the temperature `T`. A source class that the target does not
    have is named by few predictions and weighs little.

    Shapes:
        - `target_logits`: :math:`(m, C)`; output: :math:`(C,)` in :math:`[0, 1]`, the largest 1

    Args:
        target_logits: the classifier's logits for the target samples.
        temperature: `T`. At 1 it is the paper's formula; the smaller, the more the predictions count like votes.

    Raises:
        TypeError: for anything but a floating-point tensor and a number.
        ValueError: for an empty tensor, a wrong rank, fewer than two classes, probabilities, and a temperature that is
            not finite and at least 1.2e-38, float32's smallest normal number.

    References:
        Z. Cao, L. Ma, M. Long, J. Wang: Partial Adversarial Domain Adaptation. ECCV 2018.
        https://arxiv.org/abs/1808.04205

    Example:
        >>> import torch
        >>> from adaption.functional import class_weights
        >>> class_weights(torch.tensor([[20.0, 0.0, 0.0], [20.0, 0.0, 0.0], [0.0, 20.0, 0.0]]))
        tensor([1.0000, 0.5000, 0.0000])
    """
    _checks.positive("temperature", temperature)
    return _relative(*_statistics(target_logits, temperature))


@full_precision
def _statistics(target_logits: Tensor, temperature: float) -> Statistics:
    _checks.matrix("target_logits", target_logits, "classes")
    _checks.logits("target_logits", target_logits)
    # a small temperature must not lift large logits to infinity; softmax does not see the shift
    shifted = target_logits - target_logits.detach().amax(1, keepdim=True)
    return (shifted / temperature).softmax(1).sum(0), len(target_logits)


def _relative(total: Tensor, number: Tensor | int) -> Tensor:
    mean = total / number
    return mean / mean.amax()


class ClassWeightModule(AdditiveMetric):
    r"""Class weights of partial adaptation, streamed over the target set: no game, and nothing to minimise.

    The formula is that of :func:`adaption.functional.class_weights`. `update` takes the target logits batch by batch;
    `compute` is exact over all samples and ranks, in the memory of `C` numbers. The weights are constants of training:
    take them from `compute`, which has no gradient, and weigh source samples by the weight of their class, in the
    classification loss, ``cross_entropy(logits, labels, weight=weights.compute().float())``, which wants the dtype of
    the logits, and in :class:`adaption.DomainAdversarialLoss`. `forward` gives the weights of the batch alone, with
    gradient; detach them before you weigh a loss, or the classifier learns to shrink it by its weights.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, C)`, before softmax

    Output: :math:`(C,)` in :math:`[0, 1]`, the largest 1.

    Args:
        temperature: `T`; small values make votes of the predictions.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but a floating-point tensor and a number.
        ValueError: as the function, and for another number of classes than before.

    References:
        Z. Cao, L. Ma, M. Long, J. Wang: Partial Adversarial Domain Adaptation. ECCV 2018.
        https://arxiv.org/abs/1808.04205

    Example:
        >>> import torch
        >>> from adaption import ClassWeightModule
        >>> weights = ClassWeightModule()
        >>> weights.update(torch.tensor([[20.0, 0.0, 0.0], [20.0, 0.0, 0.0]]))
        >>> weights.update(torch.tensor([[0.0, 20.0, 0.0]]))
        >>> weights.compute().float()
        tensor([1.0000, 0.5000, 0.0000])
    """

    higher_is_better = None  # weights are neither good nor bad
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    class_probabilities: Tensor

    def __init__(self, temperature: float = 0.1, **kwargs: Any) -> None:
        _checks.positive("temperature", temperature)
        super().__init__(**kwargs)
        self.temperature = temperature
        self._keep_vectors("class_probabilities")
        self._keep_sums("num_samples")

    def update(self, target_logits: Tensor) -> None:
        """Add a batch of the target to the weights."""
        self._accumulate(self._statistics(target_logits))

    def _statistics(self, target_logits: Tensor) -> Statistics:
        total, number = _statistics(target_logits, self.temperature)
        if self.class_probabilities.ndim and len(self.class_probabilities) != len(total):
            msg = (
                f"`target_logits` must have {len(self.class_probabilities)} columns, as the batches before, but got "
                f"shape {_checks.shape(target_logits)}. Pass logits of one classifier, or `reset()` first."
            )
            raise ValueError(msg)
        return total, number

    def _value(self, *statistics: Tensor) -> Tensor:
        return _relative(*statistics)


class AutomaticUpdateClassWeightModule(nn.Module):
    r"""Class weights of partial adaptation that look at the target anew every `update_steps` steps.

    The weights are those of :class:`ClassWeightModule`, 1 until the first look. `step` belongs at the head of every
    training step; in evaluation mode it stands still. A look walks through the loader once, without gradients and with
    the classifier in evaluation mode, and leaves the classifier as it was. It keeps no logits, and where
    :mod:`torch.distributed` runs, it counts the samples of all ranks.

    Weights and step count are buffers: saved, moved, and a resumed run continues exactly. The classifier is not part of
    this module: neither its parameters nor its state show up here.

    Shapes:
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers; class weights: :math:`(C,)`, the largest 1

    Args:
        update_steps: number of steps from one look to the next.
        data_loader: gives the target batches as ``x``, ``(x,)`` or ``(x, y)``, and can be walked through repeatedly.
        classifier: a Module or another callable from ``x`` to logits :math:`(N, C)`, on `device`.
        num_classes: number of classes `C`.
        device: where the classifier is, and the weights shall be.
        temperature: as in :class:`ClassWeightModule`.
        partial_classes_index: the classes that the target really has, for `get_partial_classes_weight` only.

    Raises:
        TypeError: for arguments of another type, and labels that are not integers.
        ValueError: for numbers and labels out of range, an empty loader, logits of another number of classes, and
            `get_partial_classes_weight` without `partial_classes_index`.

    References:
        Z. Cao, L. Ma, M. Long, J. Wang: Partial Adversarial Domain Adaptation. ECCV 2018.
        https://arxiv.org/abs/1808.04205

    Example:
        >>> import torch
        >>> from adaption import AutomaticUpdateClassWeightModule
        >>> target = [torch.tensor([[20.0, 0.0, 0.0], [20.0, 0.0, 0.0]]), torch.tensor([[0.0, 20.0, 0.0]])]
        >>> weights = AutomaticUpdateClassWeightModule(2, target, torch.nn.Identity(), num_classes=3, device="cpu")
        >>> for _ in range(2):
        ...     weights.step()
        >>> weights.get_class_weight_for_cross_entropy_loss()
        tensor([1.0000, 0.5000, 0.0000])
        >>> source_weights, target_weights = weights.get_class_weight_for_adversarial_loss(torch.tensor([1, 0]))
        >>> source_weights
        tensor([0.5000, 1.0000])
    """

    class_weight: Tensor
    num_steps: Tensor
    classifier: Callable[[Tensor], Tensor]

    def __init__(
        self,
        update_steps: int,
        data_loader: Iterable[Any],
        classifier: Callable[[Tensor], Tensor],
        num_classes: int,
        device: torch.device | str,
        temperature: float = 0.1,
        partial_classes_index: Iterable[int] | None = None,
    ) -> None:
        _checks.count("update_steps", update_steps)
        check_source(data_loader, classifier)
        _checks.device("device", device)
        _checks.count("num_classes", num_classes)
        _checks.positive("temperature", temperature)
        index = check_index(partial_classes_index, num_classes)
        super().__init__()
        self.update_steps = update_steps
        self.data_loader = data_loader
        self.__dict__["classifier"] = classifier  # not a submodule, or its parameters would be trained and saved twice
        self.num_classes = num_classes
        self.device = torch.device(device)
        self.temperature = temperature
        self.partial_classes_index = index
        self.register_buffer("class_weight", torch.ones(num_classes, device=device))
        self.register_buffer("num_steps", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Begin anew, with weights of 1, for frameworks that allocate memory by ``to_empty``."""
        self.class_weight.fill_(1)
        self.num_steps.zero_()

    def step(self) -> None:
        """Count a training step, and renew the weights if they are due."""
        if not self.training:
            return
        if (int(self.num_steps) + 1) % self.update_steps == 0:
            module = ClassWeightModule(self.temperature).to(self.device)
            visit(self.data_loader, self.classifier, self.device, module.update, self.num_classes)
            self.class_weight = module.compute().to(self.class_weight)  # a new tensor: the old one may be in a graph
        self.num_steps += 1

    def get_class_weight_for_cross_entropy_loss(self) -> Tensor:
        """Return the class weights `(C,)`, for ``weight`` of :func:`torch.nn.functional.cross_entropy`."""
        return self.class_weight.clone()

    def get_class_weight_for_adversarial_loss(self, source_labels: Tensor) -> tuple[Tensor, None]:
        """Return source and target weights for :class:`adaption.DomainAdversarialLoss`.

        Those of the source are the weights `(n,)` of its classes. Those of the target are None: its samples all count
        1, however many there are.
        """
        _checks.labels("source_labels", source_labels, self.num_classes)
        return self.class_weight[source_labels.flatten().long()], None

    def get_partial_classes_weight(self) -> tuple[Tensor, Tensor]:
        """Return the mean weight of the classes in `partial_classes_index`, and that of all others.

        A diagnosis for those who know the target's classes: the weights work where the first is near 1 and the second
        near 0. NaN where there are no such classes.
        """
        labels = torch.arange(self.num_classes, device=self.class_weight.device)
        return split_means(self.class_weight, labels, self.partial_classes_index)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"update_steps={self.update_steps}, num_classes={self.num_classes}, temperature={self.temperature}"
