"""MDD: an adversarial head agrees with the main head on the source and disagrees with it on the target."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import _checks, _reduction
from adaption._closed_form import Shortcut, Values
from adaption._metric import AdditiveMetric, Statistics
from adaption._precision import full_precision, log_odds

Disparity = Callable[[Tensor, Tensor], Tensor]
# from the outputs of the main and the adversarial head, those of the source first, to the values of both domains
Disparities = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def margin_disparity_discrepancy(
    source_output: Tensor,
    source_output_adv: Tensor,
    target_output: Tensor,
    target_output_adv: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    source_disparity: Disparity,
    target_disparity: Disparity,
    margin: float = 4.0,
    reduction: str = "mean",
) -> Tensor:
    r"""How much more two heads disagree on the target than on the source.

    .. math:: D = -\frac\gamma n \sum_i w^s_i L_s(y^s_i, \tilde y^s_i) + \frac1m \sum_j w^t_j L_t(y^t_j, \tilde y^t_j)

    with the outputs `y` of the main head and :math:`\tilde y` of the adversarial head for `n` source and `m` target
    samples, the disparities :math:`L_s` and :math:`L_t`, the margin :math:`\gamma`, and weights `w`, 1 by default. The
    mean is taken over each domain separately.

    Shapes:
        - `source_output`, `source_output_adv`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`; those of the target: the same
          with `m`
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`; `target_weights`: the same with `m`
        - output: scalar; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        source_output: the main head's output for the source samples.
        source_output_adv: the adversarial head's for the same samples.
        target_output: the main head's output for the target samples.
        target_output_adv: the adversarial head's for the same samples.
        source_weights: weights of the source samples; they multiply the disparities and are not normalised.
        target_weights: the same for the target samples.
        source_disparity: from the outputs of main and adversarial head to a scalar, which counts as the mean, one value
            per sample, or one per element, which is averaged per sample. A scalar cannot be weighted, nor be reduced
            with ``"none"``.
        target_disparity: the same for the target; it need not be the same measure.
        margin: :math:`\gamma`, the weight of the source.
        reduction: ``"mean"``; ``"sum"``: the sum of both domains; ``"none"``: the sum of source sample i and target
            sample i. The last two need `n = m`.

    Raises:
        TypeError: for anything but floating-point tensors, and disparities that cannot be called.
        ValueError: for empty batches, heads or domains whose shapes differ, weights that do not fit or are negative,
            unequal batches with ``"sum"`` or ``"none"``, and disparities of another shape.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from adaption.functional import margin_disparity_discrepancy
        >>> zeros, ones = torch.zeros(3, 2), torch.ones(5, 2)
        >>> settings = {"source_disparity": F.l1_loss, "target_disparity": F.mse_loss}
        >>> margin_disparity_discrepancy(zeros, zeros + 0.5, ones, ones + 3, **settings)  # -4 * 0.5 + 9
        tensor(7.)
    """
    outputs = source_output, source_output_adv, target_output, target_output_adv
    weights = source_weights, target_weights
    disparities = _each(source_disparity, target_disparity)
    return _reduction.value(
        reduction, *_statistics(*outputs, *weights, disparities=disparities, margin=margin, reduction=reduction)
    )


def _each(source_disparity: Disparity, target_disparity: Disparity) -> Disparities:
    """Both domains, one after the other."""
    for name, disparity in (("source_disparity", source_disparity), ("target_disparity", target_disparity)):
        _checks.function(name, disparity)

    def disparities(source: Tensor, source_adv: Tensor, target: Tensor, target_adv: Tensor) -> tuple[Tensor, Tensor]:
        return source_disparity(source, source_adv), target_disparity(target, target_adv)

    return disparities


@full_precision
def _statistics(
    source_output: Tensor,
    source_output_adv: Tensor,
    target_output: Tensor,
    target_output_adv: Tensor,
    source_weights: Tensor | None,
    target_weights: Tensor | None,
    *,
    disparities: Disparities,
    margin: float,
    reduction: str,
) -> Statistics:
    outputs = source_output, source_output_adv, target_output, target_output_adv
    _check(*outputs, margin, reduction)
    values = disparities(*outputs)
    return _of_values(values, source_output, target_output, source_weights, target_weights, margin, reduction)


def _check(
    source_output: Tensor,
    source_output_adv: Tensor,
    target_output: Tensor,
    target_output_adv: Tensor,
    margin: float,
    reduction: str,
) -> None:
    """The settings, and the outputs of both heads for both domains."""
    _check_settings(margin, reduction)
    for name, main, adv in (
        ("source_output", source_output, source_output_adv),
        ("target_output", target_output, target_output_adv),
    ):
        _checks.batch(name, main)
        _checks.batch(f"{name}_adv", adv)
        _checks.same_shape(name, main, f"{name}_adv", adv)
    _checks.same_layer("source_output", source_output, "target_output", target_output)
    if reduction != "mean":
        _checks.same_size("source_output", source_output, "target_output", target_output, f'reduction="{reduction}"')


def _of_values(
    values_of_both: Values,
    source_output: Tensor,
    target_output: Tensor,
    source_weights: Tensor | None,
    target_weights: Tensor | None,
    margin: float,
    reduction: str,
) -> Statistics:
    """The statistics of the disparities of both domains."""
    losses = []
    for domain, values, main, weights in (
        ("source", values_of_both[0], source_output, source_weights),
        ("target", values_of_both[1], target_output, target_weights),
    ):
        need = f"`{domain}_weights`" if weights is not None else 'reduction="none"' if reduction == "none" else None
        per_sample = _reduction.per_sample(f"{domain}_disparity", values, main, need)
        losses.append(_reduction.weighted(f"{domain}_weights", per_sample, weights))
    return _reduction.statistics(reduction, -margin * losses[0], losses[1])


def _check_settings(margin: float, reduction: str) -> None:
    _checks.positive("margin", margin)
    _reduction.check(reduction)


def classification_margin_disparity_discrepancy(
    source_output: Tensor,
    source_output_adv: Tensor,
    target_output: Tensor,
    target_output_adv: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    margin: float = 4.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Margin disparity discrepancy of two classifier heads.

    .. math::
        D = \frac\gamma n \sum_i w^s_i \log p(\hat y^s_i \mid s_i) + \frac1m \sum_j w^t_j
              \log(1 - p(\hat y^t_j \mid t_j))

    with the class :math:`\hat y` of the main head's largest logit, the probability `p` that the adversarial head gives
    it, the margin :math:`\gamma`, and weights `w`, 1 by default. Only the adversarial logits receive a gradient. Both
    logarithms are computed from the logit of :math:`\hat y` against all other classes: exact where `p` is 1 or 0 in
    floating point, and with a gradient of 1 where :math:`\log(1 - p)` grows without bound.

    Shapes:
        - `source_output`, `source_output_adv`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`, at least two classes; those
          of the target: the same with `m`
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`; `target_weights`: the same with `m`
        - output: scalar, at most 0; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        source_output: the main head's logits for the source samples.
        source_output_adv: the adversarial head's for the same samples.
        target_output: the main head's logits for the target samples.
        target_output_adv: the adversarial head's for the same samples.
        source_weights: weights of the source samples; they multiply the losses and are not normalised.
        target_weights: the same for the target samples.
        margin: :math:`\gamma`, the weight of the source; the paper takes 2 to 4.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, as in :func:`margin_disparity_discrepancy`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: for a single class, for probabilities instead of adversarial logits, and as
            :func:`margin_disparity_discrepancy`.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from adaption.functional import classification_margin_disparity_discrepancy
        >>> logits = torch.zeros(3, 2)  # two classes, p = 1 / 2: -(4 + 1) log 2
        >>> classification_margin_disparity_discrepancy(logits, logits, logits, logits)
        tensor(-3.4657)
    """
    outputs = source_output, source_output_adv, target_output, target_output_adv
    weights = source_weights, target_weights
    return _value_of_classifiers(
        reduction, *_statistics_of_classifiers(*outputs, *weights, margin=margin, reduction=reduction)
    )


@full_precision
def _statistics_of_classifiers(
    source_output: Tensor,
    source_output_adv: Tensor,
    target_output: Tensor,
    target_output_adv: Tensor,
    source_weights: Tensor | None,
    target_weights: Tensor | None,
    *,
    margin: float,
    reduction: str,
) -> Statistics:
    """Behind the statistics of a mean without weights comes its value: one pass computes both."""
    outputs = source_output, source_output_adv, target_output, target_output_adv
    _check(*outputs, margin, reduction)
    tensors = _of_classes(*outputs)
    if reduction == "mean" and source_weights is target_weights is None:
        value, source, target = _mean(*tensors, margin=margin, n=len(source_output))
        return source, _places(source_output), target, _places(target_output), value
    log_p, log_rest = _log_probabilities(*tensors)
    values = -log_p, log_rest
    return _of_values(values, source_output, target_output, source_weights, target_weights, margin, reduction)


def _value_of_classifiers(reduction: str, *statistics: Any) -> Tensor:
    value: Tensor = statistics[4] if len(statistics) == 5 else _reduction.value(reduction, *statistics)
    return value


def _places(output: Tensor) -> int:
    """The number of samples, or of all their positions."""
    return output.numel() // output.shape[1]


def _of_classes(source: Tensor, source_adv: Tensor, target: Tensor, target_adv: Tensor) -> Values:
    """The main head's classes and their logits, and the adversarial head's logits."""
    _checks.not_probabilities("source_output_adv", source_adv)
    _checks.not_probabilities("target_output_adv", target_adv)
    largest, labels = torch.cat([source.detach(), target.detach()]).max(1, keepdim=True)
    return labels, largest, source_adv, target_adv


def _log_probabilities(labels: Tensor, largest: Tensor, source_adv: Tensor, target_adv: Tensor) -> Values:
    """``log p`` and ``log(1 - p)`` of the labels, from their log-odds ``log(p / (1 - p))``."""
    adv = torch.cat([source_adv, target_adv])
    # the smallest number and not minus infinity: where all others are that, the largest of them is to be finite
    others = adv.scatter(1, labels, torch.finfo(adv.dtype).min)
    # plus 0, but NaN where the main head's logits are not finite: those have no largest
    logit = torch.add(adv.gather(1, labels), largest, alpha=0).to(adv.dtype)
    odds = log_odds(logit.squeeze(1), others)
    return F.logsigmoid(odds[: len(source_adv)]), F.logsigmoid(-odds[len(source_adv) :])


def _mean_formula(*tensors: Tensor, margin: float, **_: int) -> Values:
    """The sum of the means of both domains, and without gradient the sum of each, for the epoch."""
    source, target = _log_probabilities(*tensors)
    source = margin * source
    return source.mean() + target.mean(), source.detach().sum(), target.detach().sum()


def _mean_evaluate(
    labels: Tensor, largest: Tensor, source_adv: Tensor, target_adv: Tensor, *, margin: float, n: int
) -> tuple[Values, Values]:
    others = torch.cat([source_adv, target_adv])
    odds = others.gather(1, labels).add_(largest, alpha=0)  # plus 0 or NaN, as in the formula
    top = others.scatter_(1, labels, torch.finfo(others.dtype).min).amax(1, keepdim=True)
    sums = others.sub_(top).exp_().sum(1, keepdim=True)
    odds.sub_(top).sub_(sums.log())
    odds[n:].neg_()
    logs = F.logsigmoid(odds)
    log_p, log_rest = logs[:n], logs[n:]
    source, target = log_p.sum().mul_(margin), log_rest.sum()
    value = torch.add(source / log_p.numel(), target, alpha=1 / log_rest.numel())
    return (value, source, target), (logs, labels, others, sums)


def _mean_gradients(notes: Values, outer: Values, margin: float, n: int) -> tuple[Tensor | None, ...]:
    """The log-odds have the derivative 1 for the label, and minus a softmax for the others."""
    logs, labels, others, sums = notes
    slopes = torch.expm1(logs)  # minus the derivative of the logarithm of a sigmoid
    source, target = slopes[:n], slopes[n:]
    source.mul_(-margin / source.numel())
    target.mul_(1 / target.numel())
    slopes = slopes * outer[0]  # not in place: there may be several gradients at once
    gradient = (others * (slopes / -sums)).scatter_(1, labels, slopes)
    return None, None, gradient[:n], gradient[n:]


_mean = Shortcut(_mean_formula, _mean_evaluate, _mean_gradients, constants=2)


def regression_margin_disparity_discrepancy(
    source_output: Tensor,
    source_output_adv: Tensor,
    target_output: Tensor,
    target_output_adv: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    margin: float = 1.0,
    loss_function: Callable[..., Tensor] = F.l1_loss,
    reduction: str = "mean",
) -> Tensor:
    r"""Margin disparity discrepancy of two regression heads.

    .. math:: D = -\frac\gamma n \sum_i w^s_i \ell(\tilde y^s_i, y^s_i) + \frac1m \sum_j w^t_j \ell(\tilde y^t_j, y^t_j)

    with the outputs `y` of the main head, held constant in the differentiation, and :math:`\tilde y` of the adversarial
    head, the loss :math:`\ell` averaged over the factors of a sample, the margin :math:`\gamma`, and weights `w`, 1 by
    default.

    Shapes:
        - `source_output`, `source_output_adv`: :math:`(n, f)` or :math:`(n, f, d_1, ..)`; those of the target: the same
          with `m`
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`; `target_weights`: the same with `m`
        - output: scalar; with ``reduction="none"`` :math:`(n,)` or :math:`(n, d_1, ..)`

    Args:
        source_output: the main head's output for the source samples.
        source_output_adv: the adversarial head's for the same samples.
        target_output: the main head's output for the target samples.
        target_output_adv: the adversarial head's for the same samples.
        source_weights: weights of the source samples; they multiply the losses and are not normalised.
        target_weights: the same for the target samples.
        margin: :math:`\gamma`, the weight of the source.
        loss_function: called as ``loss_function(adversarial, main, reduction="none")``, as torch's losses take it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, as in :func:`margin_disparity_discrepancy`.

    Raises:
        TypeError: for anything but floating-point tensors, and a `loss_function` that does not take ``reduction``.
        ValueError: as :func:`margin_disparity_discrepancy`.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from adaption.functional import regression_margin_disparity_discrepancy
        >>> zeros, ones = torch.zeros(3, 2), torch.ones(5, 2)
        >>> regression_margin_disparity_discrepancy(zeros, zeros + 0.5, ones, ones + 3)  # -0.5 + 3
        tensor(2.5000)
    """
    outputs = source_output, source_output_adv, target_output, target_output_adv
    weights = source_weights, target_weights
    _check_loss_function(loss_function)
    disparities = _of_regressors(loss_function)
    return _reduction.value(
        reduction, *_statistics(*outputs, *weights, disparities=disparities, margin=margin, reduction=reduction)
    )


def _of_regressors(loss_function: Callable[..., Tensor]) -> Disparities:
    def disparity(output: Tensor, output_adv: Tensor) -> Tensor:
        values = loss_function(output_adv, output.detach(), reduction="none")
        return _reduction.per_sample("loss_function", values, output, 'reduction="none"')

    return _each(disparity, disparity)


def _check_loss_function(loss_function: Callable[..., Tensor]) -> None:
    _checks.function("loss_function", loss_function)
    if torch.compiler.is_compiling():
        return
    called = loss_function.forward if isinstance(loss_function, nn.Module) else loss_function
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except ValueError:  # some functions written in C do not tell
        return
    if not any(parameter.name == "reduction" or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        msg = (
            "`loss_function` must take `reduction`, as torch.nn.functional.l1_loss does, but got "
            f"{type(loss_function).__name__} without it. Pass a function of torch.nn.functional."
        )
        raise TypeError(msg)


@full_precision
def shift_log(x: Tensor, offset: float = 1e-6) -> Tensor:
    r"""Logarithm of shifted probabilities, for ported code; no loss of this library needs it.

    .. math:: y = \log(\min(x + \varepsilon, 1))

    It bounds the value by :math:`\log \varepsilon` and stops the gradient above :math:`1 - \varepsilon`. The losses
    here start from logits instead, where neither is necessary.

    Shapes:
        - `x`: any; output: the same, in float32 at least

    Args:
        x: probabilities.
        offset: :math:`\varepsilon`.

    Raises:
        TypeError: for anything but a floating-point tensor.
        ValueError: for an empty tensor, and an offset that is not finite and at least 1.2e-38, the smallest normal
            number of float32.

    References:
        J. Jiang, Y. Shu, J. Wang, M. Long: Transferability in Deep Learning: A Survey. 2022, with the library TLLib.
        https://arxiv.org/abs/2201.05867

    Example:
        >>> import torch
        >>> from adaption.functional import shift_log
        >>> shift_log(torch.tensor([0.0, 0.5, 1.0]))
        tensor([-13.8155,  -0.6931,   0.0000])
    """
    _checks.tensor("x", x)
    _checks.positive("offset", offset)
    return (x + offset).clamp(max=1).log()


class _MarginDisparity(AdditiveMetric):
    """Two heads on two domains: the base of the three losses below."""

    higher_is_better = None  # of a game, neither: the adversarial head raises what the features lower

    def __init__(self, margin: float, reduction: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.margin = margin
        self.reduction = reduction
        if reduction == "none":
            self._keep_samples("values")
        else:
            self._keep_sums("source_disparities", "num_source", "target_disparities", "num_target")

    @abstractmethod
    def _measured(self, *batch: Any) -> Statistics:
        """The statistics of the outputs and weights of both domains."""

    def update(
        self,
        source_output: Tensor,
        source_output_adv: Tensor,
        target_output: Tensor,
        target_output_adv: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> None:
        """Add a batch to the epoch value."""
        outputs = source_output, source_output_adv, target_output, target_output_adv
        self._accumulate(self._statistics(*outputs, source_weights, target_weights))

    def _statistics(
        self,
        source_output: Tensor,
        source_output_adv: Tensor,
        target_output: Tensor,
        target_output_adv: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Statistics:
        outputs = source_output, source_output_adv, target_output, target_output_adv
        return self._measured(*outputs, source_weights, target_weights)

    def _value(self, *statistics: Any) -> Tensor:
        return _reduction.value(self.reduction, *statistics)


class MarginDisparityDiscrepancy(_MarginDisparity):
    r"""Margin disparity discrepancy of custom disparities: the adversarial head maximises, the features minimise it.

    The adversarial head learns outputs that are close to the main head's on the source and far from them on the target.
    A gradient reversal between features and adversarial head, as in :class:`adaption.layers.ImageClassifier`, reverses
    the sign for the features, so **subtract** the value: ``(task - metric(..)).backward()`` trains both.

    The formula is that of :func:`adaption.functional.margin_disparity_discrepancy`. `compute` is exact over the epoch,
    where scalar disparities are means over the samples; the mean is taken over each domain separately.

    Inputs of `update` and `forward`:
        - `source_output`, `source_output_adv`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`, of the main and the
          adversarial head; `target_output`, `target_output_adv`: the same with `m`; `n` and `m` may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, optional; `target_weights`: the same with `m`

    Output: scalar of either sign; with ``reduction="none"`` one value per pair.

    Args:
        source_disparity: from the outputs of main and adversarial head to a scalar, one value per sample, or one per
            element; see the function.
        target_disparity: the same for the target.
        margin: the weight of the source.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; see the function. ``"none"`` keeps every value of the epoch.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and disparities that cannot be called.
        ValueError: as :func:`adaption.functional.margin_disparity_discrepancy`.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from adaption import MarginDisparityDiscrepancy
        >>> mdd = MarginDisparityDiscrepancy(F.l1_loss, F.l1_loss, margin=2.0)
        >>> zeros = torch.zeros(3, 2)
        >>> mdd(zeros, zeros + 1, zeros, zeros + 5)
        tensor(3.)
    """

    def __init__(
        self,
        source_disparity: Disparity,
        target_disparity: Disparity,
        margin: float = 4.0,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        _each(source_disparity, target_disparity)
        _check_settings(margin, reduction)
        super().__init__(margin, reduction, **kwargs)
        self.source_disparity = source_disparity
        self.target_disparity = target_disparity

    def _measured(self, *batch: Any) -> Statistics:
        disparities = _each(self.source_disparity, self.target_disparity)
        return _statistics(*batch, disparities=disparities, margin=self.margin, reduction=self.reduction)


class ClassificationMarginDisparityDiscrepancy(_MarginDisparity):
    r"""Margin disparity discrepancy of classifiers: the adversarial head maximises it, the features minimise it.

    The adversarial head learns to predict the main head's class on the source and any other class on the target. Both
    terms are logarithms of probabilities, so the value is negative in training, and its upper bound is 0. A gradient
    reversal between features and adversarial head reverses the sign for the features, so **subtract** the value:
    ``(task - metric(..)).backward()`` trains both.

    The formula is that of :func:`adaption.functional.classification_margin_disparity_discrepancy`. `compute` is exact
    over the epoch; each domain has its own mean.

    Inputs of `update` and `forward`:
        - `source_output`, `source_output_adv`: :math:`(n, c)` or :math:`(n, c, d_1, ..)`, logits of the main and the
          adversarial head; `target_output`, `target_output_adv`: the same with `m`; `n` and `m` may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, optional; `target_weights`: the same with `m`

    Output: scalar, at most 0; with ``reduction="none"`` one value per pair.

    Args:
        margin: the weight of the source; 1 gives the disparity discrepancy (DD).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; see the function. ``"none"`` keeps every value of the epoch.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors.
        ValueError: as :func:`adaption.functional.classification_margin_disparity_discrepancy`.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from adaption import ClassificationMarginDisparityDiscrepancy
        >>> mdd = ClassificationMarginDisparityDiscrepancy(margin=4.0)
        >>> main, adversarial = torch.tensor([[5.0, 0.0]]), torch.tensor([[2.0, 0.0]], requires_grad=True)
        >>> loss = mdd(main, adversarial, main, torch.tensor([[100.0, 0.0]]))
        >>> loss.detach()  # 4 log 0.88, and log(1 - p) = -100
        tensor(-100.5077)
        >>> (-loss).backward()
        >>> adversarial.grad  # a descent step lets the adversarial head agree on the source
        tensor([[-0.4768,  0.4768]])
    """

    plot_upper_bound = 0.0

    def __init__(self, margin: float = 4.0, reduction: str = "mean", **kwargs: Any) -> None:
        _check_settings(margin, reduction)
        super().__init__(margin, reduction, **kwargs)

    def _measured(self, *batch: Any) -> Statistics:
        return _statistics_of_classifiers(*batch, margin=self.margin, reduction=self.reduction)

    def _batch_value(self, *statistics: Any) -> Tensor:
        return _value_of_classifiers(self.reduction, *statistics)


class RegressionMarginDisparityDiscrepancy(_MarginDisparity):
    r"""Margin disparity discrepancy of regressors: the adversarial head maximises it, the features minimise it.

    The adversarial head learns to predict what the main head predicts on the source and something else on the target. A
    gradient reversal between features and adversarial head, as in :class:`adaption.layers.ImageRegressor`, reverses the
    sign for the features, so **subtract** the value: ``(task - metric(..)).backward()`` trains both. The main head's
    output is detached. The value is bounded only if the outputs are: scale the factors to 0..1 and end both heads in a
    sigmoid.

    The formula is that of :func:`adaption.functional.regression_margin_disparity_discrepancy`. `compute` is exact over
    the epoch; each domain has its own mean.

    Inputs of `update` and `forward`:
        - `source_output`, `source_output_adv`: :math:`(n, f)` or :math:`(n, f, d_1, ..)`, of the main and the
          adversarial head; `target_output`, `target_output_adv`: the same with `m`; `n` and `m` may differ
        - `source_weights`: :math:`(n,)` or :math:`(n, 1)`, optional; `target_weights`: the same with `m`

    Output: scalar of either sign; with ``reduction="none"`` one value per pair.

    Args:
        margin: the weight of the source.
        loss_function: called as ``loss_function(adversarial, main, reduction="none")``, as torch's losses take it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; see the function. ``"none"`` keeps every value of the epoch.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for anything but floating-point tensors, and a `loss_function` that does not take ``reduction``.
        ValueError: as :func:`adaption.functional.regression_margin_disparity_discrepancy`.

    References:
        Y. Zhang, T. Liu, M. Long, M. Jordan: Bridging Theory and Algorithm for Domain Adaptation. ICML 2019.
        https://arxiv.org/abs/1904.05801

    Example:
        >>> import torch
        >>> from adaption import RegressionMarginDisparityDiscrepancy
        >>> mdd = RegressionMarginDisparityDiscrepancy()
        >>> zeros = torch.zeros(3, 2)
        >>> mdd(zeros, zeros + 1, zeros, zeros + 5)
        tensor(4.)
    """

    def __init__(
        self,
        margin: float = 1.0,
        loss_function: Callable[..., Tensor] = F.l1_loss,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        _check_loss_function(loss_function)
        _check_settings(margin, reduction)
        super().__init__(margin, reduction, **kwargs)
        self.loss_function = loss_function

    def _measured(self, *batch: Any) -> Statistics:
        disparities = _of_regressors(self.loss_function)
        return _statistics(*batch, disparities=disparities, margin=self.margin, reduction=self.reduction)
