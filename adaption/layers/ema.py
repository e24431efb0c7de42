"""A teacher whose weights are the moving average of its student's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adaption import _checks


class EmaTeacher(AveragedModel):
    r"""A copy of a model whose weights follow those of the model as an exponential moving average.

    .. math:: \theta'_t = \alpha_t \theta'_{t-1} + (1 - \alpha_t) \theta_t, \qquad
              \alpha_t = \alpha \;\text{ or, warming up, }\; \min\Bigl(\alpha, 1 - \frac1{t + 1}\Bigr)

    with the model's weights :math:`\theta_t` after `t` steps and :math:`\theta'_0 = \theta_0`. Call `update` after
    every step of the optimizer. With warm-up the first :math:`1 / (1 - \alpha)` steps are a plain mean, so that the
    random start is forgotten early.

    The teacher gives no gradient and keeps none of the model's graph. It is a
    :class:`torch.optim.swa_utils.AveragedModel` that averages from the first update on, where that class copies; the
    number of updates and the weights are in ``state_dict``. The model it follows is not part of it, and may hold a
    metric.

    Shapes:
        - input and output: those of the model

    Args:
        model: the student.
        alpha: how much of the teacher stays at each step, in :math:`[0, 1]`; 0 is a copy of the student, 1 its start.
        buffers: ``"average"``: buffers of floating point, such as batch-norm statistics, are averaged as the weights
            are; ``"copy"``: the student's are taken over. Whole numbers, such as step counts, are copied either way.
        train_mode: whether the teacher follows `train` and `eval` as other modules do. By default it stays in eval
            mode, where dropout is off and batch normalisation uses its running statistics. French et al. let it
            normalise by its own batches instead: ``train_mode=True``.
        warm_up: whether :math:`\alpha_t` rises to :math:`\alpha` as above.

    Raises:
        TypeError: if `alpha` is no number, `train_mode` or `warm_up` no bool, or the model no Module.
        ValueError: if `alpha` is not in 0 to 1, or `buffers` unknown.

    References:
        G. French, M. Mackiewicz, M. Fisher: Self-ensembling for visual domain adaptation. ICLR 2018.
        https://arxiv.org/abs/1706.05208

        A. Tarvainen, H. Valpola: Mean teachers are better role models. NeurIPS 2017. https://arxiv.org/abs/1703.01780

    Example:
        >>> import torch
        >>> from adaption.layers import EmaTeacher
        >>> student = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(student.weight)
        >>> teacher = EmaTeacher(student, alpha=0.9)
        >>> _ = torch.nn.init.ones_(student.weight)  # the optimizer's step
        >>> teacher.update()
        >>> teacher(torch.ones(1, 1))
        tensor([[0.1000]])
    """

    def __init__(
        self,
        model: nn.Module,
        alpha: float,
        *,
        buffers: str = "average",
        train_mode: bool = False,
        warm_up: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            msg = f"`model` must be a Module, but got {type(model).__name__}. Pass the student itself."
            raise TypeError(msg)
        _checks.number("alpha", alpha, at_least=0, at_most=1)
        _checks.option("buffers", buffers, ("average", "copy"))
        _checks.flag("train_mode", train_mode)
        _checks.flag("warm_up", warm_up)
        super().__init__(model, multi_avg_fn=self._average, use_buffers=buffers == "average")
        self.alpha = alpha
        self.train_mode = train_mode
        self.warm_up = warm_up
        self._student = (model,)  # in a tuple the model is no submodule: it is not saved or moved with its teacher
        self.n_averaged += 1  # the copy counts as the first of the average; at 0 an update would copy once more
        self.requires_grad_(requires_grad=False)
        self.train(model.training)

    def update(self) -> None:
        """Move the teacher's weights towards the student's; call it after every step of the optimizer."""
        with torch.no_grad():
            self.update_parameters(self._student[0])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the teacher says, without a gradient."""
        with torch.no_grad():
            return super().forward(*args, **kwargs)

    def train(self, mode: bool = True) -> EmaTeacher:  # noqa: FBT001, FBT002 - the signature of nn.Module
        """Follow `mode` with ``train_mode=True``, else stay in eval mode."""
        return super().train(mode and self.train_mode)

    def _average(self, averaged: Any, current: Any, number: Tensor | int) -> None:
        if not (averaged[0].is_floating_point() or averaged[0].is_complex()):
            for mine, its in zip(averaged, current, strict=True):
                mine.copy_(its)
            return
        alpha = min(self.alpha, 1 - 1 / (int(number) + 1)) if self.warm_up else self.alpha
        get_ema_multi_avg_fn(alpha)(averaged, current, number)

    def extra_repr(self) -> str:
        """Return the settings."""
        buffers = "average" if self.use_buffers else "copy"
        return f"alpha={self.alpha}, {buffers=}, train_mode={self.train_mode}, warm_up={self.warm_up}"
