"""PADA: source classes that are rarely predicted on the target get small weights."""

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

    with the class logits `z` of `m` target samples and the temperature `T`. A source class that the target lacks is
    rarely predicted and gets a small weight.

    Shapes:
        - `target_logits`: :math:`(m, C)`; output: :math:`(C,)` in :math:`[0, 1]`, the largest 1

    Args:
        target_logits: the classifier's logits for the target samples.
        temperature: `T`. At 1 it is the paper's formula; the smaller it is, the more the predictions act like votes.

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
    _checks.flat_logits("target_logits", target_logits)
    # a small temperature must not lift large logits to infinity; softmax does not see the shift
    shifted = target_logits - target_logits.detach().amax(1, keepdim=True)
    return (shifted / temperature).softmax(1).sum(0), len(target_logits)


def _relative(total: Tensor, number: Tensor | int) -> Tensor:
    mean = total / number
    return mean / mean.amax()


class ClassWeightModule(AdditiveMetric):
    r"""Class weights of partial adaptation, accumulated over the target set; it is not a loss.

    The formula is that of :func:`adaption.functional.class_weights`. `update` takes the target logits batch by batch;
    `compute` is exact over all samples and ranks, in the memory of `C` numbers. Take the weights from `compute`, which
    has no gradient, and weight source samples by their class in the classification loss,
    ``cross_entropy(logits, labels, weight=weights.compute().float())``, which needs the dtype of the logits, and in
    :class:`adaption.DomainAdversarialLoss`. `forward` gives the weights of the batch alone, with gradient; detach them
    before you weight a loss, or the classifier learns to reduce it by its weights.

    Inputs of `update` and `forward`:
        - `target_logits`: :math:`(m, C)`, before softmax

    Output: :math:`(C,)` in :math:`[0, 1]`, the largest 1.

    Args:
        temperature: `T`; with small values predictions act like votes.
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
    r"""Class weights of partial adaptation that are updated from the target every `update_steps` steps.

    The weights are those of :class:`ClassWeightModule`, 1 until the first update. Call `step` at the beginning of every
    training step; in evaluation mode it has no effect. An update goes through the loader once, without gradients and
    with the classifier in evaluation mode, and does not change the classifier. It stores no logits, and with
    :mod:`torch.distributed` it uses the samples of all ranks.

    Weights and step count are buffers: they are saved and moved with the module, and a resumed run continues exactly.
    The classifier is not part of this module, neither its parameters nor its state.

    Shapes:
        - `source_labels`: :math:`(n,)` or :math:`(n, 1)`, integers; class weights: :math:`(C,)`, the largest 1

    Args:
        update_steps: number of steps between two updates.
        data_loader: gives the target batches as ``x``, ``(x,)`` or ``(x, y)``, and can be iterated repeatedly.
        classifier: a Module or another callable from ``x`` to logits :math:`(N, C)`, on `device`.
        num_classes: number of classes `C`.
        device: the device of the classifier and of the weights.
        temperature: as in :class:`ClassWeightModule`.
        partial_classes_index: the true classes of the target, for `get_partial_classes_weight` only.

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
        """Restart with weights of 1, for frameworks that allocate memory by ``to_empty``."""
        self.class_weight.fill_(1)
        self.num_steps.zero_()

    def step(self) -> None:
        """Count a training step, and update the weights if it is time."""
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

        Those of the source are the weights `(n,)` of its classes. Those of the target are None: all of its samples
        count 1.
        """
        _checks.labels("source_labels", source_labels, self.num_classes)
        return self.class_weight[source_labels.flatten().long()], None

    def get_partial_classes_weight(self) -> tuple[Tensor, Tensor]:
        """Return the mean weight of the classes in `partial_classes_index`, and that of all others.

        For diagnosis where the target's classes are known: the weights work if the first is near 1 and the second
        near 0. NaN where there are no such classes.
        """
        labels = torch.arange(self.num_classes, device=self.class_weight.device)
        return split_means(self.class_weight, labels, self.partial_classes_index)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"update_steps={self.update_steps}, num_classes={self.num_classes}, temperature={self.temperature}"
