"""Layers that do not change features in the forward pass and change the gradient in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn

from adaption import _checks
from adaption._host import readable
from adaption._unmoved import recomputing

_MANY_CALLS = 100  # of a schedule that never moved, until it is said aloud


class _Reversal(torch.autograd.Function):
    """The identity, also for infinities, with the derivative minus the weight.

    A formula such as ``x + w (x' - x)`` with x' = x has this derivative too, but gives infinity minus infinity.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, _: float | Tensor) -> Tensor:
        return features.clone()  # of a view, a layer that works in place could not follow

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float | Tensor], output: Tensor) -> None:  # noqa: ARG004
        weight = inputs[1]
        ctx.weight = None if isinstance(weight, Tensor) else weight
        if isinstance(weight, Tensor):
            ctx.save_for_backward(weight)
            ctx.save_for_forward(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _reversed(ctx, gradient), None


class _ReversalOfTangents(_Reversal):
    """The same for forward-mode derivatives, which the compiler does not support."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Tensor | None) -> Tensor:
        return _reversed(ctx, tangent)


def _reversed(ctx: Any, derivative: Tensor) -> Tensor:
    weight = ctx.saved_tensors[0] if ctx.weight is None else ctx.weight
    reversed_: Tensor = derivative * -weight
    return reversed_


def gradient_reversal(features: Tensor, grad_weight: float | Tensor = 1.0) -> Tensor:
    r"""Return `features`; in the backward pass, multiply the gradient by ``-grad_weight``.

    .. math:: R(x) = x, \qquad \frac{\partial R}{\partial x} = -\lambda I

    It holds for infinities too, and for second derivatives, forward mode and the transforms of ``torch.func``. Under
    :func:`torch.compile`, pass a :math:`\lambda` that changes at every step as a tensor; a new float would recompile.

    Shapes:
        - `features`: any; output: the same

    Args:
        features: the input of the adversary.
        grad_weight: :math:`\lambda`, a number or a scalar tensor.

    Raises:
        TypeError: if `features` is not a floating-point tensor or `grad_weight` is not a number.
        ValueError: if `grad_weight` is a number but not finite, or a tensor of more than one number.

    References:
        Y. Ganin, V. Lempitsky: Unsupervised Domain Adaptation by Backpropagation. ICML 2015.
        https://arxiv.org/abs/1409.7495

    Example:
        >>> import torch
        >>> from adaption.functional import gradient_reversal
        >>> x = torch.ones(2, requires_grad=True)
        >>> gradient_reversal(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    if not isinstance(features, Tensor) or features.numel():
        _checks.tensor("features", features)
    if isinstance(grad_weight, Tensor):
        _checks.scalar("grad_weight", grad_weight)
        grad_weight = grad_weight.to(features.dtype)
    else:
        _checks.number("grad_weight", grad_weight)
    function = _Reversal if torch.compiler.is_compiling() else _ReversalOfTangents
    reversed_: Tensor = function.apply(features, grad_weight)
    return reversed_


class GradientReversalLayer(nn.Module):
    r"""Identity that reverses the gradient and scales it by a constant.

    Between a feature extractor and a discriminator it makes one backward pass serve two opposite objectives: the
    discriminator minimises its loss, the feature extractor maximises it. The function is
    :func:`adaption.functional.gradient_reversal`.

    Shapes:
        - input: any; output: the same

    Args:
        grad_weight: the constant :math:`\lambda`; with 0 the feature extractor gets no gradient.

    Raises:
        TypeError: if `grad_weight` is not a number.
        ValueError: if it is not finite.

    References:
        Y. Ganin, V. Lempitsky: Unsupervised Domain Adaptation by Backpropagation. ICML 2015.
        https://arxiv.org/abs/1409.7495

    Example:
        >>> import torch
        >>> from adaption.layers import GradientReversalLayer
        >>> x = torch.ones(2, requires_grad=True)
        >>> GradientReversalLayer(2.0)(x).sum().backward()
        >>> x.grad
        tensor([-2., -2.])
    """

    def __init__(self, grad_weight: float = 1.0) -> None:
        _checks.number("grad_weight", grad_weight)
        super().__init__()
        self.grad_weight = grad_weight

    def forward(self, features: Tensor) -> Tensor:
        """Return `features`."""
        return gradient_reversal(features, self.grad_weight)

    def extra_repr(self) -> str:
        """Return the setting."""
        return f"grad_weight={self.grad_weight}"


class WarmStartGradientLayer(nn.Module):
    r"""Identity that scales the gradient, without reversing it, by a coefficient that rises during training.

    .. math:: \lambda_i = \mathrm{lo} + (\mathrm{hi} - \mathrm{lo})
              \Bigl(\frac{2}{1 + e^{-\alpha i / N}} - 1\Bigr)

    with the step `i` and :math:`N` = `max_iters`. The bracket is :math:`\tanh(\alpha i / 2N)`, computed in this form in
    float32. Early on, while the adversary is still untrained, its gradient is noise; the warm start increases it only
    gradually. The papers use ``alpha=10`` in DANN (then :math:`\lambda_N` is 0.9999) and ``alpha=1, hi=0.1`` in MDD
    (then it ends at 0.046).

    The step is a buffer: it is saved and moved with the module, and a resumed run continues exactly. It counts in
    training mode only. A schedule that has not advanced after 100 calls in training warns once.

    `auto_step` counts the calls of `forward`, which need not be the steps of the optimizer. Where gradients are
    accumulated over `k` batches, give it `k` times the steps for `max_iters`, or call `step` after
    ``optimizer.step()``. The latter is also right where one step calls the layer several times. In the backward pass,
    where activation checkpointing calls it again, it does not advance, and uses the coefficient of its last call.

    Shapes:
        - input: any; output: the same

    Args:
        alpha: steepness of the rise.
        lo: coefficient at the first step.
        hi: coefficient that it approaches.
        max_iters: number of steps `N` that sets the speed of the rise, which continues beyond.
        auto_step: whether every `forward` in training mode is a step. If not, call `step` after each step of the
            optimizer.

    Raises:
        TypeError: for anything but numbers.
        ValueError: if one is not finite or `max_iters` is below 1.

    References:
        Y. Ganin, E. Ustinova, H. Ajakan, P. Germain, H. Larochelle, F. Laviolette, M. Marchand, V. Lempitsky:
        Domain-Adversarial Training of Neural Networks. JMLR 2016. https://arxiv.org/abs/1505.07818

        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from adaption.layers import WarmStartGradientLayer
        >>> layer = WarmStartGradientLayer(alpha=1.0, max_iters=10)
        >>> for _ in range(10):
        ...     layer.step()
        >>> layer.coefficient
        tensor(0.4621)
    """

    iteration: Tensor
    _sign = 1.0
    _idle_calls: int | None = 0  # in training, before the first step

    def __init__(
        self,
        alpha: float = 1.0,
        lo: float = 0.0,
        hi: float = 1.0,
        max_iters: int = 1000,
        auto_step: bool = False,  # noqa: FBT001, FBT002 - the reference's position
    ) -> None:
        for name, value in (("alpha", alpha), ("lo", lo), ("hi", hi)):
            _checks.number(name, value)
        _checks.count("max_iters", max_iters)
        _checks.flag("auto_step", auto_step)
        super().__init__()
        self.alpha = alpha
        self.lo = lo
        self.hi = hi
        self.max_iters = max_iters
        self.auto_step = auto_step
        self.register_buffer("iteration", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Restart the schedule, for frameworks that allocate memory by ``to_empty``."""
        self.iteration.zero_()

    @property
    def coefficient(self) -> Tensor:
        """The factor of the gradient at the current step, a scalar tensor in float32."""
        return self._at(self.iteration)

    def _at(self, iteration: Tensor) -> Tensor:
        # the quotient of integers would be taken in torch's default dtype, whose largest number may be 65,504
        rise = torch.tanh(0.5 * self.alpha / self.max_iters * iteration.float())
        return self.lo + (self.hi - self.lo) * rise

    def step(self) -> None:
        """Advance the schedule by one step; in eval mode it does not change."""
        if self.training:
            self.iteration += 1
        if not torch.compiler.is_compiling():  # a compiled step would be compiled anew for each number
            self.__dict__["_idle_calls"] = None

    def forward(self, features: Tensor) -> Tensor:
        """Return `features`."""
        steps = self.auto_step and self.training
        if steps and recomputing():
            return gradient_reversal(features, -self._sign * self._at((self.iteration - 1).clamp(min=0)))
        scaled = gradient_reversal(features, -self._sign * self.coefficient)
        if steps:
            self.step()
        elif self._idle_calls is not None and not torch.compiler.is_compiling():
            self._count_idle_call(features)
        return scaled

    def _count_idle_call(self, features: Tensor) -> None:
        """Warn once if the schedule does not advance. On an accelerator its step is not read."""
        if not (self.training and features.requires_grad and self.alpha * (self.hi - self.lo)):
            return
        calls = self.__dict__["_idle_calls"] = (self._idle_calls or 0) + 1
        if calls < _MANY_CALLS:
            return
        self.__dict__["_idle_calls"] = None
        if not readable(self.iteration) or not bool(self.iteration):
            rank_zero_warn(
                f"{type(self).__name__} was called {calls} times in training without a step, so its coefficient stands "
                f"at its start, {self.lo:g}. Pass `auto_step=True`, or call `step()` after each step of the optimizer.",
                UserWarning,
            )

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"alpha={self.alpha}, lo={self.lo}, hi={self.hi}, max_iters={self.max_iters}, auto_step={self.auto_step}"


class WarmStartGradientReversalLayer(WarmStartGradientLayer):
    r"""Identity that reverses the gradient, with a coefficient that rises during training.

    The schedule, its settings and its buffer are those of :class:`WarmStartGradientLayer`; the gradient is multiplied
    by :math:`-\lambda_i`. Pass it to an adversarial loss as ``grl``.

    Shapes:
        - input: any; output: the same

    Args:
        alpha: steepness of the rise.
        lo: coefficient at the first step.
        hi: coefficient that it approaches.
        max_iters: number of steps that sets the speed of the rise.
        auto_step: whether every `forward` in training mode is a step. If not, call `step` after each step of the
            optimizer.

    Raises:
        TypeError: for anything but numbers.
        ValueError: if one is not finite or `max_iters` is below 1.

    References:
        Y. Ganin, E. Ustinova, H. Ajakan, P. Germain, H. Larochelle, F. Laviolette, M. Marchand, V. Lempitsky:
        Domain-Adversarial Training of Neural Networks. JMLR 2016. https://arxiv.org/abs/1505.07818

    Example:
        >>> import torch
        >>> from adaption.layers import WarmStartGradientReversalLayer
        >>> layer = WarmStartGradientReversalLayer(lo=0.5, hi=1.0, auto_step=True)
        >>> x = torch.ones(2, requires_grad=True)
        >>> layer(x).sum().backward()
        >>> x.grad, layer.iteration
        (tensor([-0.5000, -0.5000]), tensor(1))
    """

    _sign = -1.0
