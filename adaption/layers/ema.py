"""A teacher whose weights are the moving average of its student's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import get_ema_multi_avg_fn

from adaption import _checks
from adaption._precision import HALF
from adaption.layers import _parametrised


class EmaTeacher(nn.Module):
    r"""A copy of a model whose weights are an exponential moving average of the model's.

    .. math:: \theta'_t = \alpha_t \theta'_{t-1} + (1 - \alpha_t) \theta_t, \qquad
              \alpha_t = \alpha \;\text{ or, warming up, }\; \min\Bigl(\alpha, 1 - \frac1{t + 1}\Bigr)

    with the model's weights :math:`\theta_t` after `t` steps and :math:`\theta'_0 = \theta_0`. Call `update` after
    every step of the optimizer. With warm-up the first :math:`1 / (1 - \alpha)` steps are a plain mean, so that the
    initial weights are forgotten early.

    The teacher gives no gradient and keeps none of the model's graph. The number of updates, `n_averaged`, and the
    weights are in ``state_dict``. The student is not part of it, and may hold a metric.

    For weights in float16 and bfloat16 the average is in float32, also after ``.to(dtype)``: a step is smaller than the
    resolution of a weight in half precision. `module`, the network that predicts, holds the rounded values. Weights of
    a parametrisation are computed from averaged parameters: with weight normalisation their length is the average
    length, and with spectral normalisation, for which each `update` takes one step on the teacher's weights, their norm
    is 1. Masks of pruned weights are copied.

    Shapes:
        - input and output: those of the model

    Args:
        model: the student.
        alpha: the weight of the old average at each step, in :math:`[0, 1]`; 0 copies the student, 1 keeps the initial
            weights.
        buffers: ``"average"``: floating-point buffers, such as batch-norm statistics, are averaged like the weights;
            ``"copy"``: they are copied from the student. Integers, such as step counts, are always copied.
        train_mode: whether the teacher follows `train` and `eval` as other modules do. By default it stays in eval
            mode, where dropout is off and batch normalisation uses its running statistics. French et al. use the
            statistics of the teacher's batches instead: ``train_mode=True``.
        warm_up: whether :math:`\alpha_t` rises to :math:`\alpha` as above.

    Raises:
        TypeError: if `alpha` is not a number, `train_mode` or `warm_up` not a bool, or the model not a Module.
        ValueError: if `alpha` is not in 0 to 1, `buffers` unknown, or the model lazy and not initialised; in `update`,
            if weights or buffers of the model are new, missing, or of another shape.

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

    n_averaged: Tensor

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
        _checks.number("alpha", alpha, at_least=0, at_most=1, repair="Pass a value such as 0.99.")
        _checks.option("buffers", buffers, ("average", "copy"))
        _checks.flag("train_mode", train_mode)
        _checks.flag("warm_up", warm_up)
        lazy = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
        if lazy:
            msg = f"`model` must know the shapes of its weights, but {lazy} are lazy. Pass a batch through it first."
            raise ValueError(msg)
        super().__init__()
        self.alpha = alpha
        self.use_buffers = buffers == "average"
        self.train_mode = train_mode
        self.warm_up = warm_up
        self.module = _parametrised.copied(model)
        self._student = (model,)  # in a tuple the model is not a submodule: it is not saved or moved with its teacher
        self._computing = _parametrised.computing(self.module)
        self._own = _parametrised.vectors(self.module)
        self._averaged = {name: f"average/{name.replace('.', '/')}" for name in self._names_of_averages()}
        self.register_buffer("n_averaged", torch.tensor(1))  # the copy is the first of the average
        self._keep_averages(self._averages(_parametrised.tensors(self.module)))
        self.requires_grad_(requires_grad=False)
        self.train(model.training)

    @property
    def model(self) -> nn.Module:
        """The student."""
        return self._student[0]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Restart the average from the current student, for example after ``to_empty`` of both."""
        its = _parametrised.tensors(self._student[0])
        mine = _parametrised.tensors(self.module)
        _check_unchanged(mine, its)
        for name, tensor in (*mine.items(), *self._averages(mine).items()):
            tensor.copy_(its[name])
        self.n_averaged.fill_(1)
        _parametrised.renew(self._computing)

    @torch.no_grad()
    def update(self) -> None:
        """Move the teacher's weights towards the student's; call it after every step of the optimizer."""
        mine, its = _parametrised.tensors(self.module), _parametrised.tensors(self._student[0])
        _check_unchanged(mine, its)
        averages = self._averages(mine)
        pairs = defaultdict(list)
        for name, average in averages.items():
            pairs[average.device, average.dtype].append((average, its[name].to(average)))
        for group in pairs.values():
            self._average(*zip(*group, strict=True))
        for name in mine.keys() - averages.keys() - self._own:
            mine[name].copy_(its[name])
        for name, average in averages.items():
            if average.dtype != mine[name].dtype:
                mine[name].copy_(average)
        self.n_averaged += 1
        _parametrised.renew(self._computing)

    def _average(self, averages: tuple[Tensor, ...], current: tuple[Tensor, ...]) -> None:
        if not self.warm_up:
            average = get_ema_multi_avg_fn(self.alpha)
            average(list(averages), list(current), self.n_averaged)
            return
        # as a tensor: to read the count, the host would have to wait for an accelerator
        share = (self.n_averaged + 1).to(averages[0].dtype).reciprocal().clamp(min=1 - self.alpha)
        for mine, its in zip(averages, current, strict=True):
            mine.lerp_(its, share.to(mine.device))

    def _names_of_averages(self) -> set[str]:
        others = self._own | _parametrised.settings(self.module)
        if not self.use_buffers:
            others |= {name for name, _ in self.module.named_buffers()}
        tensors = _parametrised.tensors(self.module).items()
        return {name for name, t in tensors if name not in others and (t.is_floating_point() or t.is_complex())}

    def _averages(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The `tensors` of `module` that are averages, or the float32 copies of those in half precision."""
        kept = {name: self._buffers.get(key) for name, key in self._averaged.items()}
        return {name: tensors[name] if average is None else average for name, average in kept.items()}

    @torch.no_grad()
    def _keep_averages(self, before: dict[str, Tensor]) -> None:
        """Keep float32 copies of the half-precision weights of `module`, and nothing else."""
        tensors = _parametrised.tensors(self.module)
        for name, key in self._averaged.items():
            tensor, kept = tensors[name], self._buffers.get(key)
            exact = tensor if before[name].is_meta else before[name]
            if tensor.dtype not in HALF:
                if kept is not None:
                    tensor.copy_(exact)
                    del self._buffers[key]
            elif kept is None or kept.dtype in HALF:  # else it has moved with the rest
                self.register_buffer(key, exact.to(tensor.device, torch.float32, copy=True))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the teacher's output, without a gradient."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> EmaTeacher:  # noqa: FBT001, FBT002 - the signature of nn.Module
        """Follow `mode` with ``train_mode=True``, otherwise stay in eval mode."""
        return super().train(mode and self.train_mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:  # noqa: FBT001, FBT002
        """Move and cast with the module, but keep the averages in float32 at least."""
        before = self._averages({name: tensor.data for name, tensor in _parametrised.tensors(self.module).items()})
        super()._apply(fn, recurse)
        self._keep_averages(before)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the averages, also from a teacher in another precision."""
        for name, key in self._averaged.items():
            average, tensor = prefix + key, f"{prefix}module.{name}"
            if key not in self._buffers and average in state_dict:
                state_dict[tensor] = state_dict.pop(average)
            elif key in self._buffers and tensor in state_dict:
                state_dict.setdefault(average, state_dict[tensor])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Return the settings."""
        buffers = "average" if self.use_buffers else "copy"
        return f"alpha={self.alpha}, {buffers=}, train_mode={self.train_mode}, warm_up={self.warm_up}"


def _check_unchanged(mine: dict[str, Tensor], its: dict[str, Tensor]) -> None:
    changed = mine.keys() ^ its.keys()
    changed |= {name for name in mine.keys() - changed if mine[name].shape != its[name].shape}
    if changed:
        msg = (
            "`model` must have the weights and buffers that it had when its teacher was built, but these are new, gone "
            f"or of another shape: {sorted(changed)}. Build the teacher when the student is complete."
        )
        raise ValueError(msg)
