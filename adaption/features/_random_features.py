r"""MMD in constant memory: sums of random features, whose products are the kernel on average.

By Bochner's theorem :math:`e^{-a |x - y|^2} = \mathbb{E} \cos(w^\top (x - y))` with normal frequencies `w` of variance
`2 a` (A. Rahimi, B. Recht: Random Features for Large-Scale Kernel Machines, NIPS 2007). For each frequency, the sums of
:math:`e^{i w^\top x}` over the samples of a domain are all that its share of the MMD needs. They add up over batches
and ranks, and the product of a sample with itself is exactly 1, as in the kernel.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from adaption import _checks
from adaption._host import readable
from adaption._precision import full_precision
from adaption._states import sum_dtype

_SEED = 0  # one draw for all metrics, ranks and runs, so that sums of one add to those of another

_LARGE = 64  # radians; float32 has angles of up to as much to 4e-6


def _frequencies(features: Tensor, number: int, num_kernels: int, bandwidth: float) -> Tensor:
    """Frequencies ``(width, number)`` in float64, that of column j for the kernel j modulo `num_kernels`."""
    return _drawn(features.shape[1], number, num_kernels, bandwidth, features.device)


@functools.lru_cache(maxsize=8)  # a step of training has the width of the one before
def _drawn(width: int, number: int, num_kernels: int, bandwidth: float, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    normal = torch.randn((width, number), generator=generator, dtype=torch.float64)
    rates = 2.0 ** (torch.arange(number) % num_kernels - num_kernels // 2).double() / bandwidth
    return (normal * (2 * rates).sqrt()).to(device=device, dtype=sum_dtype(device))


# torch.compile would trace the generator
_opaque = torch.library.custom_op(
    "adaption::random_frequencies",
    _frequencies,
    mutates_args=(),
    schema="(Tensor features, int number, int num_kernels, float bandwidth) -> Tensor",
)
_opaque.register_fake(
    lambda features, number, *_: features.new_empty((features.shape[1], number), dtype=sum_dtype(features.device))
)


@full_precision
def feature_sums(features: Tensor, number: int, num_kernels: int, bandwidth: float) -> Tensor:
    """The sums of the cosines, and then of the sines, of all frequencies, shape ``(number,)``."""
    draw = _opaque if torch.compiler.is_compiling() else _frequencies
    phases = _phases(features, draw(features.detach(), number // 2, num_kernels, float(bandwidth)))
    return torch.cat([phases.cos().sum(0), phases.sin().sum(0)])


def _phases(features: Tensor, frequencies: Tensor) -> Tensor:
    """Angles modulo one turn, accurate to their dtype even where features lie far from the origin.

    That needs float64, which takes twice the time. On the CPU it is used only where needed.
    """
    if readable(features):
        phases = features @ frequencies.to(features.dtype)
        if features.dtype == frequencies.dtype or not bool(phases.detach().abs().amax() > _LARGE):
            return phases
    return ((features.to(frequencies.dtype) @ frequencies) % (2 * math.pi)).to(features.dtype)


def discrepancy(
    source: Tensor, target: Tensor, num_source: Tensor, num_target: Tensor, num_kernels: int, *, unbiased: bool
) -> tuple[Tensor, Tensor]:
    """The MMD from sums of features, and its standard error over the random frequencies."""
    s, t = source.unflatten(0, (2, -1)), target.unflatten(0, (2, -1))  # cosines and sines of each frequency
    if unbiased:
        within_source = (s.square().sum(0) - num_source) / (num_source * (num_source - 1))
        within_target = (t.square().sum(0) - num_target) / (num_target * (num_target - 1))
        shares = within_source + within_target - 2 * (s * t).sum(0) / (num_source * num_target)
    else:
        shares = (s / num_source - t / num_target).square().sum(0)
    kernels = [shares[kernel::num_kernels] for kernel in range(num_kernels)]
    value = torch.stack([kernel.mean() for kernel in kernels]).mean()
    variances = torch.stack([kernel.detach().var() / len(kernel) for kernel in kernels])
    return value, variances.sum().sqrt() / num_kernels


def check(pooled: object, number: int, num_kernels: int, bandwidth: str | float, estimator: str) -> None:
    """Check `pooled`, and the settings that random features need."""
    if not isinstance(pooled, bool) and not (isinstance(pooled, str) and pooled == "random_features"):
        msg = f'`pooled` must be True, False or "random_features", but got {pooled!r}. Pass one of them.'
        raise (ValueError if isinstance(pooled, str) else TypeError)(msg)
    drawn = isinstance(pooled, str)
    _checks.count("num_random_features", number, at_least=4 * num_kernels if drawn else 2)
    if number % 2:
        msg = f"`num_random_features` must be even, a cosine and a sine of each frequency, but got {number}. Add one."
        raise ValueError(msg)
    if drawn and isinstance(bandwidth, str):
        msg = (
            '`bandwidth` must be a number with `pooled="random_features"`, whose frequencies are drawn for one '
            f"bandwidth, but got {bandwidth!r}. Pass the median of a reference batch, by `functional.median_bandwidth`."
        )
        raise ValueError(msg)
    if drawn and estimator == "linear":
        msg = (
            '`estimator` must be "biased" or "unbiased" with `pooled="random_features"`, which knows no pairs of '
            'samples, but got "linear". Choose one of them.'
        )
        raise ValueError(msg)


def check_unweighted(source_weights: Tensor | None, target_weights: Tensor | None) -> None:
    """Sums of features have no weighted form."""
    for name, weights in (("source_weights", source_weights), ("target_weights", target_weights)):
        if weights is not None:
            msg = (
                f'`{name}` must be None with `pooled="random_features"`, which has no weighted form, but got weights. '
                "Choose `pooled=True` or drop the weights."
            )
            raise ValueError(msg)
