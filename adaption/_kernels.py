r"""Gaussian kernels, and the quadratic form :math:`w^\top K w` with its gradient.

All estimators of the MMD are sums of such forms, :math:`\operatorname{tr} W^\top K W` with few columns. Where the
weight of a pair also depends on whether its rows belong to the same class, it replaces :math:`(W W^\top)_{ij}` below.

With squared distances :math:`D_{ij} = |x_i - x_j|^2`, a bandwidth :math:`b` and `k` kernels

.. math:: K_{ij} = \frac1k \sum_{s=0}^{k-1} e^{-2^{s - \lfloor k/2 \rfloor} D_{ij} / b}.

The scales are powers of two, so each exponential is the square of the previous one. With
:math:`P_{ij} = (W W^\top)_{ij} \, \partial K_{ij} / \partial D_{ij}` the gradient of the form F is, at a constant
bandwidth,

.. math:: g_i = 4 \sum_j P_{ij} (x_i - x_j), \qquad \nabla_W = 2 K W,

and comes from the same pass as the value. A bandwidth that depends on the rows is part of the differentiation. The
kernels depend on :math:`D / b` alone, so nothing changes if the rows grow by a factor and the bandwidth by its square.
By Euler's theorem then :math:`\partial F / \partial b = -\sum_i x_i^\top g_i / 2b`, and

.. math:: \nabla_{x_i} F = g_i - \frac{\sum_j x_j^\top g_j}{2 b} \, \nabla_{x_i} b

without another pass over the pairs. With several layers this holds for each of them with its own bandwidth.

The pass goes over the tiles of the upper triangle: one product gives the distances of a tile, one exponential and a few
in-place squarings give the kernels, and two products give the contributions of the tile to the gradients of its rows
and of its columns. Nothing of the size of all pairs is stored, and nothing at all for backward.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from adaption._closed_form import ClosedForm
from adaption._dense import dense_form, fits
from adaption._distances import Distances, Span, part
from adaption._host import asks
from adaption._queued import QueuedDistances

Bandwidth = str | float
Factor = Distances | QueuedDistances
Rate = float | Tensor  # a number, or on an accelerator a scalar tensor, which the host does not read

# The relative error of an exponential doubles at each squaring: every so many kernels a fresh exponential is taken.
_SQUARINGS = 5
# exp2 is several times faster than exp on a CPU, most of all where the result underflows.
_LN2 = math.log(2)
_RULES = {-1.0: "median", -2.0: "mean"}


def quadratic_form(
    layers: Sequence[Tensor], weights: Tensor, num_kernels: Sequence[int], bandwidths: Sequence[Bandwidth]
) -> Tensor:
    """``trace(W' K W)`` with the kernel ``K`` of the rows of `layers`, multiplied over the layers.

    Args:
        layers: one tensor of shape ``(N, d)`` per layer.
        weights: one or more weights per row, shape ``(N, r)``.
        num_kernels: number of Gaussians of each layer.
        bandwidths: for each layer ``"median"`` or ``"mean"`` of the off-diagonal squared distances, or a number.
    """
    return _quadratic_form([weights, *layers], [*num_kernels, *map(_code, bandwidths)])


def class_form(
    features: Tensor,
    classes: Tensor,
    weights: Tensor,
    alike: Tensor,
    unlike: Tensor,
    num_kernels: int,
    bandwidth: Bandwidth,
) -> Tensor:
    """The sum over all i, j of ``K_ij w_i' A w_j``, where `A` is `alike` for rows of one class, `unlike` for others.

    Only the features get a gradient.

    Args:
        features: shape ``(N, d)``.
        classes: a number for the class of each row, shape ``(N,)``, in the dtype of the features.
        weights: one or more weights per row, shape ``(N, r)``.
        alike: shape ``(r, r)``, symmetric.
        unlike: the same.
        num_kernels: number of Gaussians.
        bandwidth: ``"median"`` or ``"mean"`` of the off-diagonal squared distances, or their place in numbers.
    """
    return _class_form([features, classes, weights, alike, unlike], [num_kernels, _code(bandwidth)])


def off_diagonal_sums(
    features: Tensor, columns: Tensor, num_kernels: int, bandwidth: Bandwidth, *, labelings: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the kernel matrix `K` of the rows of `features` without its diagonal, from one pass over the tiles.

    A constant is subtracted from all off-diagonal entries, so that they lie around 0 and little is lost to rounding:
    use these sums only for quantities that do not depend on it.

    Args:
        features: shape ``(N, d)``.
        columns: shape ``(N, r)``.
        num_kernels: number of Gaussians.
        bandwidth: ``"median"`` or ``"mean"`` of the off-diagonal squared distances, or their place in numbers.
        labelings: shape ``(N, P)``, boolean.

    Returns:
        ``K columns``, the sum of the squares of `K`, and ``u' K u`` of each labeling, in float64.
    """
    factor = _factor(features, bandwidth, num_kernels)
    dtype = factor.rows.dtype
    product = _Product(columns.to(dtype), 1 / num_kernels)
    squares, forms = torch.zeros((2, 1), dtype=torch.float64, device=features.device)
    level: Tensor | float = 0.0
    for number, (rows, others) in enumerate(factor.tiles):
        kernel = _gaussians(
            factor, (rows, others), 2.0 ** -(num_kernels // 2) / factor.bandwidth, num_kernels, differentiate=False
        )[0]
        if number == 0:
            size = len(kernel)
            level = kernel.fill_diagonal_(0).sum() / (size * size - size)
        kernel -= level
        if rows == others:
            kernel.fill_diagonal_(0)
        product.add(kernel, rows, others)
        times = 1 if rows == others else 2  # the tile below the diagonal is this one turned over
        squares = squares + times * torch.dot(kernel.flatten(), kernel.flatten())
        if labelings is not None:
            mixed = torch.mm(kernel, part(labelings, others).to(dtype))
            forms = forms + times * mixed.mul_(part(labelings, rows)).sum(0, dtype=torch.float64)
    return product.total.double(), squares[0] / num_kernels**2, forms / num_kernels


def pairwise_bandwidth(features: Tensor, bandwidth: Bandwidth) -> Tensor:
    """The bandwidth that `bandwidth` specifies for the rows of `features`."""
    return _pairwise_bandwidth([features], [_code(bandwidth)])


def gaussians(distances: Tensor, bandwidth: Tensor, num_kernels: int) -> Tensor:
    """The mean of the Gaussian kernels of squared distances, by plain autograd."""
    scaled = distances / bandwidth
    scales = [2.0 ** (s - num_kernels // 2) for s in range(num_kernels)]
    return torch.stack([torch.exp(-scale * scaled) for scale in scales]).mean(0)


def usable(distances: Tensor, bandwidth: Tensor) -> Tensor:
    """`bandwidth`, or the mean of `distances` where it is 0, or 1 where all distances are 0."""
    bandwidth = torch.where(bandwidth == 0, distances.mean(), bandwidth)
    return torch.where(bandwidth == 0, torch.ones_like(bandwidth), bandwidth)


def _code(bandwidth: Bandwidth) -> float:
    """The bandwidth as a number, because an operator takes no strings; a bandwidth is never negative."""
    return next(code for code, rule in _RULES.items() if rule == bandwidth) if isinstance(bandwidth, str) else bandwidth


def _rule(code: float) -> Bandwidth:
    return _RULES.get(code, code)


def _evaluate_bandwidth(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    (features,) = tensors
    distances = _factor(features, _rule(options[0]))
    if _unknown(distances):
        return _nothing(features.new_tensor(math.nan), tensors, needed)
    bandwidth = distances.bandwidth * distances.size**2
    results = [bandwidth.to(features.dtype) if isinstance(bandwidth, Tensor) else features.new_tensor(bandwidth)]
    if needed[0]:
        gradient = torch.zeros_like(distances.rows)
        distances.add_bandwidth_gradient(gradient, distances.size)
        results.append(gradient.to(features))
    return results


_pairwise_bandwidth = ClosedForm("pairwise_bandwidth", _evaluate_bandwidth)


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    weights, *layers = tensors
    numbers, rules = [int(number) for number in options[: len(layers)]], list(map(_rule, options[len(layers) :]))
    if not asks(weights) and fits(len(weights), numbers):
        return dense_form(layers, weights, numbers, rules, needed)
    factors = [_factor(*settings) for settings in zip(layers, rules, numbers, strict=True)]
    if any(map(_unknown, factors)):
        return _nothing(weights.new_tensor(math.nan), tensors, needed)
    mixed, gradients = _sweep(factors, weights, numbers, differentiate=any(needed[1:]))
    value = (weights * mixed).sum(dtype=torch.float64).clamp_(min=0)  # rounding could be below
    results = [value.to(weights.dtype)]
    if needed[0]:
        results.append((2 * mixed).to(weights.dtype))
    per_layer = zip(layers, factors, gradients, needed[1:], strict=False)  # none at all where none is needed
    return results + [_whole(factor, gradient).to(layer) for layer, factor, gradient, need in per_layer if need]


def _factor(features: Tensor, rule: Bandwidth, num_kernels: int = 1) -> Factor:
    """The distances of the rows of `features`, for that many kernels."""
    if asks(features):
        return Distances(features, rule, narrowest=2.0 ** (num_kernels // 2 - num_kernels + 1))
    return QueuedDistances(features, rule)


def _unknown(factor: Factor) -> bool:
    """Whether the host knows that a feature is not finite. If not, all results become NaN anyway."""
    return isinstance(factor.bandwidth, float) and not math.isfinite(factor.bandwidth)


def _nothing(nan: Tensor, tensors: list[Tensor], needed: list[bool]) -> list[Tensor]:
    """The result for features that are not finite."""
    return [nan, *(nan.expand_as(tensor).clone() for tensor, need in zip(tensors, needed, strict=True) if need)]


def _whole(factor: Factor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the features, from that with respect to their rows at a constant bandwidth."""
    if factor.moves:
        along = (factor.rows * gradient).sum(dtype=torch.float64)
        known: Rate = float(along) if isinstance(factor, Distances) else along
        factor.add_bandwidth_gradient(gradient, -known / (2 * factor.bandwidth))
    return gradient if isinstance(factor.size, float) and factor.size == 1 else gradient / factor.size


_quadratic_form = ClosedForm("gaussian_quadratic_form", _evaluate)


def _evaluate_classes(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    features = tensors[0]
    number, differentiate = int(options[0]), needed[0]
    factor = _factor(features, _rule(options[1]), number)
    if _unknown(factor):
        return _nothing(features.new_tensor(math.nan), tensors, needed)
    classes, weights, alike, unlike = (tensor.to(factor.rows) for tensor in tensors[1:])
    rate = 2.0 ** -(number // 2) / factor.bandwidth
    pull = _Pull(factor.rows, 4 / number * rate)
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for rows, columns in factor.tiles:
        kernel, slope = _gaussians(factor, (rows, columns), rate, number, differentiate=differentiate)
        left, right = part(weights, rows), part(weights, columns).T
        # a comparison of floats into floats takes a tenth of the time of one into booleans
        same = torch.eq(part(classes, rows).unsqueeze(1), part(classes, columns), out=torch.empty_like(kernel))
        pairs = torch.addcmul(left @ unlike @ right, same, left @ (alike - unlike) @ right)
        times = 1 if rows == columns else 2  # the tile below the diagonal is this one turned over
        total = total + times * torch.dot(kernel.flatten(), pairs.flatten())
        if differentiate:
            pull.add(pairs.mul_(slope), rows, columns)
    results = [(total / number).to(features.dtype)]
    return [*results, _whole(factor, pull.result()).to(features)] if differentiate else results


_class_form = ClosedForm("gaussian_class_form", _evaluate_classes)


def _sweep(
    factors: list[Factor], weights: Tensor, num_kernels: list[int], *, differentiate: bool
) -> tuple[Tensor, list[Tensor]]:
    """``K W``, and the gradients of ``trace(W' K W)`` for the rows of each factor, from one pass over the tiles."""
    dtype = torch.float64 if any(factor.rows.dtype == torch.float64 for factor in factors) else weights.dtype
    w = weights.to(dtype)
    share = 1 / math.prod(num_kernels)  # the kernels are summed, and averaged here
    rates = [2.0 ** -(number // 2) / factor.bandwidth for number, factor in zip(num_kernels, factors, strict=True)]
    scales = [4 * share * rate for rate in rates]
    mixed = _Product(w, share)
    pulls = [_Pull(factor.rows, scale) for factor, scale in zip(factors, scales, strict=True) if differentiate]
    product = _one_gaussian if set(num_kernels) == {1} else _several_gaussians
    for rows, columns in factors[0].tiles:
        kernel, slopes = product(factors, (rows, columns), rates, num_kernels, dtype, differentiate=differentiate)
        mixed.add(kernel, rows, columns)
        if differentiate:
            pairs = torch.mm(part(w, rows), part(w, columns).T)
            for pull, slope in zip(pulls, slopes, strict=True):
                pull.add(pairs * slope, rows, columns)
    return mixed.total, [pull.result() for pull in pulls]


def _several_gaussians(
    factors: list[Factor],
    tile: tuple[Span, Span],
    rates: list[Rate],
    num_kernels: list[int],
    dtype: torch.dtype,
    *,
    differentiate: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The product of the layers' kernels, and its negative derivative with respect to ``rate D`` of each."""
    each = [
        _gaussians(factor, tile, rate, number, differentiate=differentiate)
        for factor, rate, number in zip(factors, rates, num_kernels, strict=True)
    ]
    kernels, slopes = [kernel.to(dtype) for kernel, _ in each], [slope for _, slope in each]
    others = [kernels[:index] + kernels[index + 1 :] for index in range(len(kernels))]
    slopes = [functools.reduce(torch.mul, *pair) for pair in zip(others, slopes, strict=True)] if differentiate else []
    return functools.reduce(torch.mul, kernels), slopes


def _one_gaussian(
    factors: list[Factor],
    tile: tuple[Span, Span],
    rates: list[Rate],
    _: list[int],
    dtype: torch.dtype,
    *,
    differentiate: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The same where each layer has one kernel: their product has one exponential."""
    distances = [factor.tile(*tile).to(dtype) for factor in factors]
    exponents = [torch.mul(each, -rate / _LN2) for each, rate in zip(distances, rates, strict=True)]
    kernel = functools.reduce(Tensor.add_, exponents).exp2_()
    slopes = [
        kernel.masked_fill(each == 0, 0) if differentiate and factor.exact else kernel
        for factor, each in zip(factors, distances, strict=True)
    ]
    return kernel, slopes


def _gaussians(
    factor: Factor, tile: tuple[Span, Span], rate: Rate, num_kernels: int, *, differentiate: bool
) -> tuple[Tensor, Tensor]:
    """The sum of the kernels ``exp(-2^s rate D)``, and its negative derivative with respect to ``rate D``."""
    distances = factor.tile(*tile)
    kernel = torch.mul(distances, -rate / _LN2).exp2_()
    if num_kernels == 1:
        return kernel, kernel
    power = kernel * kernel
    slope = torch.add(kernel, power, alpha=2) if differentiate else kernel
    kernel += power
    for s in range(2, num_kernels):
        if s % _SQUARINGS:
            power *= power
        else:
            torch.mul(distances, -rate * 2.0**s / _LN2, out=power).exp2_()
        kernel += power
        if differentiate:
            slope.add_(power, alpha=2.0**s)
    if differentiate and factor.exact:  # where x_i = x_j a huge slope would only multiply rounding
        slope.masked_fill_(distances == 0, 0)
    return kernel, slope


class _Product:
    """`scale` times a symmetric matrix, given tile by tile of its upper triangle, times some columns."""

    def __init__(self, columns: Tensor, scale: float) -> None:
        self._columns, self._scale = columns, scale
        self.total = torch.empty_like(columns)

    def add(self, tile: Tensor, i: Span, j: Span) -> None:
        first = i[0] == 0  # row by row, the tiles of the first row reach each span of the total first
        part(self.total, j).addmm_(tile.T, part(self._columns, i), beta=0 if first else 1, alpha=self._scale)
        if i != j:
            part(self.total, i).addmm_(tile, part(self._columns, j), alpha=self._scale)


class _Pull(_Product):
    """``scale * sum over j of F_ij (x_j - x_i)`` for a symmetric F, given in the same way."""

    def __init__(self, columns: Tensor, scale: Rate) -> None:
        super().__init__(columns, scale if isinstance(scale, float) else 1.0)
        self._left: Rate = 1.0 if isinstance(scale, float) else scale  # a product takes numbers alone as its factor

    def result(self) -> Tensor:
        return self.total.mul_(self._left) if isinstance(self._left, Tensor) else self.total

    def add(self, tile: Tensor, i: Span, j: Span) -> None:
        tile = tile.to(self.total.dtype)  # one layer may be in float64, and another not
        super().add(tile, i, j)
        part(self.total, j).addcmul_(tile.sum(0).unsqueeze(1), part(self._columns, j), value=-self._scale)
        if i != j:
            part(self.total, i).addcmul_(tile.sum(1, keepdim=True), part(self._columns, i), value=-self._scale)
