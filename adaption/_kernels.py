r"""Gaussian kernels, the bandwidth rule, and the quadratic form :math:`w^\top K w` with its gradient.

Everything an estimator of the MMD needs is a sum of such forms, :math:`\operatorname{tr} W^\top K W` with few columns.

With squared distances :math:`D_{ij} = |x_i - x_j|^2`, a bandwidth :math:`b` and `k` kernels

.. math:: K_{ij} = \frac1k \sum_{s=0}^{k-1} e^{-2^{s - \lfloor k/2 \rfloor} D_{ij} / b}.

The scales are powers of two, so each exponential is the square of the one before. With
:math:`P_{ij} = (W W^\top)_{ij} \, \partial K_{ij} / \partial D_{ij}` the gradient of the form is

.. math:: \nabla_{x_i} = 4 \sum_j P_{ij} (x_i - x_j), \qquad \nabla_W = 2 K W,

and comes out of the same pass as the value. The bandwidth is a constant of the differentiation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from adaption._closed_form import ClosedForm

Bandwidth = str | float

# |x|^2 + |y|^2 - 2xy loses the digits by which the bandwidth is smaller than the largest |x|^2. Beyond this ratio the
# distances are taken from the differences themselves, in float64.
_SAFE_RATIO = 1 / 32
# The relative error of an exponential doubles at each squaring: every so many kernels a fresh exponential is taken.
_SQUARINGS = 5
_RULES = {"median": -1.0, "mean": -2.0}


def quadratic_form(layers: Sequence[Tensor], weights: Tensor, num_kernels: int, bandwidth: Bandwidth) -> Tensor:
    """``trace(W' K W)`` with the kernel ``K`` of the rows of `layers`, multiplied over the layers.

    Args:
        layers: one tensor of shape ``(N, d)`` per layer.
        weights: one or more weights per row, shape ``(N, r)``.
        num_kernels: number of Gaussians per layer.
        bandwidth: ``"median"`` or ``"mean"`` of the off-diagonal squared distances, or their place in numbers.
    """
    return _quadratic_form([weights, *layers], [num_kernels, _code(bandwidth)])


def pairwise_bandwidth(features: Tensor, bandwidth: Bandwidth) -> Tensor:
    """The bandwidth that `bandwidth` names for the rows of `features`, a constant of differentiation."""
    with torch.no_grad():
        if torch.compiler.is_compiling():
            traced: Tensor = _opaque_bandwidth(features, _code(bandwidth))
            return traced
        return _bandwidth(features, _code(bandwidth))


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
    return _RULES[bandwidth] if isinstance(bandwidth, str) else bandwidth


def _bandwidth(features: Tensor, code: float) -> Tensor:
    _, _, bandwidth, size = _distances(features, code)
    return (bandwidth * size**2).to(features.dtype)


_opaque_bandwidth = torch.library.custom_op(
    "adaption::pairwise_bandwidth", _bandwidth, mutates_args=(), schema="(Tensor features, float code) -> Tensor"
)
_opaque_bandwidth.register_fake(lambda features, _code: features.new_empty(()))


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """The rows moved to their mean and scaled to entries of at most 1, and the size they were divided by.

    Far from the origin the products below would cancel, and tiny or huge features leave the range of float32. The first
    row is taken off first, so that equal rows end at 0 exactly.
    """
    points = features - features[0]
    points = points - points.mean(0)
    size = points.abs().amax()
    size = torch.where(size > 0, size, torch.ones_like(size))
    return points / size, size


def _distances(features: Tensor, code: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centred rows, squared distances between them, bandwidth and size; in float64 where float32 would not do."""
    points, size = _centred(features)
    norms = points.square().sum(1)
    distances = torch.addmm(norms[:, None] + norms, points, points.T, alpha=-2).clamp_(min=0)
    bandwidth = _bandwidth_of(distances, code, size)
    if not bool(bandwidth < norms.max() * _SAFE_RATIO):  # NaN stays on this side
        return points, distances, bandwidth, size
    points, size = _centred(features.double())
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    return points, distances, _bandwidth_of(distances, code, size), size


def _bandwidth_of(distances: Tensor, code: float, size: Tensor) -> Tensor:
    if code > 0:
        return code / size.to(distances.dtype).square()
    n = len(distances)
    rows, columns = torch.triu_indices(n, n, offset=1, device=distances.device)
    pairs = distances[rows, columns]
    return usable(pairs, pairs.median() if code == _RULES["median"] else pairs.mean())


def _kernel(distances: Tensor, bandwidth: Tensor, num_kernels: int) -> tuple[Tensor, Tensor]:
    """The mean of the kernels and its derivative by the squared distance."""
    kernel = torch.zeros_like(distances)
    slope = torch.zeros_like(distances)
    power = kernel
    for s in range(num_kernels):
        rate = 2.0 ** (s - num_kernels // 2) / bandwidth
        power = torch.exp(distances * -rate) if s % _SQUARINGS == 0 else power.square()
        kernel += power
        slope -= rate * power
    return kernel / num_kernels, slope / num_kernels


def _evaluate(tensors: list[Tensor], needed: list[bool], options: list[float]) -> list[Tensor]:
    weights, *layers = tensors
    num_kernels, code = int(options[0]), options[1]
    kernels, slopes, centred = [], [], []
    for layer in layers:
        points, distances, bandwidth, size = _distances(layer, code)
        kernel, slope = _kernel(distances, bandwidth, num_kernels)
        kernels.append(kernel)
        slopes.append(slope)
        centred.append((points, size))
    product = functools.reduce(torch.mul, kernels)
    w = weights.to(product.dtype)
    mixed = product @ w
    results = [(w * mixed).sum().to(weights.dtype)]
    if needed[0]:
        results.append((2 * mixed).to(weights.dtype))
    for index, (layer, (points, size)) in enumerate(zip(layers, centred, strict=True)):
        if needed[index + 1]:
            others = [k for i, k in enumerate(kernels) if i != index]
            pull = functools.reduce(torch.mul, [slopes[index], *others]) * (w @ w.T)
            rows = points.to(pull.dtype)  # one layer may need float64 where another does not
            results.append((4 * (pull.sum(1, keepdim=True) * rows - pull @ rows) / size).to(layer.dtype))
    return results


_quadratic_form = ClosedForm("gaussian_quadratic_form", _evaluate)
