"""Self-ensembling: a student should give its teacher's predictions for a sample, under another augmentation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adaption import _checks, _reduction
from adaption._host import readable
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision

Distance = Callable[[Tensor, Tensor], Tensor]


def consistency_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    distance_measure: Distance,
    reduction: str = "mean",
) -> Tensor:
    r"""Distance between the outputs of a student and its teacher, over the samples that a mask keeps.

    .. math:: L = \frac1n \sum_{i=1}^n m_i \, d(s_i, t_i)

    with the outputs `s` of the student and `t` of the teacher for `n` samples, a distance `d`, and a mask `m`, 1 by
    default. The mean runs over all samples, and masked ones count 0: the fewer samples are confident, the smaller their
    effect. Divided by the number of kept samples, a single confident sample would count as much as a whole batch.

    Shapes:
        - `student`, `teacher`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`
        - `mask`: :math:`(n,)` or :math:`(n, 1)`; for dense outputs also :math:`(n, d_1, ..)` or :math:`(n, 1, d_1, ..)`
        - output: scalar; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        student: output of the student, in the form that `distance_measure` takes.
        teacher: output of the teacher for the same samples. It is not detached here;
            :class:`adaption.layers.EmaTeacher` gives no gradient.
        mask: which samples count, or in a dense output which positions: truth values, where any integer but 0 is true,
            or shares between 0 and 1 in floating point.
        distance_measure: from the outputs of student and teacher to a scalar, which counts as the mean, one value per
            sample, or one per element, which is averaged per sample. A scalar cannot be masked, nor be reduced with
            ``"none"``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: for anything but floating-point tensors, and a distance that cannot be called.
        ValueError: for empty batches, outputs whose shapes differ, masks that do not fit or are not within 0 to 1, and
            a distance of another shape.

    References:
        G. French, M. Mackiewicz, M. Fisher: Self-ensembling for visual domain adaptation. ICLR 2018.
        https://arxiv.org/abs/1706.05208

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from torch.nn import functional as F
        >>> from adaption.functional import consistency_loss
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
        >>> consistency_loss(student, teacher, distance_measure=F.l1_loss)
        tensor(0.5000)
        >>> each = partial(F.l1_loss, reduction="none")
        >>> consistency_loss(student, teacher, torch.tensor([False, True]), distance_measure=each)
        tensor(0.)
    """
    return _reduction.value(reduction, *_statistics(student, teacher, mask, distance_measure, reduction))


@full_precision
def _statistics(
    student: Tensor, teacher: Tensor, mask: Tensor | None, distance_measure: Distance, reduction: str
) -> Statistics:
    _check_settings(distance_measure, reduction)
    _checks.batch("student", student)
    _checks.batch("teacher", teacher)
    _checks.same_shape("student", student, "teacher", teacher)
    need = "`mask`" if mask is not None else 'reduction="none"' if reduction == "none" else None
    losses = _reduction.per_sample("distance_measure", distance_measure(student, teacher), student, need)
    return _reduction.statistics(reduction, losses if mask is None else losses * _shares(mask, losses, student))


def _shares(mask: Tensor, losses: Tensor, outputs: Tensor) -> Tensor:
    """The weight of each loss: one for each sample, or for each position of a dense output."""
    if isinstance(mask, Tensor) and mask.dtype in (torch.bool, *_checks.INTEGERS):
        mask = (mask != 0).to(losses.dtype)  # 255 is no more true than 1
    _checks.tensor("mask", mask)
    positions = outputs.shape[:1] + outputs.shape[2:]
    if outputs.ndim > 2 and mask.ndim > 1 and mask.shape != (len(outputs), 1):
        if mask.shape not in (positions, outputs[:, :1].shape):
            msg = (
                f"`mask` must hold one entry per sample ({len(outputs)},) or per position {tuple(positions)}, but got "
                f"shape {_checks.shape(mask)}. Pass the mask of the same batch."
            )
            raise ValueError(msg)
        if losses.shape != positions:
            msg = (
                f"`distance_measure` must return one value per position {tuple(positions)} for a `mask` of that shape, "
                f"but returned shape {_checks.shape(losses)}. Let it keep positions apart, or mask whole samples."
            )
            raise ValueError(msg)
        mask = mask.reshape(positions)
        _checks.weights("mask", mask.flatten(), losses.flatten())
    else:
        mask = _reduction.spread("mask", mask, losses)
    if readable(mask) and bool((mask > 1).any()):
        msg = (
            "`mask` must hold truth values, or shares between 0 and 1, but its largest entry is "
            f"{mask.max().item():g}. Compare it with a threshold, e.g. `mask > 0`."
        )
        raise ValueError(msg)
    return mask.to(losses.dtype)


def _check_settings(distance_measure: object, reduction: str) -> None:
    _checks.function("distance_measure", distance_measure)
    _reduction.check(reduction)


def l2_consistency_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    r"""Squared Euclidean distance between the outputs of a student and its teacher.

    .. math:: L = \frac1n \sum_{i=1}^n m_i \sum_{k=1}^c (s_{ik} - t_{ik})^2

    with the outputs `s` of the student and `t` of the teacher for `n` samples and `c` classes, and a mask `m`, 1 by
    default. The mean runs over all samples, masked or not, as in :func:`consistency_loss`; the squares of a sample are
    summed. Between probabilities it is at most 2.

    Shapes:
        - `student`, `teacher`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`
        - `mask`: :math:`(n,)` or :math:`(n, 1)`; for dense outputs also :math:`(n, d_1, ..)` or :math:`(n, 1, d_1, ..)`
        - output: scalar; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        student: output of the student; French et al. take probabilities.
        teacher: output of the teacher for the same samples.
        mask: which samples count, or in a dense output which positions: truth values, where any integer but 0 is true,
            or shares between 0 and 1 in floating point.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for empty batches, outputs whose shapes differ, and masks that do not fit or are not within 0 to 1.

    References:
        G. French, M. Mackiewicz, M. Fisher: Self-ensembling for visual domain adaptation. ICLR 2018.
        https://arxiv.org/abs/1706.05208

    Example:
        >>> import torch
        >>> from adaption.functional import l2_consistency_loss
        >>> l2_consistency_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor(2.)
    """
    return consistency_loss(student, teacher, mask, distance_measure=_squared_distance, reduction=reduction)


def _squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(1)


class _Consistency(AdditiveMetric):
    """Student and teacher, compared by a distance: the base of the two losses below."""

    plot_lower_bound = 0.0

    def __init__(self, reduction: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = reduction
        if reduction == "none":
            self._keep_samples("values")
        else:
            self._keep_sums("distances", "num_samples")

    @abstractmethod
    def _distance(self) -> Distance:
        """The distance between the outputs."""

    def update(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(student, teacher, mask))

    def _statistics(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Statistics:
        return _statistics(student, teacher, mask, self._distance(), self.reduction)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value(self.reduction, *statistics)


class ConsistencyLoss(_Consistency):
    r"""Consistency loss with a custom distance: the student minimises it, the teacher gets no gradient.

    Two views of the same target samples, augmented differently, go to the student and to the teacher. The teacher,
    :class:`adaption.layers.EmaTeacher`, is the moving average of the student and the better of the two; its predictions
    are the targets. A mask keeps the samples on which the teacher is confident.

    The formula is that of :func:`adaption.functional.consistency_loss`. `compute` is exact over the epoch, where a
    scalar distance is the mean over the samples.

    Inputs of `update` and `forward`:
        - `student`, `teacher`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`
        - `mask`: :math:`(n,)` or :math:`(n, 1)`, for dense outputs also :math:`(n, d_1, ..)`, optional

    Output: scalar; with ``reduction="none"`` one value per sample.

    Args:
        distance_measure: from the outputs of student and teacher to a scalar, one value per sample, or one per element;
            see the function.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. ``"none"`` keeps every value of the epoch.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and a distance that cannot be called.
        ValueError: as :func:`adaption.functional.consistency_loss`.

    References:
        G. French, M. Mackiewicz, M. Fisher: Self-ensembling for visual domain adaptation. ICLR 2018.
        https://arxiv.org/abs/1706.05208

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from adaption import ConsistencyLoss
        >>> consistency = ConsistencyLoss(F.mse_loss)
        >>> consistency(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
        tensor(0.2500)
    """

    def __init__(self, distance_measure: Distance, reduction: str = "mean", **kwargs: Any) -> None:
        _check_settings(distance_measure, reduction)
        super().__init__(reduction, **kwargs)
        self.distance_measure = distance_measure

    def _distance(self) -> Distance:
        return self.distance_measure


class L2ConsistencyLoss(_Consistency):
    r"""Squared Euclidean consistency loss: the student minimises it, the teacher gets no gradient.

    Student and teacher are as in :class:`ConsistencyLoss`; the formula is that of
    :func:`adaption.functional.l2_consistency_loss`. `compute` is exact over the epoch.

    Inputs of `update` and `forward`:
        - `student`, `teacher`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`, for example probabilities
        - `mask`: :math:`(n,)` or :math:`(n, 1)`, for dense outputs also :math:`(n, d_1, ..)`, optional

    Output: scalar, at least 0; with ``reduction="none"`` one value per sample.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. ``"none"`` keeps every value of the epoch.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.l2_consistency_loss`.

    References:
        G. French, M. Mackiewicz, M. Fisher: Self-ensembling for visual domain adaptation. ICLR 2018.
        https://arxiv.org/abs/1706.05208

    Example:
        The teacher is confident on the first sample only, and the mean runs over both.

        >>> import torch
        >>> from adaption import L2ConsistencyLoss
        >>> consistency = L2ConsistencyLoss()
        >>> student, teacher = torch.full((2, 2), 0.5), torch.tensor([[1.0, 0.0], [0.6, 0.4]])
        >>> consistency(student, teacher, mask=teacher.amax(1) > 0.9)
        tensor(0.2500)
    """

    def __init__(self, reduction: str = "mean", **kwargs: Any) -> None:
        _reduction.check(reduction)
        super().__init__(reduction, **kwargs)

    def _distance(self) -> Distance:
        return _squared_distance
