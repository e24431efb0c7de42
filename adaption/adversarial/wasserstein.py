"""WDGRL: a critic of bounded slope separates the scores of the domains; the features bring them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.utilities import rank_zero_warn

from adaption import _checks
from adaption._draws import Draws
from adaption._metric import AdditiveMetric, Statistics
from adaption._modes import inside_transforms
from adaption._passes import passed, spare_buffers
from adaption._precision import as_parameters, full_precision
from adaption.adversarial._discriminator import Discriminator, check_discriminator, through
from adaption.layers.gradient_reversal import GradientReversalLayer

_BITS = 24  # the precision of float32


class WassersteinDomainLoss(AdditiveMetric):
    r"""Wasserstein distance by a critic (WDGRL): the critic minimises it, the feature extractor maximises it.

    .. math::
        L = \frac1m \sum_j D(t_j) - \frac1n \sum_i D(s_i)
            + \gamma \frac1k \sum_l \bigl(\lVert \nabla D(x_l) \rVert - 1\bigr)^2

    with the critic `D`, which gives each sample a score, `n` source features `s` and `m` target features `t`, and the
    weight :math:`\gamma` of the penalty. Its :math:`k = \max(n, m)` points lie between a random source and a random
    target sample: :math:`x = a s_i + (1 - a) t_j`, with :math:`a` uniformly distributed from 0 to 1.

    The critic learns scores that are high on the source and low on the target. Among all critics whose slope is at most
    1, the largest difference of the mean scores is the Wasserstein-1 distance between the domains; the penalty pulls
    the slope between them towards 1. A gradient reversal between features and critic reverses the sign, so that the
    features make the difference small. They get no gradient from the penalty. Do not subtract the loss.

    The distance has a gradient even where the domains do not overlap and that of a discriminator vanishes. It is useful
    once the critic is near its optimum: train the critic for several steps, then the features for one.

    The points are computed from the number of calls, a buffer: torch's generators do not change, and a resumed run
    continues with the same points. In training every call has new ones, in evaluation all calls have the same.
    `compute` returns the value with each mean taken over all batches and ranks. In `update`, under ``torch.no_grad()``
    and in inference mode the penalty is computed as in training, and nothing is recorded.

    Inputs of `update` and `forward`:
        - `source_features`: :math:`(n, d)`, or :math:`(n, ..)` as the critic takes it; `target_features`: the same with
          `m`; `n` and `m` may differ

    Output: scalar; without the penalty, minus the distance that the critic finds.

    Args:
        critic: a Module or another callable from features to one score each, of shape ``(N, 1)`` or ``(N,)``, such as
            :class:`adaption.layers.DomainDiscriminator` with ``batch_norm=False``. It must be differentiable twice.
            With a penalty, batch normalisation inside causes a warning: a score would depend on the other samples.
        gradient_penalty: the weight :math:`\gamma`. At 0 there are no points and no second derivatives, for critics
            whose slope is bounded by construction, as with spectral normalisation.
        grl: the gradient reversal, by default ``GradientReversalLayer(1.0)``.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, a critic or `grl` that is not callable, a critic that does
            not return a tensor, and a weight that is not a number.
        ValueError: for empty batches, differing shapes of the samples, a critic that returns anything but one score for
            each sample, and a weight below 0.

    References:
        J. Shen, Y. Qu, W. Zhang, Y. Yu: Wasserstein Distance Guided Representation Learning for Domain Adaptation.
        AAAI 2018. https://arxiv.org/abs/1707.01217

        I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin, A. Courville: Improved Training of Wasserstein GANs.
        NeurIPS 2017. https://arxiv.org/abs/1704.00028

    Example:
        The slope of this critic is 3 everywhere. Its mean scores are 3 and 9, and the penalty is 10 * (3 - 1)^2.

        >>> import torch
        >>> from adaption import WassersteinDomainLoss
        >>> wdgrl = WassersteinDomainLoss(lambda features: 3 * features)
        >>> source = torch.tensor([[0.0], [2.0]], requires_grad=True)
        >>> loss = wdgrl(source, torch.tensor([[3.0]]))
        >>> loss.detach()
        tensor(46.)
        >>> loss.backward()
        >>> source.grad  # a descent step moves the source away from the target: this critic has the signs wrong
        tensor([[1.5000],
                [1.5000]])
    """

    higher_is_better = None  # of a game, neither: the features raise what the critic lowers

    def __init__(
        self, critic: Discriminator, *, gradient_penalty: float = 10.0, grl: nn.Module | None = None, **kwargs: Any
    ) -> None:
        check_discriminator("critic", critic, "Scores within bounds cannot be as far apart as the domains are")
        _checks.number("gradient_penalty", gradient_penalty, at_least=0)
        if gradient_penalty > 0:
            _warn_of_batch_norm(critic)
        _checks.reversal("grl", grl)
        super().__init__(**kwargs)
        self.critic = critic
        self.gradient_penalty = gradient_penalty
        self.grl = GradientReversalLayer(1.0) if grl is None else grl
        self.points = _Points()
        self._keep_sums("source_scores", "num_source", "target_scores", "num_target")
        if gradient_penalty > 0:
            self._keep_sums("penalties", "num_points")

    def update(self, source_features: Tensor, target_features: Tensor) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(source_features, target_features))

    def _statistics(self, source_features: Tensor, target_features: Tensor) -> Statistics:
        _checks.batch("source_features", source_features)
        _checks.batch("target_features", target_features)
        _checks.same_layer("source_features", source_features, "target_features", target_features)
        _checks.fits("source_features", source_features, "critic", self.critic)
        features, n = torch.cat([source_features, target_features]), len(source_features)
        seen = through(self.grl, features)
        scores = _scores(seen, self.critic(as_parameters(self.critic, seen)))
        sums = scores[:n].sum(), n, scores[n:].sum(), len(target_features)
        if self.gradient_penalty == 0:
            return sums
        penalties = _penalties(self.critic, self.points(features[:n].detach(), features[n:].detach()))
        return *sums, penalties.sum(), len(penalties)

    def _value(self, *statistics: Any) -> Tensor:
        means = [total / number for total, number in zip(statistics[::2], statistics[1::2], strict=True)]
        distance: Tensor = means[1] - means[0]
        return distance + self.gradient_penalty * means[2] if self.gradient_penalty > 0 else distance


def _warn_of_batch_norm(critic: object) -> None:
    modules = critic.modules() if isinstance(critic, nn.Module) else ()
    if any(isinstance(module, _BatchNorm) for module in modules):
        rank_zero_warn(
            "`critic` must not normalise over the batch, because a score would have a slope by every sample, but has "
            "batch normalisation inside. Build it without, as `DomainDiscriminator(.., batch_norm=False)`, or with "
            "`nn.LayerNorm`.",
            UserWarning,
        )


@full_precision
def _scores(samples: Tensor, answer: Any) -> Tensor:
    """The critic's scores, one number for each sample."""
    _checks.tensor("critic(x)", answer)
    number = len(samples)
    if answer.shape not in {(number,), (number, 1)}:
        msg = (
            f"`critic` must give one score for each of the {number} samples, shape ({number}, 1) or ({number},), but "
            f"gave shape {_checks.shape(answer)}. End it in a single output, and average over the places of an image."
        )
        raise ValueError(msg)
    scores: Tensor = answer.flatten()
    return scores


class _Points(Draws):
    """Points between random samples of both domains."""

    @full_precision
    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """As many points as the larger domain has samples."""
        number = max(len(source), len(target))
        bits = (self.draw(3 * number, source.device) >> 64 - _BITS).bitwise_and_(2**_BITS - 1)
        first, second, place = bits.view(3, number)
        of_source, of_target = source[first * len(source) >> _BITS], target[second * len(target) >> _BITS]
        share = place.to(source.dtype) / 2**_BITS
        return torch.lerp(of_target, of_source, share.view(-1, *[1] * (source.ndim - 1)))


@full_precision
def _penalties(critic: Discriminator, points: Tensor) -> Tensor:
    """The squared difference of the critic's slope from 1 at each point, with derivatives outside of autocast."""

    def total(points: Tensor) -> Tensor:
        samples = as_parameters(critic, points)
        if isinstance(critic, nn.Module) and not isinstance(critic, torch.jit.ScriptModule):
            # other buffers: running statistics are to know the samples, and no points between them
            return _scores(points, passed(critic, spare_buffers(critic), samples)).sum()
        return _scores(points, critic(samples)).sum()

    slopes: Tensor = torch.linalg.vector_norm(_gradient(total, points).flatten(1), dim=1)
    return (slopes - 1).square()


def _gradient(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The gradient of a scalar, in every mode of torch, and with a graph where the caller records one."""
    if torch.compiler.is_compiling() or inside_transforms() or torch.is_inference_mode_enabled():
        gradient: Tensor = torch.func.grad(function)(points)
        return gradient
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        value = function(points)
        if not value.requires_grad:  # a constant
            return torch.zeros_like(points)
        (gradient,) = torch.autograd.grad(
            value, points, create_graph=recorded, allow_unused=True, materialize_grads=True
        )
    return gradient
