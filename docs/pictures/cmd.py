"""CMD: densities that share two moments, the terms of the loss for each, and what the batch size does to the log."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from adaption import CentralMomentDiscrepancyLoss
from adaption.functional import central_moment_discrepancy
from pictures.style import GREY, SOURCE, TARGET, over_batch_sizes, panels

CENTRE, SPREAD = 0.3, 0.2


def skewed(size: int) -> Tensor:
    """Return samples of a beta distribution with mean and spread as below."""
    total = CENTRE * (1 - CENTRE) / SPREAD**2 - 1
    return torch.distributions.Beta(CENTRE * total, (1 - CENTRE) * total).sample((size, 1))


def even(size: int) -> Tensor:
    """Return two heaps at equal distances from the centre, with the same mean and spread."""
    return CENTRE + SPREAD * (2 * torch.randint(2, (size, 1)) - 1) * 0.96 + 0.056 * torch.randn(size, 1)


def logged(size: int) -> tuple[float, float]:
    """Return the mean of the values of batches of equal domains, and the epoch value, of 1,024 samples a side."""
    cmd = CentralMomentDiscrepancyLoss()
    values = [cmd(torch.rand(size, 16), torch.rand(size, 16)) for _ in range(1024 // size)]
    return torch.stack(values).mean().item(), cmd.compute().item()


def draw() -> Figure:
    """Left: two densities; middle: the terms of the loss; right: the logged value over the batch size."""
    torch.manual_seed(0)
    figure, (densities, terms, curve) = panels(3)
    source, target = skewed(100_000), even(100_000)
    for samples, color, name in ((source, SOURCE, "source"), (target, TARGET, "target")):
        densities.hist(samples.squeeze(1).numpy(), bins=80, density=True, color=color, alpha=0.6, label=name)
    densities.set(title="equal means and variances", yticks=[], xlabel="a feature")
    densities.legend()
    sums = torch.stack([central_moment_discrepancy(source, target, num_moments=k) for k in range(1, 6)])
    terms.bar(range(1, 6), sums.diff(prepend=torch.zeros(1)), color=GREY)
    terms.set(title="what each moment adds", xlabel="moment")
    over_batch_sizes(curve, logged)
    return figure
